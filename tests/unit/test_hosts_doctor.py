"""`flux2-mcp doctor`: each thing that can be wrong, made wrong, and the command that it says mends it."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import signal
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import time
from typing import Any, NamedTuple

import pytest
import trustme

from flux2_mcp import __version__
from flux2_mcp.commands import checks, cli, host_checks
from flux2_mcp.sandbox.server import Sandbox

WRONG_KEY = "canary-5d1c9b7e4f00"
REAL_KEY_LENGTH = 12


class Seen(NamedTuple):
    code: int
    checks: dict[str, dict[str, Any]]
    text: str

    def __call__(self, check: str) -> tuple[str, str, str | None]:
        found = self.checks[check]
        return found["status"], found["detail"], found["mend"]

    @property
    def failing(self) -> list[str]:
        return [name for name, check in self.checks.items() if check["status"] == "fail"]


Doctor = Callable[..., Seen]


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def home(clean_env: dict[str, str]) -> Path:
    home = Path(clean_env["HOME"])
    home.mkdir()
    return home


@pytest.fixture
def run(
    clean_env: dict[str, str], home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str]]]:
    logger, mcp = logging.getLogger("flux2_mcp"), logging.getLogger("mcp")
    before = logger.level, mcp.level
    assert home.is_dir()

    def run(*argv: str, config: str | None = None, **env: str) -> tuple[int, str]:
        workspace = tmp_path / "project"
        workspace.mkdir(exist_ok=True)
        code = cli.run(argv, clean_env | {"PATH": ""} | env, config, str(workspace))
        out, err = capsys.readouterr()
        assert err == ""
        return code, out

    yield run
    logger.setLevel(before[0])
    mcp.setLevel(before[1])


@pytest.fixture
def doctor(run: Callable[..., tuple[int, str]]) -> Doctor:
    """The report, and that each line of it that fails or is to be carried further says with what."""

    def doctor(*hosts: str, config: str | None = None, **env: str) -> Seen:
        code, out = run("doctor", *hosts, "--json", config=config, **env)
        report = json.loads(out)
        found = {check["check"]: check for check in report["checks"]}
        assert all(check["mend"] for check in report["checks"] if check["status"] == "fail")
        assert report["ok"] == (code == 0) == ("fail" not in {check["status"] for check in report["checks"]})
        return Seen(code, found, out)

    return doctor


@contextmanager
def runapi(tmp_path: Path) -> Iterator[tuple[Sandbox, dict[str, str]]]:
    with Sandbox(tmp_path / "runapi") as served:
        yield served, {"RUNAPI_BASE_URL": served.base_url, "RUNAPI_API_KEY": served.api_key}


@contextmanager
def answering(status: int, body: bytes, tls: ssl.SSLContext | None = None, **headers: str) -> Iterator[dict[str, str]]:
    """A server on loopback that gives the same answer to every GET."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that does not like the certificate hangs up."""

    with Server(("127.0.0.1", 0), Handler) as server:
        origin = f"http://127.0.0.1:{server.server_port}"
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
            origin = f"https://localhost:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield {"RUNAPI_BASE_URL": origin, "RUNAPI_API_KEY": WRONG_KEY}
        finally:
            server.shutdown()
            thread.join()


# --- all is well ------------------------------------------------------------------------------------------------------


def test_with_a_key_it_says_where_from_and_no_more_of_it_than_four_characters(doctor: Doctor, tmp_path: Path) -> None:
    with runapi(tmp_path) as (served, env):
        seen = doctor(**env)
        key, where = served.api_key, served.base_url
    assert len(key) >= REAL_KEY_LENGTH
    assert seen("key") == ("ok", f"from RUNAPI_API_KEY, ends in {key[-4:]}; RunAPI takes it", None)
    assert key[:-4] not in seen.text
    assert key[-5:] not in seen.text
    status, detail, _ = seen("base URL")
    assert (status, detail.startswith(f"{where} answers in ")) == ("ok", True)
    assert seen("prices")[:2] == ("ok", "live for 6 models")
    assert (seen("clock")[0], seen("clock")[1].split(" s ")[1]) == ("ok", "of RunAPI's")
    assert seen("version")[1].startswith(f"{__version__} (")
    assert seen("python")[1].endswith(f"({sys.executable})")
    assert (seen.code, seen.failing) == (0, [])


def test_without_a_key_the_sandbox_is_looked_at_and_that_is_no_failure(doctor: Doctor) -> None:
    seen = doctor()
    assert seen("key") == ("note", "none: the sandbox draws the images, and no money moves", "flux2-mcp login")
    assert seen("base URL")[1].startswith("the embedded sandbox answers in ")
    assert seen.code == 0


def test_the_words_stand_in_columns_with_what_to_run_below(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, out = run("doctor", "cursor", FLUX2_HOME=str(tmp_path / "none"), NO_COLOR="1")
    lines = out.splitlines()
    assert code == 1
    assert lines[0] == f"ok    python    {sys.version.split()[0]} ({sys.executable})"
    assert lines[2:4] == [
        "note  key       none: the sandbox draws the images, and no money moves",
        "                run: flux2-mcp login",
    ]
    assert lines[-3:] == ["fail  cursor    no entry", "                run: flux2-mcp install cursor", "1 to mend."]
    run("install", "cursor")
    assert run("doctor", "cursor", NO_COLOR="1")[1].splitlines()[-1] == "All is well."


# --- key, RunAPI, clock, prices ---------------------------------------------------------------------------------------


def test_a_key_that_runapi_does_not_take_fails(doctor: Doctor, tmp_path: Path) -> None:
    with runapi(tmp_path) as (_, env):
        seen = doctor(**env | {"RUNAPI_API_KEY": WRONG_KEY})
    detail = "from RUNAPI_API_KEY, ends in 4f00; RunAPI answered 401: Invalid API key"
    assert seen("key") == ("fail", detail, "flux2-mcp login")
    assert (seen.code, seen.failing) == (1, ["key"])
    assert WRONG_KEY not in seen.text


def test_a_key_that_is_too_short_to_hide_is_not_shown_at_all(doctor: Doctor, tmp_path: Path) -> None:
    with runapi(tmp_path) as (_, env):
        seen = doctor(**env | {"RUNAPI_API_KEY": "tinykey"})
    assert seen("key")[1] == "from RUNAPI_API_KEY; RunAPI answered 401: Invalid API key"


def test_a_key_that_the_mode_leaves_unused_is_said_to_be(doctor: Doctor) -> None:
    seen = doctor(RUNAPI_API_KEY=WRONG_KEY, FLUX2_MODE="sandbox")
    assert seen("key")[0::2] == ("note", "unset FLUX2_MODE")
    assert doctor(FLUX2_MODE="live", RUNAPI_BASE_URL="http://127.0.0.1:9")("key")[0] == "fail"


def test_a_key_file_that_others_can_read_fails_with_the_command_that_hides_it(
    doctor: Doctor, home: Path, tmp_path: Path
) -> None:
    path = home / ".config/runapi/config.json"
    path.parent.mkdir(parents=True)
    with runapi(tmp_path) as (served, env):
        del env["RUNAPI_API_KEY"]
        path.write_text(json.dumps({"api_key": served.api_key}))
        path.chmod(0o644)
        seen = doctor(config=path.read_text(), **env)
        assert seen("key file") == ("fail", f"{path} can be read by others (mode 644)", f"chmod 600 {path}")
        path.chmod(0o600)
        seen = doctor(config=path.read_text(), **env)
    assert "key file" not in seen.checks
    assert seen("key")[1].startswith("from RunAPI's config file, ends in ")


def test_a_base_url_where_nobody_is_fails(doctor: Doctor) -> None:
    seen = doctor(RUNAPI_BASE_URL="http://127.0.0.1:9", RUNAPI_API_KEY=WRONG_KEY)
    status, detail, mend = seen("base URL")
    assert (status, mend) == ("fail", "curl -sS -o /dev/null http://127.0.0.1:9")
    assert detail.startswith("http://127.0.0.1:9: RunAPI gave no answer: no connection")
    assert seen("key")[:2] == ("note", "from RUNAPI_API_KEY, ends in 4f00; nobody was there to try it with")
    assert seen.failing == ["base URL"]


PRICES = json.dumps({"as_of": "2026-11-01", "price_schedules": []}).encode()


@pytest.mark.parametrize(("ahead", "words"), [(-3600, "ahead of"), (3600, "behind")])
def test_a_clock_that_is_wrong_fails(doctor: Doctor, ahead: int, words: str) -> None:
    with answering(200, PRICES, Date=formatdate(time() + ahead, usegmt=True)) as env:
        seen = doctor(**env)
    status, detail, mend = seen("clock")
    assert (status, mend) == ("fail", checks.SET_CLOCK["Linux"])
    assert f" s {words} RunAPI's" in detail
    assert abs(int(detail.split()[0]) - 3600) <= 60


def test_prices_that_are_not_listed_fail_and_a_clock_that_is_not_told_does_not(doctor: Doctor) -> None:
    with answering(200, PRICES) as env:
        seen = doctor(**env)
    assert seen("prices")[0::2] == ("fail", "flux2-mcp pricing")
    assert seen("clock")[0] == "note"
    with answering(200, b'{"price_schedules": 7}') as env:
        assert doctor(**env)("prices")[0] == "fail"


def test_a_setting_that_can_not_be_used_fails_by_its_name_and_the_rest_is_still_looked_at(doctor: Doctor) -> None:
    seen = doctor(FLUX2_RATE="fast")
    assert seen("settings")[0::2] == ("fail", "unset FLUX2_RATE")
    assert "base URL" not in seen.checks
    assert doctor(config="{")("settings")[0::2] == ("fail", "flux2-mcp login")


# --- journal and disk -------------------------------------------------------------------------------------------------


def test_the_journal_is_counted_and_measured_and_a_broken_one_fails(
    doctor: Doctor, run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    journal = tmp_path / "home/journal.sqlite3"
    assert doctor()("journal") == ("ok", f"none yet; the first task makes {journal}", None)
    assert run("generate", "a red fox", "--count", "2")[0] == 0
    status, detail, _ = doctor()("journal")
    assert (status, detail.startswith("sound, 2 tasks, 0.")) == ("ok", True)
    whole = journal.read_bytes()
    for wreck in (b"this is no database", whole[:4096] + b"\xff" * (len(whole) - 4096)):
        for part in journal.parent.glob("journal.sqlite3-*"):
            part.unlink()
        journal.write_bytes(wreck)
        assert doctor()("journal") == (
            "fail",
            f"{journal} is broken",
            shlex.join(["mv", str(journal), f"{journal}.broken"]),
        )
        assert journal.read_bytes() == wreck


def test_a_journal_that_is_no_file_fails(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "home/journal.sqlite3").mkdir(parents=True)
    assert doctor()("journal")[0] == "fail"


def test_a_home_that_is_no_folder_fails_the_journal_and_the_sandbox(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    seen = doctor(FLUX2_HOME=str(tmp_path / "file/home"))
    where = tmp_path / "file"
    assert seen("journal") == ("fail", f"{where} is not to be written", f"chmod u+rwx {where}")
    assert seen("base URL")[0::2] == ("fail", checks.ELSEWHERE)
    assert seen.failing == ["base URL", "journal"]


@pytest.mark.parametrize(("free", "status"), [(99_000_000, "fail"), (999_000_000, "note"), (1_000_000_000, "ok")])
def test_a_disk_without_room_fails(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type(usage)(usage.total, usage.total - free, free))
    told = doctor()("disk")
    assert told[0] == status
    assert told[1].startswith(f"{free // 1_000_000:,} MB free at ")


# --- hosts ------------------------------------------------------------------------------------------------------------


def entry_of(home: Path, **changes: object) -> Path:
    path = home / ".cursor/mcp.json"
    path.parent.mkdir(exist_ok=True)
    program = str(Path(sys.executable).with_name("flux2-mcp"))
    held = {"command": program, "args": []} | changes
    path.write_text(json.dumps({"mcpServers": {"flux-2": held}}))
    return path


def test_an_entry_is_started_as_the_host_would_with_what_the_user_added_and_answers(doctor: Doctor, home: Path) -> None:
    path = entry_of(home, env={"FLUX2_LOG": "error"}, disabled=False)
    status, detail, _ = doctor("cursor")("cursor")
    assert status in {"ok", "note"}  # late on a busy machine
    assert detail.startswith(f"flux-2 in {path}: answers in ")
    assert re.search(r": answers in \d+\.\d\d s with 4 tools, works in \d+\.\d\d s", detail)


def test_hosts_that_are_found_are_looked_at_and_only_those_asked_for_must_have_the_entry(
    doctor: Doctor, home: Path
) -> None:
    (home / ".cursor").mkdir()
    seen = doctor()
    assert seen("cursor") == ("note", "no entry", "flux2-mcp install cursor")
    assert {"codex", "vscode"} & set(seen.checks) == set()
    seen = doctor("cursor", "codex")
    assert [seen(name)[0] for name in ("cursor", "codex")] == ["fail", "fail"]


def test_an_entry_that_is_not_what_install_writes_fails_and_install_mends_it(
    doctor: Doctor, run: Callable[..., tuple[int, str]], home: Path
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
    assert run("install", "cursor")[0] == 0
    assert doctor("cursor").failing == []


def test_limits_that_were_lowered_and_other_names_and_scopes_are_named_in_the_command(
    doctor: Doctor, run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    run("install", "gemini", "--scope", "project", "--name", "pictures")
    path = tmp_path / "project/.gemini/settings.json"
    path.write_text(path.read_text().replace("960000", "60000"))
    seen = doctor("gemini")
    mend = "flux2-mcp install gemini --scope project --name pictures"
    assert seen("gemini") == ("fail", f"pictures in {path} differs in timeout", mend)
    run(*shlex.split(mend)[1:])
    assert doctor("gemini").failing == []


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


def test_placeholders_in_an_entry_are_no_keys_in_clear_in_any_dialect(
    doctor: Doctor, run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    run("install", "cursor", "--scope", "project")
    path = tmp_path / "project/.cursor/mcp.json"
    held = json.loads(path.read_text())
    entry = held["mcpServers"]["flux-2"]
    as_it_is = dict(entry)
    for placeholder in ("${user_config.api_key}", "%RUNAPI_API_KEY%", "${input:runapi-key}", "{env:RUNAPI_API_KEY}"):
        # Keys in clear are looked for before anything else; with another command, nothing is started.
        entry |= {"env": {"RUNAPI_API_KEY": placeholder}, "command": "/gone/flux2-mcp"}
        path.write_text(json.dumps(held))
        assert doctor("cursor")("cursor")[1] == f"flux-2 in {path} differs in command"
    entry |= as_it_is
    path.write_text(json.dumps(held))
    assert doctor("cursor").failing == []


def test_a_key_in_clear_in_a_projects_file_fails_and_the_command_takes_it_out(
    doctor: Doctor, run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    run("install", "cursor", "--scope", "project")
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
    run(*shlex.split(f"{install} --uninstall")[1:])
    run(*shlex.split(install)[1:])
    assert WRONG_KEY not in path.read_text()
    assert doctor("cursor").failing == []


def test_a_start_that_is_late_is_said_with_what_makes_it_faster(
    doctor: Doctor, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_of(home)
    monkeypatch.setattr(host_checks, "LATE_START", 0.0)
    status, detail, mend = doctor("cursor")("cursor")
    assert (status, detail.endswith("; late for a first turn")) == ("note", True)
    assert mend is not None
    assert shlex.split(mend)[:4] == [sys.executable, "-m", "compileall", "-q"]
    assert (Path(shlex.split(mend)[4]) / "app.py").is_file()


def test_a_server_that_never_answers_is_given_up(doctor: Doctor, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = home / "flux2-mcp"
    silent.write_text(f"#!{sys.executable}\nimport sys\nsys.stdin.read()\n")
    silent.chmod(0o755)
    monkeypatch.setattr(host_checks, "LONGEST_START", 0.5)
    monkeypatch.setattr("flux2_mcp.hosts.command.words", lambda *_: [str(silent)])
    path = entry_of(home, command=str(silent))
    assert doctor("cursor")("cursor") == ("fail", f"flux-2 in {path}: no answer in 0 s", str(silent))


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
def test_a_server_that_ends_or_babbles_fails_in_one_line(
    doctor: Doctor, home: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    broken = home / "flux2-mcp"
    broken.write_text(f"#!{sys.executable}\n{program}\n")
    broken.chmod(0o755)
    monkeypatch.setattr("flux2_mcp.hosts.command.words", lambda *_: [str(broken)])
    path = entry_of(home, command=str(broken))
    # What a shell would have set is not there: a host that was not started from one hands on no more than this.
    seen = doctor("cursor", PATH="/a/shells/own", RUNAPI_API_KEY=WRONG_KEY, RUNAPI_BASE_URL="http://127.0.0.1:9")
    assert seen("cursor")[1] == f"flux-2 in {path}: it does not start: {words}"


def test_a_program_that_can_not_be_started_fails(doctor: Doctor, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = str(home / "flux2-mcp")
    monkeypatch.setattr("flux2_mcp.hosts.command.words", lambda *_: [gone])
    path = entry_of(home, command=gone)
    assert doctor("cursor")("cursor")[1] == f"flux-2 in {path}: it does not start: {os.strerror(2)}"


def test_a_copy_that_will_not_last_fails_with_how_to_install_it(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/home/ada/.cache/uv/archive-v0/x/bin/python")
    assert doctor("cursor")("hosts")[0::2] == ("fail", "uv tool install . && flux2-mcp install")


def test_in_the_home_folder_itself_a_file_is_looked_at_once(
    clean_env: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry_of(home, command="/gone/flux2-mcp")  # so that nothing is started
    assert cli.run(["doctor", "cursor", "--json"], clean_env, None, str(home)) == 1
    found = json.loads(capsys.readouterr().out)["checks"]
    assert [check["check"] for check in found].count("cursor") == 1


# --- the way to RunAPI ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "why", "mend"),
    [
        ({}, "no address is known for api.runapi.invalid.", "curl -sS -o /dev/null https://api.runapi.invalid"),
        ({"HTTPS_PROXY": "http://127.0.0.1:9"}, "nothing listens at 127.0.0.1:9, the proxy that HTTPS_PROXY", None),
        ({"ALL_PROXY": "gopher://x"}, "ALL_PROXY must be the address of a proxy", None),
        ({"SSL_CERT_FILE": "/missing"}, "SSL_CERT_FILE names no certificates: No such file or directory.", None),
    ],
)
def test_what_stands_before_runapi_is_said_with_the_command_that_mends_it(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], why: str, mend: str | None
) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    seen = doctor(RUNAPI_BASE_URL="https://api.runapi.invalid", RUNAPI_API_KEY=WRONG_KEY)
    status, detail, told = seen("base URL")
    assert (status, told) == ("fail", mend or f"unset {next(iter(env))}")
    assert why in detail


def test_a_certificate_that_is_not_trusted_is_said_with_the_variable_that_mends_it(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    with answering(200, PRICES, tls=context) as env:
        status, detail, mend = doctor(**env)("base URL")
    assert (status, mend) == ("fail", "export SSL_CERT_FILE=/path/to/certificate.pem")
    assert "the certificate of localhost is not trusted (unable to get local issuer certificate)." in detail
    assert "SSL_CERT_FILE must name a PEM file" in detail
