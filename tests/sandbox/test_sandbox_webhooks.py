"""Callbacks to a real listener on loopback."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest

from flux2_mcp.sandbox.scenarios import MODERATED
from flux2_mcp.sandbox.server import Sandbox
from tests.support.sandboxed import TEXT, Api, running

Received = tuple[str, dict[str, str], dict[str, Any]]


class Listener:
    """Answers each POST with the next status of `answers`, 204 after the last."""

    def __init__(self, *answers: int) -> None:
        self.received: Queue[Received] = Queue()
        left = list(answers)
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(left.pop(0) if left else 204)
                self.end_headers()
                received.put((self.path, dict(self.headers), body))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as the standard library has it
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?n=1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def next(self) -> Received:
        return self.received.get(timeout=30)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def listening(*answers: int) -> Iterator[Listener]:
    listener = Listener(*answers)
    try:
        yield listener
    finally:
        listener.close()


def settled(api: Api) -> bool:
    """True once no callback is owed any more; waits 30 seconds at most."""
    deadline = time.monotonic() + 30
    owed = "SELECT count(*) AS n FROM task WHERE callback_due IS NOT NULL"
    while time.monotonic() < deadline:
        if api.sandbox.state.database.read(owed)[0]["n"] == 0:
            return True
        # Any call gives the server its turn.
        api.anyone.get("/nowhere")
    return False


def test_the_task_is_posted_as_a_poll_shows_it(tmp_path: Path) -> None:
    with running(tmp_path) as api, listening() as hook:
        created = api.create("a cat", callback_url=hook.url).json()["id"]
        path, headers, body = hook.next()
        assert (path, headers["Content-Type"], headers["X-RunAPI-Task-Id"]) == (
            "/hook?n=1",
            "application/json",
            created,
        )
        assert body == api.http.get(f"{TEXT}/{created}").json()
        assert body["status"] == "completed"
        assert settled(api)
        assert hook.received.empty()


def test_a_failed_task_is_posted_too(tmp_path: Path) -> None:
    with running(tmp_path) as api, listening() as hook:
        created = api.create("[sandbox:moderation] a cat", callback_url=hook.url).json()["id"]
        assert hook.next()[2] == {"id": created, "status": "failed", "error": MODERATED}


def test_a_refusal_is_tried_again_up_to_three_times(tmp_path: Path) -> None:
    with running(tmp_path) as api, listening(500, 302, 503, 200) as hook:
        api.create("a cat", callback_url=hook.url)
        assert [hook.next()[2]["status"] for _ in range(3)] == ["completed"] * 3
        assert settled(api)
        assert hook.received.empty()
        assert [task.callback_tries for task in api.sandbox.tasks()] == [3]


def test_a_success_ends_the_tries(tmp_path: Path) -> None:
    with running(tmp_path) as api, listening(500, 201) as hook:
        api.create("a cat", callback_url=hook.url)
        assert [hook.next()[2]["status"] for _ in range(2)] == ["completed"] * 2
        assert settled(api)
        assert [task.callback_tries for task in api.sandbox.tasks()] == [2]


def test_nobody_listening_is_no_harm(tmp_path: Path) -> None:
    with listening() as hook:
        gone = hook.url
    with running(tmp_path) as api:
        api.create("a cat", callback_url=gone)
        assert settled(api)
        assert [task.callback_tries for task in api.sandbox.tasks()] == [3]
        assert api.http.get("/api/v1/me").status_code == 200


def test_several_servers_on_one_folder_deliver_each_callback_once(tmp_path: Path) -> None:
    with listening() as hook, running(tmp_path) as api, Sandbox(tmp_path / "sandbox"), Sandbox(tmp_path / "sandbox"):
        made = {api.create(f"cat {number}", callback_url=hook.url).json()["id"] for number in range(20)}
        assert {hook.next()[2]["id"] for _ in range(20)} == made
        assert settled(api)
        with pytest.raises(Empty):
            hook.received.get_nowait()


def test_another_server_delivers_what_a_closed_one_left_behind(tmp_path: Path) -> None:
    with listening() as hook:
        with running(tmp_path, speed=100.0) as api:
            created = api.create("[sandbox:slow] a cat", callback_url=hook.url).json()["id"]
        assert hook.received.empty()
        with running(tmp_path):
            assert hook.next()[2]["id"] == created


@pytest.mark.parametrize("url", ["http://192.0.2.1/hook", "https://example.com/hook", "https://127.0.0.1/hook"])
def test_beyond_loopback_nothing_is_called_and_a_debug_line_says_so(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path) as api, caplog.at_level(logging.DEBUG, "flux2_mcp.sandbox"):
        assert api.create("a cat", callback_url=url).status_code == 200
        assert settled(api)
        assert "callback skipped" in caplog.text
        assert url not in caplog.text
