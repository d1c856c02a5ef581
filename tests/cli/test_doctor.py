"""`flux2-mcp doctor` of key, RunAPI, journal and disk: each made wrong, and the command that it says mends it."""

from __future__ import annotations

import json
import shutil
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import time

import pytest
import trustme

from flux2_mcp import __version__
from flux2_mcp.cli import doctor_checks
from flux2_mcp.domain import catalog
from flux2_mcp.sandbox.server import Sandbox
from tests.support.doctor_runs import WRONG_KEY, Doctor, doctors

REAL_KEY_LENGTH = 12


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
    assert seen("prices")[:2] == ("ok", f"live for {len(catalog.models())} models")
    assert (seen("clock")[0], seen("clock")[1].split(" s ")[1]) == ("ok", "of RunAPI's")
    assert seen("version")[1].startswith(f"{__version__} (")
    assert seen("python")[1].endswith(f"({sys.executable})")
    assert (seen.code, seen.failing) == (0, [])


def test_without_a_key_the_sandbox_is_looked_at_and_that_is_no_failure(doctor: Doctor) -> None:
    seen = doctor()
    assert seen("key") == ("note", "none: the sandbox draws the images, and no money moves", "flux2-mcp login")
    assert seen("base URL")[1].startswith("the embedded sandbox answers in ")
    assert seen.code == 0


def test_the_words_stand_in_columns_with_what_to_run_below(doctor: Doctor, tmp_path: Path) -> None:
    code, out = doctor.run("doctor", "--timeout", "120", "cursor", FLUX2_HOME=str(tmp_path / "none"), NO_COLOR="1")
    lines = out.splitlines()
    assert code == 1
    assert lines[0] == f"ok    python          {sys.version.split()[0]} ({sys.executable})"
    assert lines[2:4] == [
        "note  key             none: the sandbox draws the images, and no money moves",
        "                      run: flux2-mcp login",
    ]
    assert lines[-3:] == [
        "fail  cursor          no entry",
        "                      run: flux2-mcp install cursor",
        "1 to mend.",
    ]
    assert doctor.run("doctor", "--timeout", "120", NO_COLOR="1")[1].splitlines()[-1] == "All is well."


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
    assert (status, mend) == ("fail", doctor_checks.SET_CLOCK["Linux"])
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


def test_the_journal_is_counted_and_measured_and_a_broken_one_fails(doctor: Doctor, tmp_path: Path) -> None:
    journal = tmp_path / "home/journal.sqlite3"
    assert doctor()("journal") == ("ok", f"none yet; the first task makes {journal}", None)
    assert doctor.run("generate", "a red fox", "--count", "2")[0] == 0
    status, detail, _ = doctor()("journal")
    assert (status, detail.startswith("sound, 2 tasks, 0.")) == ("ok", True)
    whole = journal.read_bytes()
    for wreck in (b"this is no database", whole[:4096] + b"\xff" * (len(whole) - 4096)):
        for part in journal.parent.glob("journal.sqlite3-*"):
            part.unlink()
        journal.write_bytes(wreck)
        assert doctor()("journal") == (
            "fail",
            f"{journal} is broken, or lacks what was written into it",
            "flux2-mcp doctor --salvage",
        )
        assert journal.read_bytes() == wreck


def test_a_store_of_images_is_asked_and_the_keys_that_were_set_for_it_are_named_not_shown(
    doctor: Doctor, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    assert "images" not in doctor().checks
    status, detail, command = doctor(FLUX2_IMAGES_URL=str(shared))("images")
    assert (status, command) == ("fail", doctor_checks.STORE_KEYS)
    assert detail.startswith("The store of images (FLUX2_IMAGES_URL) can't be used")
    shared.mkdir()
    assert doctor(FLUX2_IMAGES_URL=str(shared))("images") == ("ok", f"{shared} answers", None)


def test_a_journal_that_is_no_file_fails(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "home/journal.sqlite3").mkdir(parents=True)
    assert doctor()("journal")[0] == "fail"


def test_a_home_that_is_no_folder_fails_the_journal_and_the_sandbox(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    seen = doctor(FLUX2_HOME=str(tmp_path / "file/home"))
    where = tmp_path / "file"
    assert seen("journal") == ("fail", f"{where} is not to be written", f"chmod u+rwx {where}")
    assert seen("base URL")[0::2] == ("fail", doctor_checks.ELSEWHERE)
    assert seen.failing == ["base URL", "journal"]


@pytest.mark.parametrize(("free", "status"), [(99_000_000, "fail"), (999_000_000, "note"), (1_000_000_000, "ok")])
def test_a_disk_without_room_fails(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type(usage)(usage.total, usage.total - free, free))
    told = doctor()("disk")
    assert told[0] == status
    assert told[1].startswith(f"{free // 1_000_000:,} MB free at ")


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
