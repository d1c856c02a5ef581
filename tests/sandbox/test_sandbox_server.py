"""The embedded server's own life: start, close, several on one folder, in one process and in two."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest
from starlette.types import Message

from flux2_mcp.errors import SandboxError
from flux2_mcp.sandbox.app import create
from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.sandbox.state import SandboxState
from tests.support.sandboxed import TEXT, TLS, running

OTHER_PROCESS = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import httpx2
from flux2_mcp.sandbox.server import Sandbox

told = json.loads(sys.stdin.readline())
with Sandbox(Path(told["folder"]), speed=1000) as sandbox:
    with httpx2.Client(base_url=sandbox.base_url, headers={"Authorization": "Bearer " + sandbox.api_key}, timeout=60) as http:
        task = http.get(told["path"]).json()
        again = http.post(told["create"], json=told["body"], headers={"Idempotency-Key": "shared"}).json()
        file = http.get("/files/" + told["file"])
        print(json.dumps({
            "key": sandbox.api_key,
            "base_url": sandbox.base_url,
            "task": task,
            "again": again["id"],
            "balance": http.get("/api/v1/me/balance").json(),
            "file": file.text,
            "creates": sandbox.creates(),
        }))
"""


def test_it_answers_as_soon_as_it_has_started_and_not_once_it_is_closed(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "sandbox").start()
    url = f"{sandbox.base_url}/api/v1/price_schedules"
    assert httpx2.get(url, timeout=60).status_code == 200
    sandbox.close()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url)


def test_closing_is_quick_even_with_calls_under_way_and_does_nothing_twice(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "sandbox").start()
    threads = threading.active_count()
    port = int(sandbox.base_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as idle, socket.create_connection(("127.0.0.1", port)) as busy:
        busy.sendall(f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {sandbox.api_key}\r\n".encode())
        busy.sendall(b"Content-Length: 100\r\n\r\n{")
        idle.settimeout(60)
        # Answered while the other call is still being read.
        idle.sendall(b"GET /api/v1/price_schedules HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(12) == b"HTTP/1.1 200"
        closing = threading.Thread(target=sandbox.close, daemon=True)
        closing.start()
        closing.join(30)
        assert not closing.is_alive()
    sandbox.close()
    assert "flux2-sandbox" not in {thread.name for thread in threading.enumerate()}
    assert threading.active_count() <= threads


def test_a_close_leaves_the_event_loop_and_signals_of_the_process_alone(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with Sandbox(tmp_path / "sandbox"):
        assert {number: signal.getsignal(number) for number in before} == before
    assert {number: signal.getsignal(number) for number in before} == before


def test_an_answer_is_not_held_back_by_nagles_algorithm(tmp_path: Path) -> None:
    """With it, each would take 40 ms once the connection is past its first few."""
    with running(tmp_path) as api:
        port = int(api.sandbox.base_url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(b"GET /api/v1/price_schedules HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
            (other,) = other_ends(client)
            assert other.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def other_ends(client: socket.socket) -> list[socket.socket]:
    """The sockets of this process, where the server runs too, whose peer a connection is."""
    every = (found for found in gc.get_objects() if type(found) is socket.socket and found.fileno() >= 0)
    found = []
    for one in every:
        with suppress(OSError):  # one that listens, or has ended, has no peer
            found += [one] if one.getpeername() == client.getsockname() else []
    return found


def test_nothing_is_written_on_stdout_or_stderr_or_logged_by_uvicorn(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path) as api, caplog.at_level(logging.DEBUG):
        api.http.get("/api/v1/me")
        with socket.create_connection(("127.0.0.1", int(api.sandbox.base_url.rpartition(":")[2]))) as stranger:
            stranger.settimeout(60)
            stranger.sendall(b"this is no HTTP\r\n\r\n")
            assert stranger.recv(12) == b"HTTP/1.1 400"
    assert capfd.readouterr() == ("", "")
    assert {record.name for record in caplog.records if "uvicorn" in record.name} == set()


def test_a_chosen_port_is_used_and_a_taken_one_is_said_to_be(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "one") as first:
        port = int(first.base_url.rpartition(":")[2])
        with pytest.raises(SandboxError, match=str(port)):
            Sandbox(tmp_path / "two", port=port).start()
    with Sandbox(tmp_path / "two", port=port) as second:
        assert second.base_url == f"http://127.0.0.1:{port}"


def test_a_folder_that_cannot_be_used_is_a_sandbox_error(tmp_path: Path) -> None:
    (tmp_path / "sandbox").write_text("")
    with pytest.raises(SandboxError), Sandbox(tmp_path / "sandbox"):
        pass


def test_before_and_after_its_life_it_has_no_address(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "sandbox")
    with pytest.raises(SandboxError):
        _ = sandbox.base_url
    with sandbox:
        assert sandbox.base_url.startswith("http://127.0.0.1:")
    with pytest.raises(SandboxError):
        _ = sandbox.api_key


def test_a_loop_that_cannot_start_is_a_sandbox_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(serving: Coroutine[Any, Any, None]) -> None:
        serving.close()
        raise OSError("no more files")

    monkeypatch.setattr(asyncio, "run", broken)
    with pytest.raises(SandboxError, match="did not come up"):
        Sandbox(tmp_path / "sandbox").start()


def test_a_handler_that_breaks_answers_500_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path) as api:
        with monkeypatch.context() as patch:
            patch.setattr(api.sandbox.state, "money", "not a method")
            # Not by the client that holds each answer to the document, which has no such status.
            key = {"Authorization": f"Bearer {api.sandbox.api_key}"}
            answer = httpx2.get(f"{api.sandbox.base_url}/api/v1/me/balance", headers=key, verify=TLS)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "server")
        assert api.http.get("/api/v1/me").status_code == 200
    assert [record.levelno for record in caplog.records if "broke" in record.message] == [logging.ERROR]


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes with a name there")
def test_a_picture_that_takes_long_does_not_hold_up_other_calls(tmp_path: Path) -> None:
    with running(tmp_path) as api:
        url = api.image()
        # In the place of the picture a pipe: whoever wants it waits until somebody has written it.
        pipe = api.sandbox.state.results / PurePosixPath(urlsplit(url).path).name
        os.mkfifo(pipe)
        fetched: list[bytes] = []
        fetch = threading.Thread(target=lambda: fetched.append(httpx2.get(url, timeout=60).content))
        fetch.start()
        with pipe.open("wb") as picture:  # waits until the server has begun to read
            assert api.http.get("/api/v1/me").status_code == 200
            picture.write(b"drawn")
        fetch.join(60)
    assert fetched == [b"drawn"]


@pytest.mark.anyio
async def test_the_application_can_be_served_by_any_asgi_server(tmp_path: Path) -> None:
    state = SandboxState(tmp_path / "sandbox")
    application = create(state, "http://127.0.0.1:1")
    transport = httpx2.ASGITransport(application)
    asked, said = anyio.create_memory_object_stream[Message](2), anyio.create_memory_object_stream[Message](2)
    async with anyio.create_task_group() as group, httpx2.AsyncClient(transport=transport) as http:
        group.start_soon(application, {"type": "lifespan", "state": {}}, asked[1].receive, said[0].send)
        await asked[0].send({"type": "lifespan.startup"})
        assert await said[1].receive() == {"type": "lifespan.startup.complete"}
        assert (await http.get("http://localhost/api/v1/price_schedules")).status_code == 200
        await asked[0].send({"type": "lifespan.shutdown"})
        assert await said[1].receive() == {"type": "lifespan.shutdown.complete"}
    for stream in (*asked, *said):
        stream.close()
    state.close()


def test_two_servers_in_one_process_are_one_service(tmp_path: Path) -> None:
    with running(tmp_path) as one, running(tmp_path) as other:
        created = one.create("[sandbox:instant] a cat", key="k").json()
        seen = other.http.get(f"{TEXT}/{created['id']}").json()
        assert seen["images"][0]["url"] == created["images"][0]["url"].replace(
            one.sandbox.base_url, other.sandbox.base_url
        )
        assert other.create("[sandbox:instant] a cat", key="k").json()["id"] == created["id"]
        assert [(task.creates, task.polls) for task in one.sandbox.tasks()] == [(2, 1)]
        assert one.sandbox.creates() == 2


def test_twenty_creates_at_once_on_two_servers_with_one_key_make_one_task(tmp_path: Path) -> None:
    with running(tmp_path) as one, running(tmp_path) as other, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda api: api.create("a crowd", key="crowd"), [one, other] * 10))
        assert {answer.status_code for answer in answers} == {200}
        assert [task.creates for task in one.sandbox.tasks()] == [20]


def test_two_processes_are_one_service(tmp_path: Path) -> None:
    with running(tmp_path) as api:
        body = {"model": "flux-2-pro-text-to-image", "prompt": "[sandbox:instant] a cat"}
        task = api.create(body["prompt"], key="shared").json()
        letter = {"source": {"type": "base64", "data": "aGVsbG8="}}
        file = api.http.post("/api/v1/files", json=letter).json()["url"].rpartition("/")[2]
        told = {
            "folder": str(tmp_path / "sandbox"),
            "path": f"{TEXT}/{task['id']}",
            "create": TEXT,
            "body": body,
            "file": file,
        }
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", OTHER_PROCESS],
            input=json.dumps(told) + "\n",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        other = json.loads(ran.stdout)
        url = task["images"][0]["url"].replace(api.sandbox.base_url, other["base_url"])
        assert other == {
            "key": api.sandbox.api_key,
            "base_url": other["base_url"],
            "task": task | {"images": [{"url": url}]},
            "again": task["id"],
            "balance": api.http.get("/api/v1/me/balance").json(),
            "file": "hello",
            "creates": 2,
        }
        assert [(row.creates, row.polls) for row in api.sandbox.tasks()] == [(2, 1)]
