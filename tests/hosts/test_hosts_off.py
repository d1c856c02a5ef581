"""What keeps a host from starting an entry is looked at and mended, and forms of a file that can be edited are."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flux2_mcp.cli import main
from flux2_mcp.errors import HostFileError
from flux2_mcp.hosts import entry
from flux2_mcp.hosts.editors import jsonc
from flux2_mcp.hosts.table import TABLE, Host, host
from tests.hosts.test_hosts_merge import COMMAND, NEWER, parsed
from tests.support.host_files import OURS
from tests.support.rows import rows

GEMINI, CODEX, CLAUDE, VSCODE = host("gemini"), host("codex"), host("claude-code"), host("vscode")
Run = Callable[..., tuple[int, str]]
GITHUB = '"mcpServers": {"github": {"command": "gh"}}'


@pytest.fixture
def home(clean_env: dict[str, str]) -> Path:
    (home := Path(clean_env["HOME"])).mkdir()
    return home


@pytest.fixture
def run(clean_env: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*argv: str) -> tuple[int, str]:
        code = main.run(argv, clean_env | {"PATH": ""}, None, str(tmp_path))
        return code, "".join(capsys.readouterr())

    return run


def doctor(run: Run, name: str) -> tuple[str, str]:
    """What it finds of a host, and the command that mends it."""
    _, out = run("doctor", "--timeout", "120", name, "--json")
    found = next(check for check in json.loads(out)["checks"] if check["check"] == name)
    return found["detail"], found["mend"]


# --- switched off -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "value"), [("disabled", True), ("enabled", False)])
def test_an_entry_that_is_switched_off_is_switched_on_by_an_installation_into_any_host(key: str, value: bool) -> None:
    for row in TABLE:
        editor = entry.EDITORS[row.format]
        text = editor.put(entry.installed(row, "", OURS, COMMAND), row.servers, OURS, {key: value})
        standing = entry.standing(row, text, OURS)
        assert standing is not None
        assert entry.off(row, text, OURS, standing) == [key], row.name
        mended = entry.installed(row, text, OURS, COMMAND)
        assert entry.standing(row, mended, OURS) == standing | {key: not value}, row.name
        assert entry.off(row, mended, OURS, standing | {key: not value}) == []
        assert entry.installed(row, mended, OURS, COMMAND) == mended


@rows(
    ("before", "after"),
    [
        ('{"mcp": {"allowed": ["github"]}, %s}', ["github", OURS]),
        ('{\n  "mcp": {\n    "allowed": [\n      "github" // mine\n    ]\n  },\n  %s\n}\n', ["github", OURS]),
        ('{\n  "mcp": {"allowed": ["github", "x",]}, %s\n}\n', ["github", "x", OURS]),
        ('{\r\n\t"mcp": {\r\n\t\t"allowed": [\r\n\t\t\t"github"\r\n\t\t]\r\n\t}, %s}', ["github", OURS]),
        ('{"mcp": {"allowed": ["flux-2"]}, %s}', [OURS]),
        ('{"mcp": {"allowed": []}, %s}', []),
        ('{"mcp": {"allowed": ["github"], "excluded": ["flux-2"]}, %s}', ["github", OURS]),
        ('{"mcp": {"excluded": ["a", "flux-2", "b"]}, %s}', []),
        ('{"mcp": {"excluded": [\n  "a", // of a\n  "flux-2"\n]}, %s}', []),
        ('{"mcp": {"excluded": [\n  "flux-2",\n  "b" // of b\n]}, %s}', []),
    ],
)
def test_geminis_lists_of_servers_are_edited_in_place_and_come_back_to_the_byte(before: str, after: list[str]) -> None:
    text = before % GITHUB
    installed = entry.installed(GEMINI, text, OURS, COMMAND)
    value = parsed(GEMINI, installed)
    assert value["mcpServers"] == {"github": {"command": "gh"}, OURS: entry.whole(GEMINI, COMMAND)}
    assert value["mcp"].get("allowed", []) == after
    assert OURS not in value["mcp"].get("excluded", [])
    assert entry.off(GEMINI, installed, OURS, entry.whole(GEMINI, COMMAND)) == []
    assert ("// of" in text) == ("// of" in installed)
    assert entry.installed(GEMINI, installed, OURS, COMMAND) == installed
    assert entry.removed(GEMINI, installed, OURS, text) == text
    # And where it is not known what stood there before: no name of ours stays among those that are started.
    assert OURS not in parsed(GEMINI, entry.removed(GEMINI, installed, OURS, None))["mcp"].get("allowed", [])


def test_doctor_names_what_switches_an_entry_off_and_its_command_mends_it(run: Run, home: Path) -> None:
    path = home / ".gemini/settings.json"
    path.parent.mkdir()
    path.write_text(f'{{\n  "mcp": {{"allowed": ["github"]}},\n  {GITHUB}\n}}\n')
    original = path.read_text()
    code, out = run("install", "gemini")
    assert (code, f"Switched on: mcp.allowed kept {OURS} from being started." in out) == (0, True)
    installed = path.read_text()
    path.write_text(installed.replace(f', "{OURS}"]', f'], "excluded": ["{OURS}"]'))
    assert doctor(run, "gemini") == (
        f"{OURS} in {path} is switched off by mcp.allowed, mcp.excluded",
        "flux2-mcp install gemini",
    )
    assert "Switched on: mcp.excluded" in run("install", "gemini", "--dry-run")[1]
    assert run("install", "gemini")[0] == 0
    assert jsonc.scan(path.read_text()).value["mcp"] == {"allowed": ["github", OURS], "excluded": []}  # type: ignore[union-attr, index, call-overload]  # it is there
    path.write_text(installed)
    assert run("install", "gemini", "--uninstall")[0] == 0
    assert path.read_text() == original


def test_doctor_names_an_entry_that_is_disabled(run: Run, home: Path) -> None:
    path = home / ".codex/config.toml"
    path.parent.mkdir()
    run("install", "codex")
    path.write_text(path.read_text() + "enabled = false\n")
    assert doctor(run, "codex") == (f"{OURS} in {path} is switched off by enabled", "flux2-mcp install codex")
    assert run("install", "codex")[0] == 0
    assert tomllib.loads(path.read_text())["mcp_servers"][OURS]["enabled"] is True


# --- forms that can be edited -----------------------------------------------------------------------------------------


@rows("row", [CLAUDE, VSCODE], ids=["json", "jsonc"])
@rows(
    "text",
    [
        '{"MAP": null}',
        '{\n  "MAP": null\n}\n',
        '{\n\t"a": 1,\n\t"MAP": null,\n\t"b": null\n}\n',
        '{"MAP":null,"b":1}',
        '{\r\n  "MAP":\r\n    null\r\n}\r\n',
    ],
)
def test_null_in_the_place_of_a_map_is_edited_and_comes_back(row: Host, text: str) -> None:
    text = text.replace("MAP", row.servers)
    after = entry.installed(row, text, OURS, COMMAND)
    assert parsed(row, after) == parsed(row, text) | {row.servers: {OURS: entry.whole(row, COMMAND)}}
    assert ("\n" in after) == ("\n" in text)
    assert ("\r\n" in after) == ("\r\n" in text)
    assert entry.installed(row, after, OURS, COMMAND) == after
    assert entry.removed(row, after, OURS, text) == text
    assert entry.removed(row, text, OURS, None) == text


def test_null_in_the_place_of_an_entry_is_edited() -> None:
    text = '{"servers": {"a": {}, "flux-2": null}}'
    after = entry.installed(VSCODE, text, OURS, COMMAND)
    assert parsed(VSCODE, after) == {"servers": {"a": {}, OURS: entry.whole(VSCODE, COMMAND)}}
    assert entry.removed(VSCODE, after, OURS, text) == text


OLD = 'command = "/old/flux2-mcp", cwd = "/x"'


@rows(
    ("text", "left"),
    [
        ("[mcp_servers]\na = {}\nflux-2 = { %s } # ours\n[b]\nc = 1\n", "[mcp_servers]\na = {}\n[b]\nc = 1\n"),
        ("mcp_servers.flux-2 = {%s}\n", ""),
        ("mcp_servers = { flux-2 = { %s } }\n", "mcp_servers = {}\n"),
        ("mcp_servers = {flux-2={%s}, b={}}\n", "mcp_servers = {b={}}\n"),
        ("mcp_servers = {b={}, 'flux-2' = {%s}}\nz = 1", "mcp_servers = {b={}}\nz = 1"),
    ],
)
def test_an_inline_entry_is_changed_and_taken_out_where_it_stands(text: str, left: str) -> None:
    before = text % OLD
    after = entry.installed(CODEX, before, OURS, NEWER)
    value: dict[str, Any] = parsed(CODEX, after)
    assert value["mcp_servers"][OURS] == entry.whole(CODEX, NEWER) | {"cwd": "/x"}
    value["mcp_servers"][OURS] = parsed(CODEX, before)["mcp_servers"][OURS]
    assert value == parsed(CODEX, before)
    assert entry.installed(CODEX, after, OURS, NEWER) == after
    assert entry.removed(CODEX, after, OURS, None) == left


def test_an_entry_in_dotted_keys_is_refused_by_its_line_as_it_was() -> None:
    text = 'mcp_servers = { flux-2.command = "flux2-mcp" }\n'
    with pytest.raises(HostFileError) as caught:
        entry.installed(CODEX, text, OURS, COMMAND)
    assert caught.value.line == 1
