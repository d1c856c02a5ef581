"""RunAPI's own HTTP of a team's server, where no server is needed: what RunAPI has answered is passed on."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import nullcontext
from contextvars import ContextVar
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx2
import pytest
from anyio.abc import TaskGroup
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Router

from flux2_mcp.domain.people import Caller, Person
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import Flux2Error
from flux2_mcp.server.team.large_messages import LARGE_BYTES, MOST_CALLS, AnswersOut, LargeAnswers, LargeCalls
from flux2_mcp.server.team.links import ImageLinks
from flux2_mcp.server.team.runapi_http import RunApiHttp
from flux2_mcp.server.team.uploads import (
    MAX_WAITING_BYTES,
    MOST_AT_ONCE,
    MOST_OF_ONE,
    Arrived,
    FileTooLargeError,
    Places,
)
from tests.support.stdio import DEADLINE

pytestmark = pytest.mark.anyio


def nobody() -> None:
    return None


async def test_a_price_of_a_part_of_a_cent_is_passed_on() -> None:
    async def passed_on(_: str) -> object:
        return {
            "unit_price_cents": Decimal("0.4"),
            "billing_config": {"overrides": {"1k": Decimal(5)}},
            "note": "\ud800",
        }

    service = cast("Service", SimpleNamespace(account=SimpleNamespace(passed_on=passed_on)))
    links = ImageLinks("https://flux2.example.com", ())
    transport = httpx2.ASGITransport(
        Router(RunApiHttp(lambda: service, nobody, links, Places(nobody, Path())).routes())
    )
    async with httpx2.AsyncClient(transport=transport, base_url="https://flux2.example.com") as http:
        answer = await http.get("/api/v1/price_schedules")
    assert answer.json() == {"unit_price_cents": 0.4, "billing_config": {"overrides": {"1k": 5}}, "note": "\ud800"}


class Sender:
    """A call that brings a file, piece by piece, as uvicorn gives it to the application."""

    def __init__(self) -> None:
        self.pieces = asyncio.Queue[dict[str, Any]]()
        self.allowed = 0

    def send(self, data: bytes, *, more: bool = False) -> None:
        self.pieces.put_nowait({"type": "http.request", "body": data, "more_body": more})

    def leave(self) -> None:
        self.pieces.put_nowait({"type": "http.disconnect"})

    def request(self) -> Request:
        return Request({"type": "http", "state": {"allow": self._allow}}, self.pieces.get)

    def _allow(self, _: float) -> None:
        self.allowed += 1


class Uploads:
    """Places for files, and people who send some. Work on a file lasts until `stop` is set."""

    def __init__(self, folder: Path, most_bytes: int = MAX_WAITING_BYTES) -> None:
        self._who: ContextVar[str] = ContextVar("who")
        callers = {name: Caller(person=Person(issuer="token", subject=name)) for name in "abcdefghijk"}
        self.places = Places(lambda: callers[self._who.get()], folder, most_bytes=most_bytes)
        self.working, self.ended, self.stop = Counter[str](), Counter[str](), anyio.Event()
        self.senders = list[Sender]()

    async def upload(self, name: str, sender: Sender, most: int = 100_000_000) -> Response:
        self._who.set(name)

        async def work(arrived: Arrived) -> Response:
            self.working[name] += 1
            await self.stop.wait()
            self.ended[name] += 1
            return Response(await anyio.to_thread.run_sync(arrived.read))

        return await self.places.answer(sender.request(), most, "too large", work)

    async def begin(self, group: TaskGroup, names: str) -> list[Sender]:
        begun = [Sender() for _ in names]
        for name, sender in zip(names, begun, strict=True):
            group.start_soon(self.upload, name, sender)
        await anyio.wait_all_tasks_blocked()
        return begun


async def test_whoever_sends_a_file_slowly_holds_up_themselves_alone_and_nobody_is_late_who_has_waited(
    tmp_path: Path,
) -> None:
    uploads = Uploads(tmp_path)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            slow = await uploads.begin(group, "abcdefgh" * MOST_OF_ONE)  # as many as are worked on at once, and more
            assert len(slow) > MOST_AT_ONCE
            third = (await uploads.begin(group, "a"))[0]
            assert [sender.allowed for sender in slow] == [2] * len(slow)
            assert third.allowed == 1  # it gets its time anew when it is its turn
            (quick,) = await uploads.begin(group, "i")
            quick.send(b"x" * 3_000_000, more=True)
            quick.send(b"y")
            while not uploads.working["i"]:
                await anyio.lowlevel.checkpoint()
            uploads.stop.set()
            for sender in (*slow, third):
                sender.send(b"z")
    assert uploads.ended == {"i": 1, "a": 3} | dict.fromkeys("bcdefgh", 2)
    assert third.allowed == 2


async def test_a_file_comes_whole_and_waits_on_the_disk(tmp_path: Path) -> None:
    uploads, sender = Uploads(tmp_path), Sender()
    uploads.stop.set()
    data = bytes(range(256)) * 10_000
    for at in range(0, len(data), 100_000):
        sender.send(data[at : at + 100_000], more=at + 100_000 < len(data))
    with anyio.fail_after(DEADLINE):
        assert (await uploads.upload("a", sender)).body == data
    assert list(tmp_path.iterdir()) == []


async def test_files_are_worked_on_in_turn_and_few_of_them_at_once(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            for sender in await uploads.begin(group, "abcdefghijk" * MOST_OF_ONE):
                sender.send(b"x")
            while uploads.working.total() < MOST_AT_ONCE:
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            assert uploads.working.total() == MOST_AT_ONCE
            uploads.stop.set()
    assert uploads.ended == dict.fromkeys("abcdefghijk", MOST_OF_ONE)


async def test_nothing_is_done_for_whoever_has_gone(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            cut, gone = Sender(), Sender()
            for sender in (cut, gone):
                group.start_soon(_disconnected, uploads, sender)
            cut.send(b"x", more=True)
            cut.leave()
            gone.send(b"x")
            while not uploads.working["a"]:
                await anyio.lowlevel.checkpoint()
            gone.leave()
    assert (uploads.working, uploads.ended.total()) == ({"a": 1}, 0)
    assert list(tmp_path.iterdir()) == []


async def _disconnected(uploads: Uploads, sender: Sender) -> None:
    with pytest.raises(ClientDisconnect):
        await uploads.upload("a", sender)


async def test_all_files_together_have_a_bounded_room_and_what_has_gone_gives_it_back(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, most_bytes=10)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            (slow,) = await uploads.begin(group, "a")
            slow.send(b"x" * 6, more=True)
            await anyio.wait_all_tasks_blocked()
            other = Sender()
            other.send(b"x" * 5)
            with pytest.raises(Flux2Error, match="Too many files"):
                await uploads.upload("b", other)
            uploads.stop.set()
            slow.send(b"x" * 4)
        for size, refusal in ((8, FileTooLargeError), (7, None)):
            again = Sender()
            again.send(b"x" * size)
            with nullcontext() if refusal is None else pytest.raises(refusal, match="too large"):
                await uploads.upload("b", again, most=7)


async def test_one_person_is_sent_one_large_answer_at_a_time_until_it_is_out() -> None:
    callers = {name: Caller(person=Person(issuer="token", subject=name)) for name in ("ada", "ben")}
    who: ContextVar[str] = ContextVar("who")
    large, begun, read = LargeAnswers(lambda: callers[who.get()]), Counter[str](), anyio.Event()

    async def answers(*_: object) -> None:
        async with anyio.create_task_group() as handler:  # the SDK's, which ends before the answer is out
            handler.start_soon(large.begin)
        begun[who.get()] += 1
        await read.wait()

    async def nothing(*_: object) -> Any:  # noqa: ANN401  # no message
        raise AssertionError

    async def call(name: str) -> None:
        who.set(name)
        await AnswersOut(answers)({"type": "http"}, nothing, nothing)

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            for name in ("ada", "ada", "ada", "ben"):
                group.start_soon(call, name)
            await anyio.wait_all_tasks_blocked()
            assert begun == {"ada": 1, "ben": 1}
            read.set()
        assert begun == {"ada": 3, "ben": 1}
        async with anyio.create_task_group() as late:  # what is begun for a caller who has gone keeps no turn
            who.set("ada")

            async def leaves(*_: object) -> None:
                late.start_soon(large.begin)

            await AnswersOut(leaves)({"type": "http"}, nothing, nothing)
        await call("ada")


async def test_large_calls_of_one_person_wait_unread_for_those_before_them() -> None:
    who: ContextVar[str] = ContextVar("who")
    callers = {name: Caller(person=Person(issuer="token", subject=name)) for name in ("ada", "ben")}
    begun, allowed, stop = Counter[str](), Counter[str](), anyio.Event()

    async def answers(*_: object) -> None:
        begun[who.get()] += 1
        await stop.wait()

    async def nothing(*_: object) -> Any:  # noqa: ANN401  # no message
        raise AssertionError

    large = LargeCalls(answers, path="/mcp", caller=lambda: callers[who.get()])

    async def call(name: str, path: str, header: str, value: str) -> None:
        who.set(name)
        state = {"allow": lambda _: allowed.update([name])}
        headers = [(header.encode(), value.encode())]
        await large({"type": "http", "path": path, "headers": headers, "state": state}, nothing, nothing)

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            size = str(LARGE_BYTES + 1)
            for _ in range(MOST_CALLS):
                group.start_soon(call, "ada", "/mcp", "content-length", size)
                group.start_soon(call, "ada", "/mcp", "transfer-encoding", "chunked")
            await anyio.wait_all_tasks_blocked()
            assert (begun["ada"], allowed["ada"]) == (MOST_CALLS, 3 * MOST_CALLS)
            group.start_soon(call, "ben", "/mcp", "content-length", size)
            group.start_soon(call, "ada", "/mcp", "content-length", str(LARGE_BYTES))
            group.start_soon(call, "ada", "/uploads", "content-length", size)
            await anyio.wait_all_tasks_blocked()
            assert begun == {"ada": MOST_CALLS + 2, "ben": 1}
            stop.set()
    assert (begun["ada"], allowed) == (2 * MOST_CALLS + 2, {"ada": 4 * MOST_CALLS, "ben": 2})


async def test_a_large_call_whose_turn_does_not_come_is_told_so() -> None:
    begun, stop, sent = list[bool](), anyio.Event(), list[dict[str, Any]]()

    async def answers(*_: object) -> None:
        begun.append(True)
        await stop.wait()

    async def nothing(*_: object) -> Any:  # noqa: ANN401  # no message
        raise AssertionError

    async def send(message: Any) -> None:  # noqa: ANN401  # a message of ASGI
        sent.append(message)

    large = LargeCalls(answers, path="/mcp", caller=lambda: None, wait_seconds=0.05)
    scope = {"type": "http", "path": "/mcp", "headers": [(b"transfer-encoding", b"chunked")]}
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            for _ in range(MOST_CALLS):
                group.start_soon(large, scope | {"state": {"allow": lambda _: None}}, nothing, send)
            await anyio.wait_all_tasks_blocked()
            await large(scope | {"state": {"allow": lambda _: None}}, nothing, send)
            assert (len(begun), sent[0]["status"], (b"retry-after", b"10") in sent[0]["headers"]) == (
                MOST_CALLS,
                503,
                True,
            )
            stop.set()
        await large(scope | {"state": {"allow": lambda _: None}}, nothing, send)  # nobody has left a turn behind
    assert len(begun) == MOST_CALLS + 1
