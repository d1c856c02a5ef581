"""RunAPI's callbacks: a hint to look, over a real socket. Whatever else comes to that port changes nothing."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.stapled import MultiListener

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine import callback_listener, callbacks
from flux2_mcp.engine.planner import PollTime
from flux2_mcp.engine.seam import Timing
from flux2_mcp.engine.service import Service
from flux2_mcp.journal.contract import Journal
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.settings import Settings
from flux2_mcp.system import one_shot_http
from tests.support import journals
from tests.support.faults import around, broken
from tests.support.services import (
    CREATE,
    PATIENCE,
    POLL,
    Counted,
    Front,
    Reply,
    Seen,
    always,
    fronted,
    journal_of,
    limited,
    made,
    opened,
    opened_twice,
    through,
    until,
)

pytestmark = pytest.mark.anyio

STUCK = "a red fox [sandbox:stuck]"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


def never(*_: object, **__: object) -> tuple[PollTime, ...]:
    """No task is asked about unless RunAPI calls: so it is the callback that tells."""
    return ()


QUIET: dict[str, Any] = {"plan": never, "timing": Timing(callback_retry_seconds=0.05)}


class Heard:
    """A journal's callbacks, and the keys of the tasks for which this process took one."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def journal(self, usual: Journal) -> Journal:
        async def take() -> tuple[str, ...]:
            keys = await usual.callbacks.take()
            self.keys += keys
            return keys

        return around(usual, callbacks=around(usual.callbacks, take=take))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def listening(front: Front, home: Path, port: int | None = None) -> Settings:
    port = port or free_port()
    return front.settings(home, callback_port=port, callback_url=f"http://127.0.0.1:{port}/hooks/")


async def connected(settings: Settings) -> SocketStream:
    """A connection to the listener, once it listens."""
    assert settings.callback_port is not None
    with anyio.fail_after(PATIENCE):
        while True:
            try:
                return await anyio.connect_tcp("127.0.0.1", settings.callback_port)
            except OSError:
                await anyio.sleep(0.01)


async def call(settings: Settings, target: str, body: bytes = b"{}") -> bytes:
    """One callback, and what was answered."""
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    async with await connected(settings) as stream:
        # As over a real network: what the other side does not read can't all be on its way.
        stream.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)  # noqa: S610  # no Django here
        try:
            await stream.send(head.encode() + body)
            return await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return b""


def path_of(entry: TaskRecord) -> str:
    assert entry.push_url is not None
    return "/" + entry.push_url.split("/", 3)[3]


@asynccontextmanager
async def waiting(
    front: Front,
    tmp_path: Path,
    prompt: str = STUCK,
    **more: Any,  # noqa: ANN401  # as opened
) -> AsyncIterator[tuple[Service, Settings, TaskRecord]]:
    settings = listening(front, tmp_path)
    async with opened(settings, **QUIET | more) as service:
        outcome = await made(service, prompt, wait=0)
        yield service, settings, outcome.tasks[0].record


@asynccontextmanager
async def listener(
    front: Front,
    tmp_path: Path,
    **more: Any,  # noqa: ANN401  # as CallbackListener
) -> AsyncIterator[tuple[list[str], Settings, TaskRecord]]:
    """A listener alone, and the keys that it was called for."""
    settings, nudged = listening(front, tmp_path), list[str]()
    url = str(settings.callback_url)
    async with journals.opened(settings.home) as home, anyio.create_task_group() as group:
        journal = home.journal()
        (entry,) = await journals.new(journal, journals.intent(push_url=callbacks.address(url, "secret", "k")))
        port, parts = settings.callback_port or 0, (journal.callbacks, journal.leases)
        hears = callback_listener.CallbackListener(port, url, *parts, nudged.append, retry_seconds=0.05, **more)
        group.start_soon(hears.run)
        yield nudged, settings, entry
        group.cancel_scope.cancel()


# --- what they are for ---


async def test_a_callback_brings_the_end_with_one_poll(front: Front, tmp_path: Path) -> None:
    async with opened(listening(front, tmp_path), **QUIET) as service:
        for number in range(3):
            outcome = await made(service, f"fox {number} [sandbox:slow]")
            assert outcome.tasks[0].record.state is State.DELIVERED
    assert front.count(POLL) == 3
    assert {task.callback_tries for task in front.tasks()} == {
        1
    }  # each was answered, so that RunAPI need not repeat it


async def test_the_address_is_told_to_runapi_alone_and_differs_for_each_task(front: Front, tmp_path: Path) -> None:
    settings = listening(front, tmp_path)
    async with opened(settings, **QUIET) as service:
        outcome = await made(service, STUCK, wait=0, count=2)
    urls = [task.body["callback_url"] for task in front.tasks()]
    assert sorted(urls) == sorted(str(told.record.push_url) for told in outcome.tasks)
    assert len(set(urls)) == 2
    assert all(url.startswith(f"{settings.callback_url}") for url in urls)
    assert all(told.record.key not in url for told in outcome.tasks for url in urls)


async def test_a_callers_own_webhook_goes_before_ours(front: Front, tmp_path: Path) -> None:
    async with opened(listening(front, tmp_path), **QUIET) as service:
        await made(service, STUCK, wait=0, request={"callback_url": "https://example.com/hook"})
    assert [task.body["callback_url"] for task in front.tasks()] == ["https://example.com/hook"]


async def test_a_callback_that_comes_before_the_id_is_stored_is_not_forgotten(front: Front, tmp_path: Path) -> None:
    settings = listening(front, tmp_path)
    told = anyio.Event()

    async def rule(seen: Seen) -> Reply | None:
        answer = await through(seen)
        if seen.is_(CREATE):
            url = front.tasks()[-1].body["callback_url"]
            assert b" 204 " in await call(settings, "/" + url.split("/", 3)[3])
            told.set()
        return answer

    front.rule = rule
    async with opened(settings, **QUIET) as service:
        await made(service, STUCK, wait=0)
        assert told.is_set()
        await until(lambda: front.count(POLL) >= 1)


async def test_a_callback_for_a_task_of_another_process_reaches_it_through_the_journal(
    front: Front, tmp_path: Path
) -> None:
    async with opened_twice(listening(front, tmp_path), **QUIET) as services:
        for number in range(2):  # one of the two has the port
            outcome = await made(services[number], f"fox {number} [sandbox:slow]")
            assert outcome.tasks[0].record.state is State.DELIVERED
    assert front.count(POLL) == 2


async def test_the_port_is_taken_over_when_the_process_that_has_it_ends(front: Front, tmp_path: Path) -> None:
    settings = listening(front, tmp_path)
    async with opened(settings, **QUIET) as heir:
        outcome = await made(heir, STUCK, wait=0)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", settings.callback_port or 0))
        other.listen()
        async with opened(settings, **QUIET) as heir:

            async def taken() -> bool:
                (entry,) = await journal_of(heir).tasks.find([outcome.tasks[0].record.key])
                return entry.owner == heir.session

            await until(taken)
            assert front.count(POLL) == 0
            other.close()
            with anyio.fail_after(PATIENCE):
                while front.count(POLL) == 0:
                    await call(settings, path_of(outcome.tasks[0].record))


async def test_a_listener_that_fails_is_opened_again(front: Front, tmp_path: Path) -> None:
    class Failing(MultiListener[SocketStream]):
        async def serve(self, *_: object, **__: object) -> None:
            raise OSError(24, "too many open files")

    failures = 0

    async def listen(port: int) -> MultiListener[SocketStream]:
        nonlocal failures
        usual = await one_shot_http.listen(port)
        if failures == 2:
            return usual
        failures += 1
        return Failing(usual.listeners)

    async with listener(front, tmp_path, listen=listen) as (nudged, settings, entry):
        await until(lambda: failures == 2)
        assert b" 204 " in await call(settings, path_of(entry))
        assert nudged == [entry.key]


# --- what else may come ---


@pytest.mark.parametrize(
    "target",
    ["/hooks/" + "0" * 32, "/hooks/", "/", "*", "/hooks/%00%ff", "/" + "a" * 8000, "/hooks/\u00e9".encode().decode("latin-1")],
    ids=["forged", "no token", "root", "star", "escapes", "long", "not ascii"],
)  # fmt: skip
async def test_a_forged_token_changes_nothing(front: Front, tmp_path: Path, target: str) -> None:
    heard = Heard()
    async with waiting(front, tmp_path, journal=heard.journal) as (_, settings, entry):
        await call(settings, target)
        assert (heard.keys, front.count(POLL)) == ([], 0)
        assert b" 204 " in await call(settings, path_of(entry))  # and the real one is still heard
        await until(lambda: front.count(POLL) >= 1)
        assert heard.keys == [entry.key]


async def test_a_token_of_another_key_or_another_task_is_a_forged_one(front: Front, tmp_path: Path) -> None:
    heard = Heard()
    async with waiting(front, tmp_path, journal=heard.journal) as (_, settings, entry):
        url = str(settings.callback_url)
        forged = callbacks.address(url, "another key", entry.key)
        assert entry.push_url == callbacks.address(url, front.sandbox.api_key, entry.key) != forged
        await call(settings, "/" + forged.split("/", 3)[3])
        assert heard.keys == []


async def test_what_a_callback_says_is_not_believed(front: Front, tmp_path: Path) -> None:
    async with waiting(front, tmp_path) as (_, settings, entry):
        lie = b'{"id": "%s", "status": "completed", "images": [{"url": "https://evil.test/x.png"}]}'
        await call(settings, path_of(entry), lie % str(entry.task_id).encode())
        await until(lambda: front.count(POLL) >= 1)
    async with opened(settings, **QUIET) as service:
        (known,) = await journal_of(service).tasks.find([entry.key])
        assert known.state.unfinished
        assert known.image_urls == ()


async def test_a_callback_that_comes_twice_asks_at_most_twice_and_a_late_one_not_at_all(
    front: Front, tmp_path: Path
) -> None:
    settings, heard = listening(front, tmp_path), Heard()
    async with opened(settings, journal=heard.journal, **QUIET) as service:
        outcome = await made(service, "a red fox [sandbox:slow]")
        path = path_of(outcome.tasks[0].record)
        polls, before = front.count(POLL), list(heard.keys)
        for _ in range(3):
            assert b" 204 " in await call(settings, path)
        assert (heard.keys, front.count(POLL)) == (before, polls)
        open_ = await made(service, STUCK, wait=0)
        for _ in range(2):
            assert b" 204 " in await call(settings, path_of(open_.tasks[0].record))
        await until(lambda: front.count(POLL) > polls)
        await made(service, "the last [sandbox:slow]")
        assert front.count(POLL) <= polls + 3
        (entry,) = await journal_of(service).tasks.find([outcome.tasks[0].record.key])
    assert entry == outcome.tasks[0].record


async def test_a_callback_that_runapi_made_us_wait_for_is_asked_about_when_it_allows(
    front: Front, tmp_path: Path
) -> None:
    front.rule = always(POLL, limited("1"))
    async with waiting(front, tmp_path, connect=Counted().connect) as (_, settings, entry):  # no limiter holds the call
        for _ in range(2):
            await call(settings, path_of(entry))
            await until(lambda: front.count(POLL) > 0)
        await until(lambda: front.count(POLL) >= 2)
        refused, again = (seen.at for seen in front.seen if seen.is_(POLL))
        assert again >= refused + 1


@pytest.mark.parametrize("size", [300_000, 5_000_000], ids=["large", "huge"])
async def test_a_large_body_is_not_kept_and_a_huge_one_not_even_read(front: Front, tmp_path: Path, size: int) -> None:
    async with waiting(front, tmp_path) as (_, settings, entry):
        answer = await call(settings, path_of(entry), b"x" * size)
        assert (b" 204 " in answer) is (size < one_shot_http.MAX_BODY_BYTES)
        await until(lambda: front.count(POLL) >= 1)  # its head had come
        await call(settings, path_of(entry))
        await until(lambda: front.count(POLL) >= 2)


@pytest.mark.parametrize(
    "garbage",
    [b"\x00\xff" * 2000, b"\r\n\r\n", b"POST\r\n\r\n", b"GET / FTP/1.1\r\n\r\n", b"A" * 100_000, b"\x16\x03\x01\x02\x00", b""],
    ids=["bytes", "blank", "half", "protocol", "endless line", "tls", "nothing"],
)  # fmt: skip
async def test_garbage_is_hung_up_on_and_the_next_call_is_heard(front: Front, tmp_path: Path, garbage: bytes) -> None:
    async with waiting(front, tmp_path) as (_, settings, entry):
        async with await connected(settings) as stream:
            if garbage:
                try:
                    await stream.send(garbage)
                    await stream.send_eof()
                    with anyio.fail_after(PATIENCE):
                        assert await stream.receive() == b""
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    pass
        assert b" 204 " in await call(settings, path_of(entry))
        await until(lambda: front.count(POLL) >= 1)


async def test_callers_that_say_nothing_do_not_keep_runapi_out(front: Front, tmp_path: Path) -> None:
    async with listener(front, tmp_path, call_seconds=10 * PATIENCE) as (nudged, settings, entry):
        silent = [await connected(settings) for _ in range(2 * one_shot_http.MAX_CALLERS)]
        with anyio.fail_after(PATIENCE):
            assert b" 204 " in await call(settings, path_of(entry))
        assert nudged == [entry.key]
        with anyio.fail_after(PATIENCE), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await silent[0].receive()  # the oldest were hung up on
        for stream in silent:
            await stream.aclose()


async def test_a_journal_that_can_not_be_written_costs_the_hint_and_nothing_else(front: Front, tmp_path: Path) -> None:
    async with waiting(front, tmp_path) as (_, settings, entry):
        mend = broken(settings.home / "journal.sqlite3", "UPDATE OF nudged")
        assert await call(settings, path_of(entry)) == b""
        mend()
        assert b" 204 " in await call(settings, path_of(entry))
        await until(lambda: front.count(POLL) >= 1)
