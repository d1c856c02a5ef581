"""What keeps a host from starting an entry and stands in another of its files is told with that file, by install and doctor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flux2_mcp.cli import main

Run = Callable[..., tuple[int, str]]
ALLOWED, EXCLUDED = {"mcp": {"allowed": ["github"]}}, {"mcp": {"excluded": ["flux-2"]}}


@pytest.fixture
def home(clean_env: dict[str, str]) -> Path:
    (home := Path(clean_env["HOME"])).mkdir()
    return home


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (project := tmp_path / "project").mkdir()
    return project


@pytest.fixture
def run(clean_env: dict[str, str], project: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*argv: str) -> tuple[int, str]:
        code = main.run(argv, clean_env | {"PATH": "", "EDITOR": "vi"}, None, str(project))
        return code, "".join(capsys.readouterr())

    return run


def doctor(run: Run, host: str) -> list[tuple[str, str, str | None]]:
    """What it finds of a host's entries: status, words, and the command that mends it."""
    found = json.loads(run("doctor", "--timeout", "120", host, "--json")[1])["checks"]
    return [(check["status"], check["detail"], check["mend"]) for check in found if check["check"] == host]


def written(path: Path, held: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(held if isinstance(held, str) else json.dumps(held))
    return path


def merged(path: Path, held: dict[str, object]) -> Path:
    return written(path, json.loads(path.read_text()) | held)


def told(run: Run, host: str, scope: str, entry: Path, switch: str, held: Path) -> None:
    """Both commands name the switch and its file, and both leave that file to its user."""
    before = held.read_bytes()
    words = f"{switch} in {held}"
    code, out = run("install", host, "--scope", scope)
    assert (code, f"Still switched off: {words} keeps flux-2 from being started." in out) == (0, True), out
    assert doctor(run, host) == [("fail", f"flux-2 in {entry} is switched off by {words}", f"vi {held}")]
    assert held.read_bytes() == before


# --- Gemini CLI: the list that goes before is the project's, and it replaces the user's ---------------------------------


@pytest.mark.parametrize(("lists", "switch"), [(ALLOWED, "mcp.allowed"), (EXCLUDED, "mcp.excluded")])
def test_the_users_lists_of_servers_switch_a_projects_entry_off(
    run: Run, home: Path, project: Path, lists: dict[str, object], switch: str
) -> None:
    user = written(home / ".gemini/settings.json", lists)
    assert "Still switched off" in run("install", "gemini", "--scope", "project", "--dry-run")[1]
    told(run, "gemini", "project", project / ".gemini/settings.json", switch, user)


def test_the_projects_lists_of_servers_switch_the_users_entry_off(run: Run, home: Path, project: Path) -> None:
    theirs = written(project / ".gemini/settings.json", EXCLUDED)
    told(run, "gemini", "user", home / ".gemini/settings.json", "mcp.excluded", theirs)


@pytest.mark.parametrize("allowed", [["flux-2"], pytest.param([], marks=pytest.mark.deep)])
def test_a_projects_own_list_stands_in_the_place_of_the_users(
    run: Run, home: Path, project: Path, allowed: list[str]
) -> None:
    written(home / ".gemini/settings.json", ALLOWED)
    written(project / ".gemini/settings.json", {"mcp": {"allowed": allowed}})
    assert "Still switched off" not in run("install", "gemini", "--scope", "project")[1]
    # Doctor starts what is not switched off: one test waits for that.
    assert [status for status, *_ in doctor(run, "gemini")] != ["fail"]


def test_what_gemini_mcp_disable_writes_is_told(run: Run, home: Path) -> None:
    switches = written(home / ".gemini/mcp-server-enablement.json", {"flux-2": {"enabled": False}, "x": {}})
    told(run, "gemini", "user", home / ".gemini/settings.json", "flux-2.enabled", switches)


# --- Claude Code ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["user", pytest.param("project", marks=pytest.mark.deep)])
def test_what_was_switched_off_in_claude_code_for_this_folder_is_told(
    run: Run, home: Path, project: Path, scope: str
) -> None:
    state = home / ".claude.json"
    off = {"projects": {str(project): {"disabledMcpServers": ["x", "flux-2"]}, "/other": {}}}
    written(state, off)
    entry = state if scope == "user" else project / ".mcp.json"
    run("install", "claude-code", "--scope", scope)
    told(run, "claude-code", scope, entry, f"projects.{project}.disabledMcpServers", state)
    merged(state, {"projects": {"/other": off["projects"][str(project)]}})
    assert "Still switched off" not in run("install", "claude-code", "--scope", scope)[1]


def test_a_folder_in_a_repository_is_known_by_the_repository(run: Run, home: Path, project: Path) -> None:
    (project.parent / ".git").mkdir()
    state = written(home / ".claude.json", {"projects": {str(project.parent): {"disabledMcpServers": ["flux-2"]}}})
    switch = f"projects.{project.parent}.disabledMcpServers"
    told(run, "claude-code", "project", project / ".mcp.json", switch, state)


@pytest.mark.parametrize(
    ("where", "held"),
    [
        ("user/.claude/settings.json", {"disabledMcpjsonServers": ["flux-2"]}),
        ("project/.claude/settings.json", {"disabledMcpjsonServers": ["flux-2"]}),
        ("project/.claude/settings.local.json", {"disabledMcpjsonServers": ["flux-2"]}),
    ],
)
def test_a_projects_entry_that_was_rejected_is_told_and_the_users_is_started(
    run: Run, home: Path, project: Path, tmp_path: Path, where: str, held: dict[str, object]
) -> None:
    rejected = written(tmp_path / where, held)
    told(run, "claude-code", "project", project / ".mcp.json", "disabledMcpjsonServers", rejected)
    (project / ".mcp.json").unlink()
    assert "Still switched off" not in run("install", "claude-code")[1]
    assert home.is_dir()


# --- Codex and opencode: entries of one name are one ------------------------------------------------------------------


def test_a_projects_half_of_an_entry_switches_the_users_off(run: Run, home: Path, project: Path) -> None:
    half = written(project / "opencode.json", {"mcp": {"flux-2": {"enabled": False}}})
    told(run, "opencode", "user", home / ".config/opencode/opencode.json", "mcp.flux-2.enabled", half)
    half = written(project / ".codex/config.toml", "[mcp_servers.flux-2]\nenabled = false\n")
    told(run, "codex", "user", home / ".codex/config.toml", "mcp_servers.flux-2.enabled", half)


def test_the_users_half_of_an_entry_switches_a_projects_off_where_that_says_nothing(
    run: Run, home: Path, project: Path
) -> None:
    user = written(home / ".codex/config.toml", "[mcp_servers.flux-2]\nenabled = false\n")
    told(run, "codex", "project", project / ".codex/config.toml", "mcp_servers.flux-2.enabled", user)
    path = project / ".codex/config.toml"
    path.write_text(path.read_text() + "enabled = true\n")
    assert "Still switched off" not in run("install", "codex", "--scope", "project")[1]


# --- files that can't be read -------------------------------------------------------------------------------------------


def test_a_file_of_switches_that_can_not_be_read_switches_nothing_off(run: Run, home: Path, project: Path) -> None:
    (home / ".claude/settings.json").mkdir(parents=True)
    written(project / ".claude/settings.json", "{")
    written(home / ".claude.json", {"projects": [{"disabledMcpServers": "flux-2"}]})
    code, out = run("install", "claude-code", "--scope", "project")
    assert (code, "Still switched off" in out) == (0, False)
