"""Where hosts keep their servers on three systems, what starts ours, and the links that open a host. All without a disk."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from flux2_mcp.errors import HostFileError, InvalidRequestError
from flux2_mcp.hosts import command, entry, files, links, places
from flux2_mcp.hosts.plan import Machine
from flux2_mcp.hosts.table import SYSTEM_VARIABLES, SYSTEMS, TABLE, TOOL_SECONDS, VARIABLES, System, host
from flux2_mcp.server import clients
from flux2_mcp.settings import MAX_WAIT_SECONDS
from tests.support.rows import rows

HOMES: dict[System, dict[str, str]] = {
    "Linux": {"HOME": "/home/ada"},
    "Darwin": {"HOME": "/Users/ada"},
    "Windows": {"USERPROFILE": "C:\\Users\\ada", "HOME": "/c/ada", "APPDATA": "C:\\Users\\ada\\AppData\\Roaming"},
}
BARE: dict[System, str] = {"Linux": "/home/ada", "Darwin": "/Users/ada", "Windows": "C:/Users/ada"}
ROO, ZOO = "rooveterinaryinc.roo-cline", "zoocodeorganization.zoo-code"
CODE: dict[System, str] = {
    "Linux": "/home/ada/.config/Code/User",
    "Darwin": "/Users/ada/Library/Application Support/Code/User",
    "Windows": "C:/Users/ada/AppData/Roaming/Code/User",
}
# Below the home folder on every system, or whole for each.
USER_FILES: dict[str, str | dict[System, list[str]]] = {
    "claude-code": ".claude.json",
    "codex": ".codex/config.toml",
    "cursor": ".cursor/mcp.json",
    "vscode": {system: [f"{CODE[system]}/mcp.json"] for system in SYSTEMS},
    "claude-desktop": {
        "Linux": ["/home/ada/.config/Claude/claude_desktop_config.json"],
        "Darwin": ["/Users/ada/Library/Application Support/Claude/claude_desktop_config.json"],
        "Windows": [
            "C:/Users/ada/AppData/Local/Packages/Claude_*/LocalCache/Roaming/Claude/claude_desktop_config.json",
            "C:/Users/ada/AppData/Roaming/Claude/claude_desktop_config.json",
        ],
    },
    "gemini": ".gemini/settings.json",
    "copilot": ".copilot/mcp-config.json",
    "devin": {
        "Linux": ["/home/ada/.config/devin/config.json"],
        "Darwin": ["/Users/ada/.config/devin/config.json"],
        "Windows": ["C:/Users/ada/AppData/Roaming/devin/config.json"],
    },
    "devin-desktop": ".codeium/windsurf/mcp_config.json",
    "opencode": {
        system: [f"{home}/.config/opencode/opencode.{kind}" for kind in ("json", "jsonc")]
        for system, home in BARE.items()
    },
    "roo": {system: [f"{CODE[system]}/globalStorage/{ROO}/settings/mcp_settings.json"] for system in SYSTEMS},
    "zoo": {system: [f"{CODE[system]}/globalStorage/{ZOO}/settings/mcp_settings.json"] for system in SYSTEMS},
    "antigravity": {
        system: [f"{home}/.gemini/{folder}/mcp_config.json" for folder in ("config", "antigravity")]
        for system, home in BARE.items()
    },
}
PROJECT_FILES = {
    "claude-code": ".mcp.json",
    "codex": ".codex/config.toml",
    "cursor": ".cursor/mcp.json",
    "vscode": ".vscode/mcp.json",
    "claude-desktop": None,
    "gemini": ".gemini/settings.json",
    "copilot": ".mcp.json",
    "devin": ".devin/config.json",
    "devin-desktop": None,
    "opencode": "opencode.json",
    "roo": ".roo/mcp.json",
    "zoo": ".roo/mcp.json",
    "antigravity": ".agents/mcp_config.json",
}
RUN = {"command": "/opt/flux2-mcp", "args": []}
ENTRIES: dict[str, dict[str, Any]] = {
    "claude-code": {"type": "stdio", **RUN, "timeout": 960_000},
    "codex": {**RUN, "env_vars": [*VARIABLES, *SYSTEM_VARIABLES], "startup_timeout_sec": 60, "tool_timeout_sec": 960},
    "cursor": RUN,
    "vscode": {"type": "stdio", **RUN},
    "claude-desktop": RUN,
    "gemini": {**RUN, "timeout": 960_000},
    "copilot": {"type": "stdio", **RUN, "tools": ["*"], "timeout": 960_000},
    "devin": RUN,
    "devin-desktop": RUN,
    "opencode": {"type": "local", "enabled": True, "command": ["/opt/flux2-mcp"], "timeout": 960_000},
    "roo": {**RUN, "timeout": 960},
    "zoo": {**RUN, "timeout": 960},
    "antigravity": RUN,
}
MILLISECONDS = {"claude-code", "gemini", "copilot", "opencode"}
CONFIGURATION = Path(__file__).parents[2] / "docs/configuration.md"
ROWS = pytest.mark.parametrize("name", [row.name for row in TABLE])


@ROWS
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_hosts_files_are_where_it_looks_for_them_on_each_system(name: str, system: System) -> None:
    env = HOMES[system]
    told = USER_FILES[name]
    kind = PureWindowsPath if system == "Windows" else PurePosixPath
    home = env["USERPROFILE"] if system == "Windows" else env["HOME"]
    wanted = [kind(home) / told] if isinstance(told, str) else [kind(each) for each in told[system]]
    assert list(places.user_files(host(name), system, env)) == wanted
    assert "*" not in str(wanted[-1])


@ROWS
def test_a_projects_file_is_below_its_folder(name: str, tmp_path: Path) -> None:
    machine = Machine(system="Linux", env=HOMES["Linux"], workspace=str(tmp_path))
    below = PROJECT_FILES[name]
    if below is None:
        with pytest.raises(InvalidRequestError, match="keeps no servers in projects"):
            machine.files(host(name), "project")
    else:
        assert machine.files(host(name), "project") == (tmp_path / below,)


@ROWS
def test_an_entry_has_the_hosts_shape_and_a_command_without_a_shell(name: str) -> None:
    assert entry.whole(host(name), ["/opt/flux2-mcp"]) == ENTRIES[name]


@rows(
    ("name", "variable", "file"),
    [
        ("claude-code", "CLAUDE_CONFIG_DIR", ".claude.json"),
        ("codex", "CODEX_HOME", "config.toml"),
        ("gemini", "GEMINI_CLI_HOME", ".gemini/settings.json"),
        ("copilot", "COPILOT_HOME", "mcp-config.json"),
        ("opencode", "XDG_CONFIG_HOME", "opencode/opencode.json"),
        ("vscode", "XDG_CONFIG_HOME", "Code/User/mcp.json"),
    ],
)
def test_a_host_that_was_moved_by_a_variable_is_found_there(name: str, variable: str, file: str) -> None:
    moved = places.user_files(host(name), "Linux", {"HOME": "/home/ada", variable: "/elsewhere"})
    assert moved[0] == PurePosixPath("/elsewhere") / file
    relative = places.user_files(host(name), "Linux", {"HOME": "/home/ada", variable: "elsewhere"})
    assert relative == places.user_files(host(name), "Linux", {"HOME": "/home/ada"})


@pytest.mark.parametrize(("system", "variable"), [("Linux", "HOME"), ("Darwin", "HOME"), ("Windows", "USERPROFILE")])
def test_without_a_home_nothing_is_guessed(system: System, variable: str) -> None:
    with pytest.raises(HostFileError, match=f"{variable} is not set"):
        places.user_files(host("cursor"), system, {variable: " "})


def test_claude_desktop_from_the_windows_store_is_found_by_its_folder(tmp_path: Path) -> None:
    store = tmp_path / "Local/Packages/Claude_pzs8sxrjxfjjc/LocalCache/Roaming/Claude"
    paths = (
        tmp_path / "Local/Packages/Claude_*/LocalCache/Roaming/Claude/claude_desktop_config.json",
        tmp_path / "Roaming/Claude/claude_desktop_config.json",
    )
    assert files.first(paths) == (paths[1],)
    store.mkdir(parents=True)
    assert files.first(paths) == (store / "claude_desktop_config.json",)
    paths[1].parent.mkdir(parents=True)
    paths[1].touch()
    assert files.first(paths) == (paths[1],)


def test_the_file_that_is_there_is_edited_and_that_with_the_entry_before_others(tmp_path: Path) -> None:
    machine = Machine(system="Linux", env={"HOME": str(tmp_path)}, workspace=None)
    folder = tmp_path / ".config/opencode"
    assert machine.files(host("opencode"), "user") == (folder / "opencode.json",)
    folder.mkdir(parents=True)
    (folder / "opencode.jsonc").touch()
    assert machine.files(host("opencode"), "user") == (folder / "opencode.jsonc",)


@ROWS
def test_a_host_is_there_when_it_was_started_once_or_is_on_the_path(name: str, tmp_path: Path) -> None:
    row = host(name)
    bare = Machine(system="Linux", env={"HOME": str(tmp_path), "PATH": str(tmp_path / "bin")}, workspace=None)
    assert not bare.has(row)
    [mark, *_] = places.marks(row, "Linux", bare.env)
    Path(mark).mkdir(parents=True)
    assert bare.has(row)
    Path(mark).rmdir()
    (tmp_path / "bin").mkdir()
    for program in row.programs[:1]:
        (tmp_path / "bin" / program).touch(mode=0o755)
        assert bare.has(row)


@ROWS
def test_a_host_lets_calls_take_longer_than_its_client_waits(name: str) -> None:
    waits = clients.client(name).wait_seconds
    for key, value in host(name).limits.items():
        seconds = value / 1000 if name in MILLISECONDS else value
        assert seconds > waits or key == "startup_timeout_sec"
    assert TOOL_SECONDS > MAX_WAIT_SECONDS


def test_every_client_that_wants_its_own_results_is_a_host_by_the_same_name() -> None:
    assert {row.part for row in clients.CLIENTS} - {"flux2-mcp-gallery"} <= {row.name for row in TABLE}


def test_the_variables_that_are_let_through_are_all_that_the_server_reads() -> None:
    documented = re.findall(r"^\| `((?:FLUX2|RUNAPI)_[A-Z_0-9]+)` \|", CONFIGURATION.read_text("utf-8"), re.MULTILINE)
    assert list(VARIABLES) == documented


def test_names_that_people_use_lead_to_one_row_each() -> None:
    names = [name for row in TABLE for name in (row.name, *row.also)]
    assert len(names) == len(set(names))
    assert (host("Windsurf").name, host(" claude ").name) == ("devin-desktop", "claude-code")
    with pytest.raises(InvalidRequestError, match="'emacs' is none of claude-code, codex, cursor"):
        host("emacs")


# --- what starts the server -------------------------------------------------------------------------------------------


def test_the_installed_program_is_named_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "flux2-mcp").touch()
    assert command.words([tmp_path / "none", tmp_path], "/x/python", None) == [str(tmp_path / "flux2-mcp")]


def test_without_the_program_the_interpreter_starts_the_module_and_nothing_of_the_folder_it_is_in(
    tmp_path: Path,
) -> None:
    words = command.words([tmp_path], sys.executable, None)
    assert words == [sys.executable, "-P", "-m", "flux2_mcp"]
    (tmp_path / "flux2_mcp.py").write_text("raise SystemExit('the folder was imported')")
    done = subprocess.run([*words, "version"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "passing",
    [
        "/home/ada/.cache/uv/archive-v0/x1/bin/python",
        "C:\\Users\\ada\\AppData\\Local\\uv\\cache\\builds-v0\\.tmp1\\Scripts\\python.exe",
        "/home/ada/.cache/uv/environments-v2/flux-1/bin/python",
    ],
)
def test_a_copy_that_uv_throws_away_is_not_pointed_at(passing: str) -> None:
    with pytest.raises(HostFileError, match="uv's cache"):
        command.words([], passing, "/usr/bin/uvx", published=False)
    assert command.words([], passing, "/usr/bin/uvx", published=True) == ["/usr/bin/uvx", "flux2-mcp"]
    with pytest.raises(HostFileError, match="uv's cache"):
        command.words([], passing, None, published=True)


# --- what an entry hands on -------------------------------------------------------------------------------------------


@rows(
    ("name", "held", "handed"),
    [
        ("claude-code", {"env": {"A": "${KEY}", "B": "${NONE:-else}", "C": "${NONE}", "D": "plain $ {x}"}},
         {"A": "k1", "B": "else", "C": "", "D": "plain $ {x}"}),
        ("cursor", {"env": {"A": "x${env:KEY}y"}}, {"A": "xk1y"}),
        ("gemini", {"env": {"A": "$KEY"}}, {"A": "k1"}),
        ("opencode", {"environment": {"A": "{env:KEY}"}, "env": {"B": "no"}}, {"A": "k1"}),
        ("codex", {"env_vars": ["KEY", "NONE", 7], "env": {"A": "x"}}, {"KEY": "k1", "A": "x"}),
    ],
)  # fmt: skip
def test_references_to_the_environment_are_followed_as_the_host_would(
    name: str, held: dict[str, Any], handed: dict[str, str]
) -> None:
    assert entry.environment(host(name), held, {"KEY": "k1"}) == handed


# --- links ------------------------------------------------------------------------------------------------------------


def test_cursors_link_decodes_to_the_entry() -> None:
    held: dict[str, Any] = {"command": "C:\\é & ü\\flux2-mcp.exe", "args": ["a+b/c", "?"]}
    link = urlsplit(links.cursor("flux-2", held))
    assert (link.scheme, link.netloc, link.path) == ("cursor", "anysphere.cursor-deeplink", "/mcp/install")
    query = parse_qs(link.query, strict_parsing=True)
    assert query["name"] == ["flux-2"]
    assert json.loads(base64.b64decode(query["config"][0], validate=True)) == held


def test_vs_codes_link_decodes_to_name_and_entry() -> None:
    held: dict[str, Any] = {"type": "stdio", "command": "/opt/é & ü/flux2-mcp", "args": ["a+b", "#"]}
    scheme, _, text = links.vscode("flux-2", held).partition("?")
    assert scheme == "vscode:mcp/install"
    assert json.loads(unquote(text, errors="strict")) == {"name": "flux-2", **held}
    assert text.isascii()
    assert not set(text) & set(" \"'<>&#+")


# --- and it stays light -----------------------------------------------------------------------------------------------


def test_the_hosts_tables_load_nothing_heavy() -> None:
    modules = ["table", "places", "entry", "plan", "files", "command", "links"]
    code = (
        f"import sys\nfrom flux2_mcp.hosts import {', '.join(modules)}\nfrom flux2_mcp.server import clients\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'click', 'mcp', 'pydantic', 'httpx', 'httpx2', 'anyio', 'sqlite3', 'PIL', 'asyncio', 'platformdirs'}))"
    )
    # Without the environment, and so without what measures coverage in it.
    done = subprocess.run([sys.executable, "-c", code], env={}, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
