"""The door on loopback, over real sockets: who says nothing makes room, and who is being answered keeps its place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute, SocketStream

from flux2_mcp.system import one_shot_http
from flux2_mcp.system.loopback import HOST
from flux2_mcp.system.one_shot_http import LocalReply, LocalRequest, OneShotServer
from tests.support.rows import rows

pytestmark = pytest.mark.anyio

DEADLINE = 60.0
LONG = 1000.0
HALVES = {
    "nothing": b"",
    "half a line": b"GET /callba",
    "half a head": b"GET / HTTP/1.1\r\nX-Slow: ",
    "half a body": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf",
}
WHOLE = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"

Answer = Callable[[LocalRequest], Awaitable[LocalReply]]
Connect = Callable[[], Awaitable[SocketStream]]


@asynccontextmanager
async def opened(door: OneShotServer) -> AsyncIterator[Connect]:
    """A port that leads to the door; gives what connects to it."""
    with anyio.fail_after(DEADLINE):
        async with await one_shot_http.listen(0) as listener, anyio.create_task_group() as group:
            port: int = listener.extra(SocketAttribute.local_port)  # noqa: S610  # no Django here
            group.start_soon(listener.serve, door.serve)
            async with AsyncExitStack() as stack:

                async def connect() -> SocketStream:
                    return await stack.enter_async_context(await anyio.connect_tcp(HOST, port))

                yield connect
            group.cancel_scope.cancel()


async def told(stream: SocketStream) -> bytes:
    """All that comes until it is hung up on."""
    heard = b""
    try:
        while True:
            heard += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return heard


async def at_once(_: LocalRequest) -> LocalReply:
    return LocalReply(204)


@rows("said", HALVES.values(), ids=HALVES)
async def test_a_caller_that_does_not_say_what_it_wants_is_hung_up_on_in_its_time(said: bytes) -> None:
    async with opened(OneShotServer(at_once, call_seconds=0.1, answer_seconds=LONG)) as connect:
        stream = await connect()
        if said:
            await stream.send(said)
        assert await told(stream) == b""


async def test_bytes_that_trickle_give_no_more_time() -> None:
    async with opened(OneShotServer(at_once, call_seconds=0.1, answer_seconds=LONG)) as connect:
        stream = await connect()

        async def trickle() -> None:
            while True:
                await stream.send(b"x")
                with anyio.move_on_after(0.02):
                    await stream.receive()

        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await trickle()


@rows("said", HALVES.values(), ids=HALVES)
async def test_who_is_being_answered_keeps_its_place_whoever_comes_after(said: bytes) -> None:
    begun, go_on, ended = anyio.Event(), anyio.Event(), anyio.Event()

    async def once(request: LocalRequest) -> LocalReply:
        if request.target == "/1":
            begun.set()
            try:
                await go_on.wait()
            finally:
                ended.set()
        return LocalReply(200, body=request.target.encode())

    async with opened(OneShotServer(once, call_seconds=LONG, answer_seconds=LONG, most=4)) as connect:
        first = await connect()
        await first.send(WHOLE % 1)
        await begun.wait()
        idle = [await connect() for _ in range(20)]
        for stream in idle:
            if said:
                with suppress(anyio.BrokenResourceError):  # it had to make room
                    await stream.send(said)
        second = await connect()
        await second.send(WHOLE % 2)
        assert (await told(second)).endswith(b"/2")
        assert not ended.is_set()
        go_on.set()
        assert (await told(first)).endswith(b"/1")


async def test_where_all_are_being_answered_one_more_is_hung_up_on_and_they_are_not() -> None:
    go_on, begun = anyio.Event(), list[str]()

    async def held(request: LocalRequest) -> LocalReply:
        begun.append(request.target)
        await go_on.wait()
        return LocalReply(200, body=request.target.encode())

    async with opened(OneShotServer(held, call_seconds=LONG, answer_seconds=LONG, most=2)) as connect:
        streams = [await connect(), await connect()]
        for number, stream in enumerate(streams):
            await stream.send(WHOLE % number)
        while len(begun) < len(streams):
            await anyio.lowlevel.checkpoint()
        assert await told(await connect()) == b""
        go_on.set()
        assert [(await told(stream))[-2:] for stream in streams] == [b"/0", b"/1"]
    assert begun == ["/0", "/1"]


async def test_an_answer_may_take_longer_than_a_call() -> None:
    async def slowly(_: LocalRequest) -> LocalReply:
        await anyio.sleep(0.3)
        return LocalReply(200, body=b"at last")

    async with opened(OneShotServer(slowly, call_seconds=0.1, answer_seconds=LONG)) as connect:
        stream = await connect()
        await stream.send(WHOLE % 1)
        assert (await told(stream)).endswith(b"at last")
