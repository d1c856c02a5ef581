"""`flux2-mcp install`, and then the real clients: each finds the server, starts it, and says that it is connected.

`make test-hosts`; not part of `make test`, for it fetches clients of up to 400 MB, once.
"""

from __future__ import annotations

import json
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flux2_mcp.hosts import entry, files
from flux2_mcp.hosts.plan import Machine
from flux2_mcp.hosts.table import SYSTEM_VARIABLES, VARIABLES, host
from tests.real_hosts.clients import CLIENT_SECONDS, client, environment, fetched, offline
from tests.support.asleep import Witness, needs_proc

PROGRAM = str(Path(sys.executable).with_name("flux2-mcp"))
TOOLS = ["generate", "check_task", "check_pricing", "list_variants"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


def flux2(env: dict[str, str], cwd: Path, *arguments: str) -> str:
    done = subprocess.run(
        [PROGRAM, *arguments], env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=CLIENT_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def held(home: Path, name: str) -> Any:  # noqa: ANN401  # whatever a file holds
    [path] = Machine(system="Linux", env={"HOME": str(home)}, workspace=None).files(host(name), "user")
    return entry.standing(host(name), files.read(path).text or "", "flux-2")


def test_claude_codes_own_command_line_takes_the_entry_and_claude_connects(home: Path) -> None:
    env = environment(home, "claude")
    assert "added to" in (told := flux2(env, home, "install", "--detect"))
    assert "by claude mcp add-json --scope user flux-2 -." in told
    assert held(home, "claude-code") == entry.whole(host("claude-code"), [PROGRAM])
    listed = client("claude", "mcp", "list", env=env, cwd=home)
    assert re.search(r"^flux-2: .* - ✔ Connected$", listed.stdout, re.MULTILINE), listed.stdout
    assert "as it should" in flux2(env, home, "install", "claude-code")
    assert "by claude mcp remove" in flux2(env, home, "install", "claude-code", "--uninstall")
    assert held(home, "claude-code") is None


def test_claude_code_connects_after_an_edit_just_the_same(home: Path) -> None:
    (home / ".claude.json").write_text('{\n\t"theme": "dark"\n}\n')
    without = {"HOME": str(home), "PATH": ""}
    assert "by an edit" in flux2(without, home, "install", "claude-code")
    assert held(home, "claude-code") == entry.whole(host("claude-code"), [PROGRAM])
    listed = client("claude", "mcp", "list", env=environment(home), cwd=home)
    assert re.search(r"^flux-2: .* - ✔ Connected$", listed.stdout, re.MULTILINE), listed.stdout


def test_claude_code_finds_a_projects_entry_and_asks_its_user(home: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    env = environment(home, "claude")
    flux2(env, project, "install", "claude-code", "copilot", "--scope", "project")
    told = client("claude", "mcp", "get", "flux-2", env=env, cwd=project).stdout
    assert "Scope: Project config" in told
    assert f"Command: {PROGRAM}" in told
    assert "Timeout: 960000ms" in told


def test_claude_code_leaves_a_file_with_comments_alone_and_so_do_we(home: Path) -> None:
    (home / ".claude.json").write_text("{\n  // mine\n}\n")
    env = environment(home, "claude")
    assert (
        "Configuration error" in (listed := client("claude", "mcp", "list", env=env, cwd=home)).stdout + listed.stderr
    )
    done = subprocess.run(
        [PROGRAM, "install", "claude-code"], env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, "line 2: a comment" in done.stderr) == (4, True)
    assert (home / ".claude.json").read_text() == "{\n  // mine\n}\n"


def test_gemini_cli_connects_beside_what_was_in_its_settings(home: Path) -> None:
    settings = home / ".gemini/settings.json"
    settings.parent.mkdir()
    settings.write_text('{\n  // mine\n  "mcpServers": {}\n}\n')
    env = environment(home, GEMINI_CLI_TRUST_WORKSPACE="true")
    flux2(env, home, "install", "--detect")
    assert settings.read_text().startswith('{\n  // mine\n  "mcpServers": {\n    "flux-2": {\n')
    listed = client("gemini", "mcp", "list", env=env, cwd=home)
    assert re.search(r"✓ flux-2: .* - Connected", listed.stdout + listed.stderr), listed.stderr


def test_opencode_connects_beside_what_was_in_its_settings(home: Path) -> None:
    settings = home / ".config/opencode/opencode.jsonc"
    settings.parent.mkdir(parents=True)
    mine = '{\n  "$schema": "https://opencode.ai/config.json",\n  "theme": "dark", // mine\n'
    settings.write_text(f"{mine}}}\n")  # without a schema, opencode writes it in by itself
    env = environment(home)
    flux2(env, home, "install", "--detect")
    listed = client("opencode", "mcp", "list", env=env, cwd=home)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", listed.stdout + listed.stderr)
    assert re.search(r"✓ flux-2\s+connected", plain), plain
    assert settings.read_text().startswith(f'{mine}  "mcp": {{\n')


def test_copilot_cli_shows_the_entry(home: Path) -> None:
    (home / ".copilot").mkdir()
    env = environment(home)
    flux2(env, home, "install", "--detect")
    shown = json.loads(client("copilot", "mcp", "get", "flux-2", "--json", env=env, cwd=home).stdout)["flux-2"]
    assert entry.changes(host("copilot"), [PROGRAM], shown) == {}
    assert (shown["source"], shown["enabled"]) == ("user", True)


def test_codex_shows_the_entry(home: Path) -> None:
    (home / ".codex").mkdir()
    (home / ".codex/config.toml").write_text("# mine\n[tui]\nnotifications = true\n")
    env = environment(home)
    flux2(env, home, "install", "--detect")
    shown = json.loads(client("codex", "mcp", "get", "flux-2", "--json", env=env, cwd=home).stdout)
    assert shown["enabled"] is True
    assert shown["transport"] == {
        "type": "stdio", "command": PROGRAM, "args": [], "env": None, "env_vars": [*VARIABLES, *SYSTEM_VARIABLES], "cwd": None,
    }  # fmt: skip
    assert (shown["startup_timeout_sec"], shown["tool_timeout_sec"]) == (60, 960)


class AppServer:
    """Codex's app-server: JSON lines over stdio."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._last = 0
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def send(self, **message: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """The result of one request; what else is told meanwhile is passed over."""
        self._last += 1
        self.send(id=self._last, method=method, params=params)
        until = time.monotonic() + CLIENT_SECONDS
        while True:
            line = self._lines.get(timeout=until - time.monotonic())
            answer = json.loads(line) if line.startswith("{") else {}
            if answer.get("id") == self._last and "method" not in answer:
                result: dict[str, Any] = answer["result"]
                return result


@contextmanager
def app_server(env: dict[str, str], cwd: Path) -> Iterator[AppServer]:
    command = [*offline(), str(fetched("codex")), "app-server"]
    with subprocess.Popen(
        command, env=env, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            server = AppServer(process)
            server.call("initialize", clientInfo={"name": "tests", "title": "tests", "version": "1"})
            server.send(method="initialized")
            yield server
            assert process.stdin is not None
            process.stdin.close()
            process.wait(CLIENT_SECONDS)
        finally:
            process.kill()


def test_codex_calls_generate_through_the_entry_and_gets_the_images_path(home: Path, tmp_path: Path) -> None:
    (home / ".codex").mkdir()
    # Codex hands its servers no variable that the entry does not name: that the image lands here shows that it does.
    env = environment(home, FLUX2_HOME=str(tmp_path / "elsewhere"), FLUX2_SANDBOX_SPEED="1000")
    flux2(env, home, "install", "codex")
    with app_server(env, home) as codex:
        [status] = codex.call("mcpServerStatus/list")["data"]
        assert (status["name"], sorted(status["tools"])) == ("flux-2", sorted(TOOLS))
        thread = codex.call("thread/start", cwd=str(home))["thread"]["id"]
        arguments = {"prompt": "a red fox in snow"}
        called = codex.call(
            "mcpServer/tool/call", threadId=thread, server="flux-2", tool="generate", arguments=arguments
        )
    path = Path(
        json.loads(called["content"][0]["text"])["tasks"][0]["images"][0]["path"]
    )  # it shows the structured answer
    assert path.parent == tmp_path / "elsewhere/images"
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("PNG", (1024, 1024))


LISTS = {
    "claude-code": ("claude", ".claude.json"),
    "gemini": ("gemini", ".gemini/settings.json"),
    "opencode": ("opencode", ".config/opencode/opencode.json"),
}


@needs_proc
@pytest.mark.parametrize("name", LISTS)
def test_a_client_that_only_looks_wakes_nobody(name: str, home: Path) -> None:
    program, file = LISTS[name]
    path = home / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    flux2({"HOME": str(home), "PATH": ""}, home, "install", name)
    witness = Witness(home, PROGRAM)
    path.write_text(path.read_text("utf-8").replace(PROGRAM, str(witness.command)), "utf-8")
    client(program, "mcp", "list", env=environment(home, GEMINI_CLI_TRUST_WORKSPACE="true"), cwd=home)
    assert set(witness.told()) == {"asleep"}


@needs_proc
def test_codex_lists_the_tools_of_a_server_that_sleeps_on_until_a_call(home: Path) -> None:
    (home / ".codex").mkdir()
    env = environment(home, FLUX2_SANDBOX_SPEED="1000")
    flux2(env, home, "install", "codex")
    witness, path = Witness(home, PROGRAM), home / ".codex/config.toml"
    path.write_text(path.read_text("utf-8").replace(PROGRAM, str(witness.command)), "utf-8")
    with app_server(env, home) as codex:
        [status] = codex.call("mcpServerStatus/list")["data"]
        assert sorted(status["tools"]) == sorted(TOOLS)
    assert set(witness.told()) == {"asleep"}
    with app_server(env, home) as codex:
        thread = codex.call("thread/start", cwd=str(home))["thread"]["id"]
        codex.call("mcpServer/tool/call", threadId=thread, server="flux-2", tool="list_variants", arguments={})
    assert "awake" in witness.told()


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_inspector_agrees_with_the_entrys_command_in_both_eras(home: Path, era: str) -> None:
    env = environment(home)
    arguments = ("--cli", "--protocol-era", era, PROGRAM, "--method", "tools/list", "--strict")
    listed = client("mcp-inspector", *arguments, env=env, cwd=home)
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert [tool["name"] for tool in json.loads(listed.stdout)["tools"]] == TOOLS


def test_doctor_finds_all_of_them_well(home: Path) -> None:
    for folder in (".codex", ".config/opencode", ".copilot", ".gemini"):
        (home / folder).mkdir(parents=True)
    (home / ".gemini/settings.json").write_text("{}")
    env = environment(home, "claude")
    flux2(env, home, "install", "--detect")
    report = json.loads(flux2(env, home, "doctor", "--json", "--timeout", "120"))
    hosts = {check["check"]: check["detail"] for check in report["checks"] if "answers in" in check["detail"]}
    assert {"claude-code", "codex", "gemini", "copilot", "opencode"} <= set(hosts)
