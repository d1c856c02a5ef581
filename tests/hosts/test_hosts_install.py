"""`flux2-mcp install` as people use it: what it says, what it changes, and what it leaves alone."""

from __future__ import annotations

import io
import json
import logging
import platform
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flux2_mcp.cli import installation, main
from flux2_mcp.hosts import plan as host_plan
from flux2_mcp.hosts.table import TABLE

Run = Callable[..., tuple[int, str, str]]
CANARY = "canary-5d1c9b7e"


@pytest.fixture
def home(clean_env: dict[str, str]) -> Path:
    """A home in which Cursor, Codex and opencode were started once."""
    home = Path(clean_env["HOME"])
    for folder in (".cursor", ".codex", ".config/opencode"):
        (home / folder).mkdir(parents=True)
    return home


@pytest.fixture
def run(clean_env: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """A command in this process: its exit code, what it printed, what it complained of."""
    logger = logging.getLogger("flux2_mcp")
    before = logger.level

    def run(*argv: str, **env: str) -> tuple[int, str, str]:
        workspace = tmp_path / "project"
        workspace.mkdir(exist_ok=True)
        code = main.run(argv, clean_env | {"PATH": ""} | env, None, str(workspace))
        out, err = capsys.readouterr()
        return code, out, err

    yield run
    logger.setLevel(before)


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()}


def starts() -> str:
    """What an entry has to start: this very installation, absolute."""
    program = Path(sys.executable).with_name("flux2-mcp")
    assert program.is_file()
    return str(program)


# --- into hosts -------------------------------------------------------------------------------------------------------


def test_install_says_what_it_added_as_a_diff_and_what_to_do_next(run: Run, home: Path) -> None:
    path = home / ".cursor/mcp.json"
    path.write_text('{\n\t"mcpServers": {\n\t\t"x": {"env": {"TOKEN": "' + CANARY + '"}} // mine\n\t}\n}\n')
    code, out, err = run("install", "cursor")
    assert (code, err) == (0, "")
    assert out.splitlines()[:15] == [
        f"Cursor: flux-2 added to {path} by an edit.",
        f"--- {path}",
        f"+++ {path}",
        "@@ -1,5 +1,9 @@",
        " {",
        ' \t"mcpServers": {',
        '-\t\t"x": {"env": {"TOKEN": "(not shown)"}} // (not shown)',
        '+\t\t"x": {"env": {"TOKEN": "(not shown)"}}, // (not shown)',
        '+\t\t"flux-2": {',
        f'+\t\t\t"command": "{starts()}",',
        '+\t\t\t"args": []',
        "+\t\t}",
        " \t}",
        " }",
        f"Before: {path}.flux2-backup",
    ]
    assert out.splitlines()[15] == "Next: In Cursor: Settings, MCP; switch it on."
    assert "cursor://anysphere.cursor-deeplink/mcp/install?name=flux-2&config=" in out
    assert "flux2-mcp login" in out
    assert CANARY not in out
    assert path.read_text() == (
        '{\n\t"mcpServers": {\n\t\t"x": {"env": {"TOKEN": "' + CANARY + '"}}, // mine\n\t\t"flux-2": {\n'
        f'\t\t\t"command": "{starts()}",\n\t\t\t"args": []\n\t\t}}\n\t}}\n}}\n'
    )


SECRET_TOML = f'''# token {CANARY}
model = "{CANARY}"
pin = 4711
[mcp_servers.x]  # {CANARY}
command = "npx"
args = ["--token", """
{CANARY}"""]
enabled = true
http_headers = {{ Authorization = '{CANARY}', more = {{ deep = "{CANARY}" }} }}
[mcp_servers.x.env]
TOKEN = "{CANARY}"
[[projects]]
key = "{CANARY}"
[mcp_servers."flux-2"]
command = "/gone/flux2-mcp"
args = ["-e", "RUNAPI_API_KEY={CANARY}", "--token", "{CANARY}", "git+https://me:{CANARY}@example.com/x"]
http_headers = {{ Authorization = "Bearer {CANARY}" }}
bearer = "{CANARY}"
pin = 4711
env = {{ RUNAPI_API_KEY = "{CANARY}" }}
'''
SECRET_JSON = f"""{{
  // {CANARY}
  "theme": "{CANARY}", /* {CANARY}
  */
  "mcpServers": {{
    "x": {{"command": "npx", "args": ["--token", "{CANARY}"], "url": "https://x.example/?k={CANARY}", "pin": 4711}},
    "y": {{"headers": {{"Authorization": "Bearer \\"{CANARY}"}}, "disabled": false}},
    "flux-2": {{"command": "/gone/flux2-mcp", "args": ["-e", "K\\u003d{CANARY}", "--token", "{CANARY}"],
      "headers": {{"Authorization": "Bearer {CANARY}"}}, "environment": {{"K": "{CANARY}"}}, "pin": 4711, "env": {{"K": "{CANARY}"}}}}
  }},
  "mcp": {{"allowed": ["x"]}}, // {CANARY}
  "last": ["{CANARY}"]
}}
"""


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [("codex", ".codex/config.toml", SECRET_TOML), ("gemini", ".gemini/settings.json", SECRET_JSON)],
)
def test_a_diff_has_the_files_own_lines_around_the_change_and_nobodys_values(
    run: Run, home: Path, name: str, file: str, text: str
) -> None:
    (home / file).parent.mkdir(exist_ok=True)
    (home / file).write_text(text)
    seen = []
    for more in (("--dry-run",), (), ("--uninstall",)):
        code, out, err = run("install", name, *more)
        assert (code, err) == (0, "")
        assert CANARY not in out
        assert "4711" not in out
        assert "npx" not in out
        seen.append([line for line in out.splitlines() if line[:1] in set(" +-")])
    assert seen[0] == seen[1]
    assert any(line[0] == "-" and "/gone/flux2-mcp" in line for line in seen[0])
    assert any(line[0] == "+" and starts() in line for line in seen[0])
    kept = (
        ' key = "(not shown)"'
        if name == "codex"
        else '     "y": {"headers": {"Authorization": "(not shown)"}, "disabled": false},'
    )
    assert kept in seen[0]
    assert (name == "gemini") == any(line[0] == "+" and '"flux-2"]' in line for line in seen[0])


def test_a_file_of_one_long_line_shows_the_entry_alone(run: Run, home: Path) -> None:
    path = home / ".cursor/mcp.json"
    own = {"command": "docker", "args": ["run", "-e", f"K={CANARY}", "flux2-mcp"], "headers": {"Authorization": CANARY}}
    for held, line in (({}, '+    "flux-2": {'), ({"flux-2": own}, '       "headers": {')):
        path.write_text(json.dumps({"mcpServers": held, "history": [CANARY] * 2000}))
        _, out, _ = run("install", "cursor")
        assert max(map(len, out.splitlines())) < 500
        assert line in out.splitlines()
        assert CANARY not in out


def test_a_second_time_there_is_nothing_to_do(run: Run, home: Path) -> None:
    run("install", "cursor")
    before = files(home)
    code, out, _ = run("install", "cursor")
    assert code == 0
    assert out.startswith(f"Cursor: stands in {home}/.cursor/mcp.json as it should.\n")
    assert files(home) == before


def test_detect_installs_into_all_that_are_found_and_into_no_other(run: Run, home: Path) -> None:
    code, out, _ = run("install", "--detect")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines() if "added to" in line] == ["Codex", "Cursor", "opencode"]
    assert set(files(home)) == {".codex/config.toml", ".cursor/mcp.json", ".config/opencode/opencode.json"}
    assert tomllib.loads(files(home)[".codex/config.toml"])["mcp_servers"]["flux-2"]["command"] == starts()


def test_dry_run_shows_the_same_diff_and_changes_nothing(run: Run, home: Path) -> None:
    before = files(home)
    code, out, _ = run("install", "--detect", "--dry-run")
    assert (code, files(home)) == (0, before)
    assert f"Codex: would change {home}/.codex/config.toml by an edit.\n" in out
    _, done, _ = run("install", "codex")
    assert [line for line in done.splitlines() if line.startswith("+")] == [
        line for line in out.split("Cursor:")[0].splitlines() if line.startswith("+")
    ]


def test_uninstall_takes_everything_back(run: Run, home: Path) -> None:
    (home / ".codex/config.toml").write_bytes(b'model = "x"\r\n[tui]\r\na = 1')
    (home / ".cursor/mcp.json").write_text("{}")
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    run("install", "--detect")
    code, out, _ = run("install", "--detect", "--uninstall")
    assert code == 0
    assert f"Codex: flux-2 removed from {home}/.codex/config.toml by an edit." in out
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    assert run("install", "cursor", "--uninstall")[1] == f"Cursor: nothing to take out of {home}/.cursor/mcp.json.\n"


def test_a_projects_entry_goes_into_its_folder_and_is_said_to_be_of_this_machine(
    run: Run, home: Path, tmp_path: Path
) -> None:
    before = files(home)
    code, out, _ = run("install", "cursor", "claude", "copilot", "--scope", "project", RUNAPI_API_KEY=CANARY)
    assert (code, files(home)) == (0, before)
    assert set(files(tmp_path / "project")) == {".cursor/mcp.json", ".mcp.json", ".mcp.json.flux2-backup"}
    assert "keep the file out of version control" in out
    # Claude Code and Copilot CLI share the file, and each finds its own in the one entry.
    assert run("install", "claude", "copilot", "--scope", "project")[1].count("as it should") == 2


def test_detect_leaves_out_hosts_that_keep_nothing_in_projects(run: Run, home: Path) -> None:
    (home / ".config/Claude").mkdir()
    code, out, err = run("install", "--detect", "--scope", "project")
    assert (code, err) == (0, "")
    assert "Claude Desktop" not in out
    code, _, err = run("install", "claude-desktop", "--scope", "project")
    assert code == 4
    assert "Claude Desktop keeps no servers in projects" in err


def test_no_key_goes_into_any_file_and_where_one_is_only_in_the_environment_that_is_said(
    run: Run, home: Path, tmp_path: Path
) -> None:
    names = [row.name for row in TABLE]
    for scope in ("user", "project"):
        code, out, err = run("install", *names, "--scope", scope, RUNAPI_API_KEY=CANARY)
        assert CANARY not in out + err
        assert (code == 0) == (scope == "user")
        assert '"env": {"RUNAPI_API_KEY": "$RUNAPI_API_KEY"}' in out  # Gemini CLI's, which withholds it
    assert len(files(home)) == 13
    assert CANARY not in "".join(files(tmp_path).values())
    assert "The key stands in the environment only" in run("install", "cursor", RUNAPI_API_KEY=CANARY)[1]


def test_a_key_in_runapis_own_file_serves_every_host(
    clean_env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["install", "gemini"], clean_env, json.dumps({"api_key": CANARY}), None) == 0
    out = capsys.readouterr().out
    assert "The key is in RunAPI's own file, which every host's server reads." in out
    assert "To hand on the key" not in out
    assert CANARY not in out + "".join(files(home).values())


def test_what_the_user_put_into_the_entry_is_kept_and_its_secrets_are_not_shown(run: Run, home: Path) -> None:
    run("install", "cursor")
    path = home / ".cursor/mcp.json"
    held = json.loads(path.read_text())
    held["mcpServers"]["flux-2"] |= {"env": {"RUNAPI_API_KEY": CANARY}, "command": "/gone/flux2-mcp"}
    path.write_text(json.dumps(held))
    code, out, _ = run("install", "cursor")
    assert code == 0
    assert f"Cursor: flux-2 changed in {path} by an edit." in out
    assert '"command": "/gone/flux2-mcp"' in out
    assert '"RUNAPI_API_KEY": "(not shown)"' in out
    assert CANARY not in out
    assert json.loads(path.read_text())["mcpServers"]["flux-2"] == {
        "command": starts(),
        "args": [],
        "env": {"RUNAPI_API_KEY": CANARY},
    }


def test_another_name_is_another_entry(run: Run, home: Path) -> None:
    run("install", "cursor")
    run("install", "cursor", "--name", "flux_3")
    assert set(json.loads(files(home)[".cursor/mcp.json"])["mcpServers"]) == {"flux-2", "flux_3"}
    run("install", "cursor", "--uninstall")
    assert set(json.loads(files(home)[".cursor/mcp.json"])["mcpServers"]) == {"flux_3"}
    for name in ("", "a b", "a.b", "-" * 65, "é", 'a"b'):
        assert run("install", "cursor", "--name", name)[0] == 4


# --- what can go wrong ------------------------------------------------------------------------------------------------


def test_a_broken_file_stops_its_own_host_only(run: Run, home: Path) -> None:
    broken = home / ".cursor/mcp.json"
    broken.write_text('{\n  "mcpServers": {,}\n}\n')
    code, out, err = run("install", "--detect")
    assert code == 4
    assert ("Codex: flux-2 added" in out, "opencode: flux-2 added" in out) == (True, True)
    assert err == (
        f"Error: Cursor: {broken}, line 2: ',' where a key in double quotes should stand.\n"
        "The file was left as it was.\n"
        "Next: Mend the file at that line, then run the same command again.\n"
    )
    assert broken.read_text() == '{\n  "mcpServers": {,}\n}\n'


def test_an_entry_of_another_server_is_not_touched(run: Run, home: Path) -> None:
    path = home / ".cursor/mcp.json"
    path.write_text('{"mcpServers": {"flux-2": {"url": "https://example.com/mcp"}}}')
    for more in ((), ("--uninstall",)):
        code, out, err = run("install", "cursor", *more)
        assert (code, out) == (4, "")
        assert "flux-2 is another server there" in err
    assert path.read_text() == '{"mcpServers": {"flux-2": {"url": "https://example.com/mcp"}}}'


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("emacs",), "'emacs' is none of claude-code, codex"),
        (("cursor", "--detect"), "not both"),
        (("cursor", "--scope", "world"), "'world' is not one of"),
    ],
)
def test_what_makes_no_sense_is_refused(run: Run, home: Path, argv: tuple[str, ...], words: str) -> None:
    before = files(home)
    code, _, err = run("install", *argv)
    assert (code, words in err) == (4, True)
    assert files(home) == before


def test_a_machine_without_hosts_is_told_their_names(run: Run, tmp_path: Path) -> None:
    for more in ((), ("--detect",), ("--detect", "--dry-run")):
        code, out, err = run("install", *more, HOME=str(tmp_path / "nobody"))
        assert (code, err) == (0, "")
        assert out.startswith("No agent host found; later: flux2-mcp install NAME, one of claude-code, codex, cursor,")


def test_a_copy_that_will_not_last_is_not_installed_but_can_be_taken_out(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("install", "cursor")
    monkeypatch.setattr(sys, "executable", "/home/ada/.cache/uv/archive-v0/x/bin/python")
    code, _, err = run("install", "codex")
    assert (code, "uv's cache" in err) == (4, True)
    assert run("install", "cursor", "--uninstall")[0] == 0
    assert files(home) == {}


def test_a_setting_that_can_not_be_used_does_not_stand_in_the_way(run: Run, home: Path) -> None:
    code, out, _ = run("install", "cursor", FLUX2_RATE="fast")
    assert code == 0
    assert "FLUX2_RATE must be a number" in out
    assert (home / ".cursor/mcp.json").is_file()


# --- asked ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "chosen"),
    [
        ("", ["Codex", "Cursor", "opencode"]),
        ("2", ["Cursor"]),
        ("3, codex", ["opencode", "Codex"]),
        ("1 1", ["Codex"]),
    ],
)
def test_without_hosts_it_lists_what_is_there_and_asks(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, answer: str, chosen: list[str]
) -> None:
    assert home.is_dir()
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{answer}\n"))
    code, out, _ = run("install", "--dry-run")
    assert code == 0
    assert out.startswith(
        "Found on this machine:\n  1  Codex     codex\n  2  Cursor    cursor\n  3  opencode  opencode\n"
        "Put it into which? Numbers or names [all]: "
    )
    assert [line.split(":")[-2].strip() for line in out.splitlines() if "would change" in line][
        -len(chosen) :
    ] == chosen


def test_the_list_says_where_it_is_already(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("install", "cursor")
    (home / ".codex/config.toml").write_text("broken")
    monkeypatch.setattr(sys, "stdin", io.StringIO("cursor\n"))
    out = run("install", "--uninstall")[1]
    assert "  2  Cursor    cursor    installed\n" in out
    assert "Take it out of which?" in out
    assert files(home) == {".codex/config.toml": "broken"}


@pytest.mark.parametrize("answer", ["4", "0", "emacs"])
def test_an_answer_that_names_nothing_is_refused(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{answer}\n"))
    assert run("install")[0] == 4
    assert files(home) == {}


def test_where_nobody_answers_it_says_how_to_do_without(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    code, out, err = run("install")
    assert (code, files(home)) == (4, {})
    assert "  2  Cursor    cursor\n" in out
    assert "Name hosts, or --detect for all of these: codex, cursor, opencode." in err


# --- a host's own command line (the real one: `make test-hosts`) ------------------------------------------------------

OWN = """#!{python}
import json, pathlib, sys
home = pathlib.Path.home()
with (home / "called").open("a") as called:
    called.write(" ".join(sys.argv[1:]) + "\\n")
if (home / "refuse").exists():
    sys.exit(1)
path = home / ".claude.json"
held = json.loads(path.read_text()) if path.exists() else {{"firstStart": 1}}
servers = held.setdefault("mcpServers", {{}})
if sys.argv[2] == "remove":
    del servers[sys.argv[5]]
elif not (home / "forget").exists():
    servers[sys.argv[5]] = json.load(sys.stdin)
path.write_text(json.dumps(held))
"""


@pytest.fixture
def own(home: Path) -> Callable[[], list[str]]:
    """A `claude` on the PATH that keeps servers as the real one does; gives what it was called with."""
    program = home / "bin/claude"
    program.parent.mkdir()
    program.write_text(OWN.format(python=sys.executable))
    program.chmod(0o755)
    called = home / "called"
    return lambda: called.read_text().splitlines() if called.exists() else []


def claude_entry(home: Path) -> dict[str, Any] | None:
    held = json.loads((home / ".claude.json").read_text()).get("mcpServers", {}).get("flux-2")
    assert held is None or isinstance(held, dict)
    return held


WANTED = {"type": "stdio", "args": [], "timeout": 960_000}


def test_claude_codes_own_command_line_adds_and_removes_and_what_it_kept_stays(
    run: Run, home: Path, own: Callable[[], list[str]]
) -> None:
    bin_ = str(home / "bin")
    code, out, _ = run("install", "claude-code", PATH=bin_)
    assert code == 0
    path = home / ".claude.json"
    assert f"Claude Code: flux-2 added to {path} by claude mcp add-json --scope user flux-2 -.\n" in out
    assert claude_entry(home) == WANTED | {"command": starts()}
    assert not path.with_name(".claude.json.flux2-backup").exists()
    assert run("install", "claude-code", PATH=bin_)[1].startswith("Claude Code: stands in")
    out = run("install", "claude-code", "--uninstall", PATH=bin_)[1]
    assert f"flux-2 removed from {path} by claude mcp remove --scope user flux-2.\n" in out
    assert json.loads(path.read_text()) == {"firstStart": 1, "mcpServers": {}}
    assert own() == ["mcp add-json --scope user flux-2 -", "mcp remove --scope user flux-2"]


@pytest.mark.parametrize("how", ["refuse", "forget"])
def test_where_it_does_not_do_it_an_edit_does(run: Run, home: Path, own: Callable[[], list[str]], how: str) -> None:
    (home / how).touch()
    (home / ".claude.json").write_text('{"theme": "dark"}')
    code, out, _ = run("install", "claude-code", PATH=str(home / "bin"))
    assert (code, len(own())) == (0, 1)
    assert "by an edit.\n" in out
    assert claude_entry(home) == WANTED | {"command": starts()}
    assert json.loads((home / ".claude.json").read_text())["theme"] == "dark"


def test_where_it_does_not_remove_an_edit_does(run: Run, home: Path, own: Callable[[], list[str]]) -> None:
    run("install", "claude-code", PATH=str(home / "bin"))
    (home / "refuse").touch()
    assert run("install", "claude-code", "--uninstall", PATH=str(home / "bin"))[0] == 0
    assert (claude_entry(home), len(own())) == (None, 2)


def test_an_entry_with_the_users_own_in_it_is_edited_since_the_command_line_would_drop_that(
    run: Run, home: Path, own: Callable[[], list[str]]
) -> None:
    held = {"mcpServers": {"flux-2": {"command": "/old/flux2-mcp", "note": "mine"}}}
    (home / ".claude.json").write_text(json.dumps(held))
    run("install", "claude-code", PATH=str(home / "bin"))
    assert own() == []
    assert claude_entry(home) == WANTED | {"command": starts(), "note": "mine"}


def test_a_file_with_comments_is_not_given_to_it(run: Run, home: Path, own: Callable[[], list[str]]) -> None:
    (home / ".claude.json").write_text("{\n  // mine\n}\n")
    code, _, err = run("install", "claude-code", PATH=str(home / "bin"))
    assert (code, own()) == (4, [])
    assert "line 2: a comment, and this host reads none" in err


def test_a_batch_file_is_not_started_since_a_shell_would_read_its_arguments_anew(home: Path) -> None:
    program = home / "claude.CMD"
    program.touch(mode=0o755)
    machine = host_plan.Machine(system="Windows", env={"PATH": str(home)}, workspace=None)
    assert machine.program("claude.CMD") is None


def test_a_system_that_is_none_of_the_three_is_taken_for_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    from flux2_mcp.cli.invocation import Invocation

    around = Invocation(env={}, config=None, workspace=None)
    monkeypatch.setattr(platform, "system", lambda: "FreeBSD")
    assert installation.machine(around).system == "Linux"
