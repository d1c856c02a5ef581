"""`flux2-mcp doctor` of hosts' entries: each thing that can be wrong, made wrong, and the command that it says mends it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flux2_mcp.cli import main
from tests.support import forked
from tests.support.doctor_runs import WRONG_KEY, Doctor, doctors
from tests.support.stdio import patched


@pytest.fixture
def home(clean_env: dict[str, str]) -> Path:
    home = Path(clean_env["HOME"])
    home.mkdir()
    return home


@pytest.fixture
def doctor(
    clean_env: dict[str, str], home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Doctor]:
    assert home.is_dir()
    with doctors(clean_env, tmp_path, capsys) as doctor:
        yield doctor


def entry_of(home: Path, **changes: object) -> Path:
    path = home / ".cursor/mcp.json"
    path.parent.mkdir(exist_ok=True)
    program = str(Path(sys.executable).with_name("flux2-mcp"))
    held = {"command": program, "args": []} | changes
    path.write_text(json.dumps({"mcpServers": {"flux-2": held}}))
    return path


def test_hosts_that_are_found_are_looked_at_and_only_those_asked_for_must_have_the_entry(
    doctor: Doctor, home: Path
) -> None:
    (home / ".cursor").mkdir()
    seen = doctor()
    assert seen("cursor") == ("note", "no entry", "flux2-mcp install cursor")
    assert {"codex", "vscode"} & set(seen.checks) == set()
    seen = doctor("cursor", "codex")
    assert [seen(name)[0] for name in ("cursor", "codex")] == ["fail", "fail"]


def test_an_entry_that_is_not_what_install_writes_fails_and_what_install_mended_is_started_and_its_late_start_said(
    doctor: Doctor, home: Path
) -> None:
    rows: dict[str, dict[str, object]] = {
        "command": {"command": "/gone/flux2-mcp"},
        "args": {"args": ["--x"]},
        "command, args": {"command": "flux2-mcp", "args": ["x"]},
    }
    for differs, changes in rows.items():
        path = entry_of(home, **changes)
        mend = "flux2-mcp install cursor"
        assert doctor("cursor")("cursor") == ("fail", f"flux-2 in {path} differs in {differs}", mend)
    assert doctor.run("install", "cursor")[0] == 0
    path = home / ".cursor/mcp.json"
    held = json.loads(path.read_text())
    held["mcpServers"]["flux-2"] |= {"env": {"FLUX2_LOG": "error"}, "disabled": False}  # what a user adds
    path.write_text(json.dumps(held))
    program = held["mcpServers"]["flux-2"]["command"]
    status, detail, faster = doctor.looked_at("cursor", program, late_seconds=0.0, max_seconds=120.0)
    assert (status, detail.endswith("; late for a first turn")) == ("note", True)
    assert detail.startswith(f"flux-2 in {path}: answers in ")
    assert re.search(r": answers in \d+\.\d\d s with 4 tools, works in \d+\.\d\d s", detail)
    assert faster is not None
    assert shlex.split(faster)[:4] == [sys.executable, "-m", "compileall", "-q"]
    assert (Path(shlex.split(faster)[4]) / "settings.py").is_file()


def test_limits_that_were_lowered_and_other_names_and_scopes_are_named_in_the_command(
    doctor: Doctor, tmp_path: Path
) -> None:
    doctor.run("install", "gemini", "--scope", "project", "--name", "pictures")
    path = tmp_path / "project/.gemini/settings.json"
    path.write_text(path.read_text().replace("960000", "60000"))
    seen = doctor("gemini")
    mend = "flux2-mcp install gemini --scope project --name pictures"
    assert seen("gemini") == ("fail", f"pictures in {path} differs in timeout", mend)
    doctor.run(*shlex.split(mend)[1:])
    assert '"timeout": 960000' in path.read_text()


def test_a_file_that_does_not_parse_fails_with_its_line_and_an_editor_there(doctor: Doctor, home: Path) -> None:
    path = home / ".codex/config.toml"
    path.parent.mkdir()
    path.write_text("a = 1\nb =\n")
    seen = doctor(EDITOR="nano -w")
    assert seen("codex") == ("fail", f"{path}, line 2: this is not TOML.", f"nano -w +2 {path}")
    path.write_bytes(b"\xff")
    assert doctor()("codex") == ("fail", f"{path}, line 1: this is not UTF-8.", f"vi +1 {path}")


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"FLUX2_RATE": "fast"}, "FLUX2_RATE must be a number from 0.1 to 1000."),
        ({"FLUX2_MODE": "${FLUX2_TEST_MODE}"}, "FLUX2_MODE must be one of auto, live, sandbox."),
    ],
)
def test_an_entry_that_hands_on_a_setting_that_can_not_be_used_fails_with_an_editor_at_the_entry(
    doctor: Doctor, home: Path, env: dict[str, str], words: str
) -> None:
    path = entry_of(home, env=env)
    seen = doctor("cursor", FLUX2_TEST_MODE="bogus")
    assert seen("cursor") == ("fail", f"flux-2 in {path}: {words}", f"vi +1 {path}")


def test_placeholders_in_an_entry_are_no_keys_in_clear_in_any_dialect(doctor: Doctor, tmp_path: Path) -> None:
    doctor.run("install", "cursor", "--scope", "project")
    path = tmp_path / "project/.cursor/mcp.json"
    held = json.loads(path.read_text())
    entry = held["mcpServers"]["flux-2"]
    for placeholder in ("${user_config.api_key}", "%RUNAPI_API_KEY%", "${input:runapi-key}", "{env:RUNAPI_API_KEY}"):
        # Keys in clear are looked for before anything else; with another command, nothing is started.
        entry |= {"env": {"RUNAPI_API_KEY": placeholder}, "command": "/gone/flux2-mcp"}
        path.write_text(json.dumps(held))
        assert doctor("cursor")("cursor")[1] == f"flux-2 in {path} differs in command"


def test_a_key_in_clear_in_a_projects_file_fails_and_the_command_takes_it_out(doctor: Doctor, tmp_path: Path) -> None:
    doctor.run("install", "cursor", "--scope", "project")
    path = tmp_path / "project/.cursor/mcp.json"
    held = json.loads(path.read_text())
    held["mcpServers"]["flux-2"]["env"] = {"RUNAPI_API_KEY": WRONG_KEY, "RUNAPI_KEY": "${env:RUNAPI_KEY}"}
    path.write_text(json.dumps(held))
    seen = doctor("cursor")
    install = "flux2-mcp install cursor --scope project"
    assert seen("cursor") == (
        "fail", f"flux-2 in {path} holds RUNAPI_API_KEY in clear", f"{install} --uninstall && {install}"
    )  # fmt: skip
    assert WRONG_KEY not in seen.text
    doctor.run(*shlex.split(f"{install} --uninstall")[1:])
    doctor.run(*shlex.split(install)[1:])
    assert WRONG_KEY not in path.read_text()
    assert json.loads(path.read_text())["mcpServers"].keys() == {"flux-2"}


@pytest.mark.parametrize(
    ("env", "strange"),
    [
        ({"PYTHONPATH": "./x", "FLUX2_LOG": "error"}, "PYTHONPATH"),
        ({"RUNAPI_BASE_URL": "${NOTHING:-https://127.0.0.1:9}"}, "RUNAPI_BASE_URL"),
    ],
)
def test_an_entry_of_the_folder_that_could_run_its_code_or_send_the_key_elsewhere_is_not_started(
    doctor: Doctor, tmp_path: Path, env: dict[str, str], strange: str
) -> None:
    doctor.run("install", "cursor", "--scope", "project")
    path, ran = tmp_path / "project/.cursor/mcp.json", tmp_path / "ran"
    (tmp_path / "project/x").mkdir()
    (tmp_path / "project/x/sitecustomize.py").write_text(f"open({str(ran)!r}, 'w').close()")
    held = json.loads(path.read_text())
    held["mcpServers"]["flux-2"]["env"] = env
    path.write_text(json.dumps(held))
    assert doctor("cursor")("cursor") == (
        "note", f"flux-2 in {path} sets {strange}, so it was not started", f"vi +1 {path}"
    )  # fmt: skip
    assert not ran.exists()


def hanging(folder: Path) -> str:
    """A program of our name that says nothing."""
    path = folder / "flux2-mcp"
    path.write_text(f"#!{sys.executable}\nimport sys\nsys.stdin.read()\n")
    path.chmod(0o755)
    return str(path)


def test_entries_are_started_side_by_side(doctor: Doctor, home: Path) -> None:
    """Each of four waits until all of them were started: one after the other, none would ever end."""
    program, seen = home / "flux2-mcp", home / "seen"
    program.write_text(
        f"#!{sys.executable}\nimport os, pathlib, sys\nseen = pathlib.Path({str(seen)!r})\n"
        "(seen / str(os.getpid())).touch()\n"
        "while len(list(seen.iterdir())) < 4: pass\n"
        "sys.exit('all are here')\n"
    )
    program.chmod(0o755)
    seen.mkdir()
    entry_of(home, command=str(program))
    for file in (".mcp.json", ".codeium/windsurf/mcp_config.json", ".gemini/config/mcp_config.json"):
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).write_text((home / ".cursor/mcp.json").read_text())
    claude = {"mcpServers": {"flux-2": {"type": "stdio", "command": str(program), "args": [], "timeout": 960_000}}}
    (home / ".claude.json").write_text(json.dumps(claude))
    names = ("cursor", "devin-desktop", "antigravity", "claude-code")
    found = doctor.looked_at_all(names, str(program), max_seconds=60.0)
    assert len(found) == len(names)
    assert all(detail.endswith("it does not start: all are here") for _, detail, _ in found)


def test_a_row_is_told_before_the_others_are_known(doctor: Doctor, home: Path) -> None:
    """The one entry ends once the other host's row was told, and writes what it found then."""
    program = home / "flux2-mcp"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.stdin.readline()\nsys.exit('asked')\n")
    program.chmod(0o755)
    entry_of(home, command=str(program))
    found = doctor.looked_at_all(("cursor", "codex"), str(program), max_seconds=60.0)
    assert [detail.rpartition(": ")[2] for _, detail, _ in found] == ["no entry", "asked"]


def test_rows_are_printed_while_an_entry_has_not_answered_yet(clean_env: dict[str, str], home: Path) -> None:
    program, go = home / "flux2-mcp", home / "go"
    os.mkfifo(go)
    program.write_text(f"#!{sys.executable}\nimport sys\nopen({str(go)!r}).close()\nsys.exit('went')\n")
    program.chmod(0o755)
    entry_of(home, command=str(program))
    code = f"from flux2_mcp.cli import installation\ninstallation.server = lambda _: [{str(program)!r}]\n"
    with forked.begin(
        patched(code, "doctor", "cursor", "--timeout", "120"),
        clean_env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "  disk  " in line:
                break
        go.open("w").close()
        *_, last, mend, end = process.stdout.read().splitlines()
        assert process.wait(60) == 1
    assert last.endswith("it does not start: went")
    assert (mend.strip(), end.endswith(" to mend.")) == (f"run: {program}", True)


def test_entries_of_the_folder_are_looked_at_though_their_hosts_are_not_on_the_machine(
    doctor: Doctor, tmp_path: Path
) -> None:
    named = ("claude-code", "cursor", "vscode", "copilot")
    assert doctor.run("install", *named, "--scope", "project")[0] == 0
    for path in (".mcp.json", ".cursor/mcp.json", ".vscode/mcp.json"):
        file = tmp_path / "project" / path
        file.write_text(file.read_text().replace('"args": []', '"args": ["--old"]'))
    (tmp_path / "project/.gemini").mkdir()
    (tmp_path / "project/.gemini/settings.json").write_text("{}")
    seen = doctor()
    # Claude Code and Copilot CLI share a file, and a file without an entry of ours is of no interest.
    assert seen.failing == ["claude-code", "cursor", "vscode"]
    assert seen("vscode") == (
        "fail",
        f"flux-2 in {tmp_path / 'project/.vscode/mcp.json'} differs in args",
        "flux2-mcp install vscode --scope project",
    )
    assert not {"gemini", "copilot"} & set(seen.checks)


def test_a_server_that_never_answers_is_given_up(doctor: Doctor, home: Path) -> None:
    silent = hanging(home)
    path = entry_of(home, command=silent)
    found = doctor.looked_at("cursor", silent, max_seconds=0.5)
    assert found == ("fail", f"flux-2 in {path}: no answer in 0 s", silent)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; print('not JSON', flush=True)", "it ended without an answer"),
        ("raise SystemExit(3)", "it ended without an answer"),
        ("raise SystemExit('no luck\\nat all')", "no luck"),
        ("import os; raise SystemExit(os.environ['PATH'])", os.defpath),
        ("import os; raise SystemExit(os.environ.get('RUNAPI_API_KEY', 'no key'))", "no key"),
    ],
)
def test_a_server_that_ends_or_babbles_fails_in_one_line(doctor: Doctor, home: Path, program: str, words: str) -> None:
    broken = home / "flux2-mcp"
    broken.write_text(f"#!{sys.executable}\n{program}\n")
    broken.chmod(0o755)
    path = entry_of(home, command=str(broken))
    # What a shell would have set is not there: a host that was not started from one hands on no more than this.
    env = {"PATH": "/a/shells/own", "RUNAPI_API_KEY": WRONG_KEY, "RUNAPI_BASE_URL": "http://127.0.0.1:9"}
    assert doctor.looked_at("cursor", str(broken), env, max_seconds=60.0)[:2] == (
        "fail",
        f"flux-2 in {path}: it does not start: {words}",
    )


def test_a_program_that_can_not_be_started_fails(doctor: Doctor, home: Path) -> None:
    gone = str(home / "flux2-mcp")
    path = entry_of(home, command=gone)
    assert doctor.looked_at("cursor", gone, max_seconds=60.0)[:2] == (
        "fail",
        f"flux-2 in {path}: it does not start: {os.strerror(2)}",
    )


def test_a_copy_that_will_not_last_fails_with_how_to_install_it(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/home/ada/.cache/uv/archive-v0/x/bin/python")
    assert doctor("cursor")("hosts")[0::2] == ("fail", "uv tool install . && flux2-mcp install")


def test_in_the_home_folder_itself_a_file_is_looked_at_once(
    clean_env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry_of(home, command="/gone/flux2-mcp")  # so that nothing is started
    assert main.run(["doctor", "cursor", "--timeout", "120", "--json"], clean_env, None, str(home)) == 1
    found = json.loads(capsys.readouterr().out)["checks"]
    assert [check["check"] for check in found].count("cursor") == 1


@pytest.mark.parametrize("hosts", [(), ("cursor",)])
def test_without_a_home_folder_all_but_the_hosts_is_looked_at_and_told(doctor: Doctor, hosts: tuple[str, ...]) -> None:
    seen = doctor(*hosts, HOME="", FLUX2_MODE="sandbox")
    assert seen.failing == ["hosts"]
    assert seen("hosts")[1] == "there is no home folder: HOME is not set."
    assert {"python", "base URL", "journal"} <= seen.checks.keys()
