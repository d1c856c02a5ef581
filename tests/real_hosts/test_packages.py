"""The packages in their real clients: validated, installed into a home of their own, and the server in each connects.

`make test-hosts`; not part of `make test`, for it fetches clients of up to 400 MB, once. What a bundle or `install.sh` fetches
comes from the package index; where that can't be reached, those tests are skipped and say so.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from flux2_mcp.hosts.table import START_SECONDS, TOOL_SECONDS
from packages import facts
from packages.manifests import AGENT_PLUGIN, PLUGIN
from tests.real_hosts.clients import CLIENT_SECONDS, client, environment, fetched
from tests.real_hosts.test_real_hosts import TOOLS, app_server

ROOT = facts.ROOT
BIN = Path(sys.executable).parent
INDEX_SECONDS = 300.0
CERTIFICATES = {name: os.environ[name] for name in ("SSL_CERT_FILE", "PIP_CERT") if name in os.environ}
"""What a machine behind a proxy needs to reach its package index. uv knows pip's name for it under another."""
HELLO = [
    {
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}},
    },
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
]  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (home := tmp_path / "home").mkdir()
    return home


def at_home(home: Path, *programs: str, **more: str) -> dict[str, str]:
    """The environment of a client that finds `flux2-mcp` on the PATH, as after `install.sh`."""
    (bin_ := home / "bin").mkdir(exist_ok=True)
    if not (bin_ / "flux2-mcp").exists():
        (bin_ / "flux2-mcp").symlink_to(BIN / "flux2-mcp")
    env = environment(home, *programs, **more)
    return env | {"PATH": f"{bin_}:{env['PATH']}"}


def ran(program: str, *arguments: str, env: dict[str, str], cwd: Path) -> str:
    done = client(program, *arguments, env=env, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def as_told(host: str, env: dict[str, str], *more: str) -> str:
    """Run what docs/hosts.md says for a host, in the checkout. The last command gets `more`, so that it asks nobody."""
    [row] = re.findall(rf"^\| {host} \| (.*) \|$", (ROOT / "docs/hosts.md").read_text("utf-8"), re.MULTILINE)
    commands = [shlex.split(command.removeprefix("npx ")) for command in re.findall(r"`([^`]+)`", row)]
    commands[-1] += more
    return "".join(ran(*command, env=env, cwd=ROOT) for command in commands)


def from_the_index(*command: str, env: dict[str, str], cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """One command that may fetch packages."""
    uv = {"SSL_CERT_FILE": CERTIFICATES["PIP_CERT"]} if "PIP_CERT" in CERTIFICATES else {}
    done = subprocess.run(
        command, env=uv | CERTIFICATES | env, cwd=cwd, input=stdin, capture_output=True, text=True, check=False,
        timeout=INDEX_SECONDS,
    )  # fmt: skip
    if re.search(r"Failed to fetch|No matching distribution found", done.stderr):
        pytest.skip(f"the package index can't be reached: {done.stderr.splitlines()[0]}")
    return done


# --- the desktop bundle -----------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(home: Path, tmp_path: Path) -> Path:
    """The bundle, packed from a clean checkout and unpacked as Claude Desktop does."""
    source, packed, unpacked = tmp_path / "checkout", tmp_path / "flux-2.mcpb", tmp_path / "bundle"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    told = ran("mcpb", "pack", str(source), str(packed), env=environment(home), cwd=home)
    assert "Manifest schema validation passes!" in told
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(unpacked)  # we packed it
    return unpacked


def test_the_bundles_manifest_is_valid_and_it_holds_the_server_and_no_more(home: Path, bundle: Path) -> None:
    told = ran("mcpb", "validate", str(ROOT / "manifest.json"), env=environment(home), cwd=home)
    assert "Manifest schema validation passes!" in told
    held = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    server = {path.relative_to(ROOT).as_posix() for path in (ROOT / "server").rglob("*") if path.is_file()}
    server = {path for path in server if "__pycache__" not in path}
    assert held == server | {"manifest.json", "pyproject.toml", "README.md", "LICENSE"}


def test_the_bundles_server_starts_from_where_it_was_unpacked_without_a_key(home: Path, bundle: Path) -> None:
    # mcpb's own reading of the manifest, where the user has filled in nothing.
    code = (
        "import {getMcpConfigForManifest as read} from '@anthropic-ai/mcpb';"
        "import {readFileSync} from 'node:fs';"
        "const [extensionPath] = process.argv.slice(1);"
        "const manifest = JSON.parse(readFileSync(extensionPath + '/manifest.json'));"
        "console.log(JSON.stringify(await read({manifest, extensionPath, systemDirs: {}, userConfig: {},"
        " pathSeparator: '/'})))"
    )
    env = environment(home)
    node = subprocess.run(
        [str(fetched("node")), "--input-type=module", "-e", code, str(bundle)],
        env=env, cwd=fetched("mcpb").parents[2], capture_output=True, text=True, check=True, timeout=CLIENT_SECONDS,
    )  # fmt: skip
    config: dict[str, Any] = json.loads(node.stdout)
    assert config["env"] == {"RUNAPI_API_KEY": ""}
    assert config["command"] == "uv"
    stdin = "".join(json.dumps(message) + "\n" for message in HELLO)
    env |= config["env"] | {"UV_PYTHON_DOWNLOADS": "never"}
    done = from_the_index(str(BIN / "uv"), *config["args"], env=env, cwd=home, stdin=stdin)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]  # stdout is the protocol's, uv or not
    [listed] = [answer["result"]["tools"] for answer in answers if answer.get("id") == 2]
    assert [tool["name"] for tool in listed] == TOOLS
    installed = {path.name for path in bundle.glob(".venv/lib/*/site-packages/*")}
    assert "httpx2" in installed
    assert "playwright" not in installed  # what only we need stays with us


# --- Claude Code ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [PLUGIN, "."])
def test_claude_code_finds_nothing_to_complain_of(home: Path, path: str) -> None:
    told = ran("claude", "plugin", "validate", "--strict", str(ROOT / path), env=environment(home), cwd=home)
    assert "Validation passed" in told


def test_claude_code_installs_the_plugin_and_its_server_connects_with_the_key_that_was_configured(home: Path) -> None:
    env = at_home(home)
    (home / "bin/flux2-mcp").unlink()
    spy = home / "bin/flux2-mcp"
    spy.write_text(f'#!/bin/sh\nprintenv RUNAPI_KEY > "$HOME/key"\nexec "{BIN}/flux2-mcp"\n')
    spy.chmod(0o755)
    as_told("Claude Code", env)
    connected = re.compile(r"^plugin:flux-2:flux-2: flux2-mcp +- ✔ Connected$", re.MULTILINE)
    assert connected.search(told := ran("claude", "mcp", "list", env=env, cwd=home)), told
    assert (home / "key").read_text() == "\n"  # nothing configured: empty, so the sandbox
    ran("claude", "plugin", "uninstall", "flux-2@flux2-mcp", env=env, cwd=home)
    ran("claude", "plugin", "install", "flux-2@flux2-mcp", "--config", "api_key=K1", env=env, cwd=home)
    assert connected.search(told := ran("claude", "mcp", "list", env=env, cwd=home)), told
    assert (home / "key").read_text() == "K1\n"


# --- Codex, and what else reads Agent Plugins -------------------------------------------------------------------------


def test_codex_installs_the_plugin_waits_as_long_as_it_says_and_its_server_makes_an_image(
    home: Path, tmp_path: Path
) -> None:
    (project := tmp_path / "project").mkdir()
    env = at_home(home, FLUX2_HOME=str(tmp_path / "elsewhere"), FLUX2_SANDBOX_SPEED="1000")
    as_told("Codex", env)
    shown = json.loads(client("codex", "mcp", "get", "flux-2", "--json", env=env, cwd=home).stdout)
    assert (shown["startup_timeout_sec"], shown["tool_timeout_sec"]) == (START_SECONDS, TOOL_SECONDS)
    with app_server(env, project) as codex:
        [status] = codex.call("mcpServerStatus/list")["data"]
        assert (status["name"], sorted(status["tools"])) == ("flux-2", sorted(TOOLS))
        thread = codex.call("thread/start", cwd=str(project))["thread"]["id"]
        called = codex.call(
            "mcpServer/tool/call", threadId=thread, server="flux-2", tool="generate", arguments={"prompt": "a red fox"}
        )
    path = Path(
        json.loads(called["content"][0]["text"])["tasks"][0]["images"][0]["path"]
    )  # it shows the structured answer
    assert path.parent == tmp_path / "elsewhere/images"
    assert path.is_file()


def test_copilot_takes_the_agent_plugin_with_its_server_and_its_skill(home: Path) -> None:
    env = at_home(home)
    assert "Installed 1 skill" in ran("copilot", "plugin", "install", str(ROOT / AGENT_PLUGIN), env=env, cwd=home)
    assert re.search(r"Plugin servers:\s+flux-2 \(local\)", ran("copilot", "mcp", "list", env=env, cwd=home))


# --- Gemini CLI -------------------------------------------------------------------------------------------------------


def test_gemini_cli_validates_the_extension_installs_it_and_its_server_connects(home: Path) -> None:
    env = at_home(home, GEMINI_CLI_TRUST_WORKSPACE="true")
    extension = str(ROOT / PLUGIN)
    assert "successfully validated" in ran("gemini", "extensions", "validate", extension, env=env, cwd=home)
    as_told("Gemini CLI", env, "--consent", "--skip-settings")
    told = ran("gemini", "mcp", "list", env=env, cwd=home)
    assert re.search(r"✓ flux-2 \(from flux-2\): flux2-mcp .*- Connected", told), told


# --- the skill --------------------------------------------------------------------------------------------------------


def test_the_skills_installer_finds_one_skill_in_the_repository_and_installs_all_of_it(home: Path) -> None:
    told = as_told("only the skill, for developers", environment(home), "-a", "claude-code", "codex", "-g", "-y")
    assert "Found 1 skill" in told
    assert "Installation complete" in told
    source = ROOT / PLUGIN / "skills/flux-2"
    for installed in (home / ".claude/skills/flux-2", home / ".agents/skills/flux-2"):
        for path in source.rglob("*.*"):
            assert (installed / path.relative_to(source)).read_bytes() == path.read_bytes()


# --- install.sh -------------------------------------------------------------------------------------------------------


def test_install_sh_goes_from_nothing_to_hosts_that_connect_and_all_the_way_back(home: Path, tmp_path: Path) -> None:
    (home / ".claude").mkdir()
    (config := home / ".codex/config.toml").parent.mkdir()
    config.write_text("# mine\n")
    (project := tmp_path / "project").mkdir()
    bare = {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    script = str(ROOT / "install/install.sh")
    done = from_the_index("sh", script, env=bare, cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "uv, from the package index" in done.stdout
    assert "All is well." in done.stdout
    program = home / ".local/bin/flux2-mcp"
    package = next((home / ".local/share/uv/tools/flux2-mcp/lib").glob("*/site-packages/flux2_mcp"))
    assert list(package.rglob("app.*.pyc"))
    assert list(project.iterdir()) == []
    listed = client("claude", "mcp", "list", env=environment(home), cwd=project)
    assert re.search(r"^flux-2: .* - ✔ Connected$", listed.stdout, re.MULTILINE), listed.stdout

    again = from_the_index("sh", script, env=bare, cwd=project)
    assert again.returncode == 0, again.stderr
    assert "stands in" in again.stdout

    images = home / ".local/share/flux2-mcp/images"
    subprocess.run([str(program), "generate", "a red fox"], env=bare | {"FLUX2_SANDBOX_SPEED": "100"}, check=True)
    undone = from_the_index("sh", script, "--uninstall", env=bare, cwd=project)
    assert undone.returncode == 0, undone.stderr
    assert config.read_text() == "# mine\n"
    assert not program.exists()
    assert not package.exists()
    assert not (home / ".local/share/flux2-mcp-uv").exists()
    assert "flux-2" not in (home / ".claude.json").read_text()
    assert len(list(images.iterdir())) == 1  # what was made is the user's
    with_uv = bare | {"PATH": f"{BIN}:{bare['PATH']}"}
    assert "was not installed" in from_the_index("sh", script, "--uninstall", env=with_uv, cwd=project).stdout


def test_install_sh_takes_back_what_it_began_where_the_source_can_not_be_installed(home: Path, tmp_path: Path) -> None:
    (broken := tmp_path / "broken").mkdir()
    (broken / "pyproject.toml").write_text('[project]\nname = "flux2-mcp"\n')  # no version
    bare = {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    done = from_the_index("sh", str(ROOT / "install/install.sh"), "--from", str(broken), env=bare, cwd=home)
    assert done.returncode != 0
    assert "stopped while installing flux2-mcp" in done.stderr
    assert "uv was taken back" in done.stderr
    assert not (home / ".local/share/flux2-mcp-uv").exists()
    assert not (home / ".local/bin/flux2-mcp").exists()
