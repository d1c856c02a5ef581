"""`flux2-mcp serve --http` as a process: who gets in, and how it ends."""

from __future__ import annotations

import re
import socket
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import product
from pathlib import Path
from typing import Any

import httpx2
import pytest

from flux2_mcp.cli.serve import PORT
from flux2_mcp.sandbox.server import Sandbox
from tests.conftest import environment
from tests.process.conftest import Here
from tests.process.test_exit import SIGNALS
from tests.support import forked
from tests.support.deep import thin
from tests.support.rows import rows
from tests.support.sandboxed import TLS
from tests.support.stdio import COMMAND, DEADLINE, ERAS, LEGACY, MODERN, hello
from tests.support.web import ACCEPT, Served, WebHost

INITIALIZE = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello({})}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebHost]:
    folder = tmp_path_factory.mktemp("shared")
    host = WebHost(environment(folder), LEGACY, cwd=str(folder))
    yield host
    host.close()


def test_the_token_is_shown_at_the_first_start_alone_and_kept_for_its_owner(
    clean_env: dict[str, str], tmp_path: Path
) -> None:
    file = Path(clean_env["FLUX2_HOME"]) / "http-token"
    with Served(clean_env, str(tmp_path)) as first:
        token = file.read_text("ascii").strip()
        said = first.stop()
    assert first.process.returncode == 143
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert said == (
        f"Serving MCP at {first.url}, for this machine alone. Ctrl-C ends it.\n"
        f"Bearer token, made now and not shown again: {token}\n"
        f"It stays in {file}, for you alone to read.\n"
    )
    with Served(clean_env, str(tmp_path)) as second:
        said = second.stop()
    assert said == (
        f"Serving MCP at {second.url}, for this machine alone. Ctrl-C ends it.\nThe bearer token is in {file}.\n"
    )


def test_without_the_token_nothing_is_answered(shared: WebHost) -> None:
    url = shared.served.url
    with httpx2.Client(headers=ACCEPT, verify=TLS, timeout=DEADLINE) as http:
        refused = [
            http.post(url, json=INITIALIZE),
            http.post(url, json=INITIALIZE, headers={"Authorization": "Bearer wrong"}),
            http.get(url),
            http.get(url.replace("/mcp", "/")),
            http.delete(url),
        ]
    assert [answer.status_code for answer in refused] == [401] * 5
    assert {answer.headers["www-authenticate"] for answer in refused} == {"Bearer"}


@rows("era", ERAS)
@rows(
    ("header", "value", "status"),
    [
        ("Host", "evil.example", 421),
        ("Host", "evil.example:PORT", 421),
        ("Host", "127.0.0.1:1", 421),
        ("Host", "127.0.0.1", 421),
        ("Host", "127.0.0.1:PORT.", 421),
        ("Host", "localhost..:PORT", 421),
        ("Host", "localhost:PORT", 200),
        ("Host", "LocalHost:PORT", 200),
        ("Host", "localhost.:PORT", 200),
        ("Origin", "http://evil.example", 403),
        ("Origin", "http://127.0.0.1:1", 403),
        ("Origin", "null", 403),
        ("Origin", "https://localhost:PORT", 403),
        ("Origin", "http://localhost.evil.example:PORT", 403),
        ("Origin", "http://localhost:PORT", 200),
        ("Origin", "http://LOCALHOST.:PORT", 200),
    ],
)
def test_other_names_and_pages_from_elsewhere_are_refused_even_with_the_token(
    shared: WebHost, era: str, header: str, value: str, status: int
) -> None:
    port = shared.served.url.split(":")[2].split("/")[0]
    message: dict[str, Any] = INITIALIZE
    headers = {header: value.replace("PORT", port)}
    if era == MODERN:
        meta = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": meta}}
        headers |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": "server/discover"}
    assert shared.http.post(shared.served.url, json=message, headers=headers).status_code == status


@rows(
    ("content", "status", "code"),
    [
        (b"{", 400, -32700),
        (b"\xff\xfe", 400, -32700),
        (b"[" * 9_000, 400, -32700),
        (b"[" * 100_000, 413, -32700),
        (b"[]", 400, -32600),
        (b"7", 400, -32600),
        (b'{"jsonrpc": "2.0", "id": 1}', 400, -32600),
        (b" " * (5 * 1024 * 1024), 413, None),
    ],
)
def test_what_is_no_message_is_refused_and_the_server_lives(
    shared: WebHost, content: bytes, status: int, code: int | None
) -> None:
    headers = {"MCP-Protocol-Version": MODERN}
    answer = shared.http.post(shared.served.url, content=content, headers=headers)
    assert answer.status_code == status
    if code is not None:
        assert answer.json()["error"]["code"] == code
    assert shared.http.post(shared.served.url, json=INITIALIZE).status_code == 200


def test_it_listens_on_loopback_alone(shared: WebHost) -> None:
    port = int(shared.served.url.split(":")[2].split("/")[0])
    table = Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]
    addresses = {row.split()[1].split(":")[0] for row in table if int(row.split()[1].split(":")[1], 16) == port}
    assert addresses == {"0100007F"}
    if socket.has_ipv6:
        table = Path("/proc/net/tcp6").read_text("ascii").splitlines()[1:]
        assert not any(int(row.split()[1].split(":")[1], 16) == port for row in table)


@pytest.mark.parametrize("host", ["127.0.0.3", "::1"])
def test_it_listens_on_another_address_of_loopback_where_it_is_told_to(clean_env: dict[str, str], host: str) -> None:
    command = [*COMMAND, "serve", "--http", "--port", "0", "--host", host]
    process = forked.begin(command, clean_env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        (url,) = re.findall(r"http://\S+/mcp", process.stderr.readline().decode())
        assert host in url
        process.stderr.readline()  # the token stands after this line
        token = (Path(clean_env["FLUX2_HOME"]) / "http-token").read_text("ascii").strip()
        told = ACCEPT | {"Authorization": f"Bearer {token}"}
        assert httpx2.post(url, json=INITIALIZE, headers=told, verify=TLS, timeout=DEADLINE).status_code == 200
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE)


@pytest.mark.parametrize(
    ("era", "number", "code"),
    thin([(era, *each) for era, each in product(ERAS, SIGNALS)], kept=[(MODERN, *SIGNALS[1])]),
)
def test_a_signal_ends_it_though_calls_wait_and_streams_are_open_and_its_tasks_are_free(
    tmp_path: Path, clean_env: dict[str, str], era: str, number: int, code: int
) -> None:
    with Sandbox(tmp_path / "elsewhere", speed=1000, rate=None) as runapi:
        env = clean_env | {"RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url}
        with WebHost(env, era, cwd=str(tmp_path)) as host, ExitStack() as streams:
            waiting = threading.Thread(target=_until_cut, args=(host,), daemon=True)
            waiting.start()
            deadline = time.monotonic() + DEADLINE
            while not any(task.polls for task in runapi.tasks()):  # it is written down
                assert time.monotonic() < deadline
                time.sleep(0.02)
            if era == LEGACY:
                assert streams.enter_context(host.http.stream("GET", host.served.url)).status_code == 200
            host.process.send_signal(number)
            assert host.process.wait(DEADLINE) == code
            waiting.join(DEADLINE)
            assert not waiting.is_alive()
            streams.close()
            assert "Traceback" not in host.close()
        (task,) = runapi.tasks()
    with closing(sqlite3.connect(Path(env["FLUX2_HOME"]) / "journal.sqlite3")) as journal:
        assert journal.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert journal.execute("SELECT task_id, lease_until FROM task").fetchall() == [(task.id, None)]


def _until_cut(host: WebHost) -> None:
    try:
        host.call("generate", prompt="a red fox [sandbox:stuck]")
    except (httpx2.TransportError, AssertionError, ValueError, KeyError):
        return  # cut off, or told that the server is ending


def test_a_port_that_is_taken_is_named_with_the_way_out(here: Here, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert here("serve", "--http", "--port", str(port)) == (
            1,
            "",
            (
                f"Error: The server can't listen on port {port} of 127.0.0.1: Address already in use.\n"
                "Nothing was charged.\nNext: Choose another --port, or 0 for any.\n"
            ),
        )
    assert not (tmp_path / "home" / "http-token").exists()


def test_serve_without_http_says_what_serves_over_stdio(here: Here) -> None:
    code, out, err = here("serve")
    assert (code, out) == (4, "")
    assert err.startswith("Error: Missing option '--http'.")
    code, out, err = here("serve", "--help")
    assert "Over stdio: flux2-mcp without a command." in re.sub(r"\s+", " ", out)
    assert str(PORT) in out
