"""Who may hold a connection to a server of ours, over real sockets: who has proven itself, and for a short time anybody else."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import httpx2
import pytest
from anyio.abc import SocketStream
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flux2_mcp.server.transports.bearer import BearerOnly
from flux2_mcp.server.viewer.guard import ViewerGuard
from flux2_mcp.system import http_server
from flux2_mcp.system.loopback import HOST
from tests.support.rows import rows
from tests.support.sandboxed import TLS

pytestmark = pytest.mark.anyio

DEADLINE = 30.0
LONG = 1000.0
TOKEN = "t" * 43
KEY = f"Authorization: Bearer {TOKEN}\r\n"
GET = "GET / HTTP/1.1\r\nHost: x\r\n{}\r\n"
UNPROVEN = {
    "nothing": "",
    "half a line": "POST /mc",
    "half a head": "POST / HTTP/1.1\r\nHost: x\r\n" + KEY,
    "half a body": "POST / HTTP/1.1\r\nHost: x\r\n" + KEY + "Content-Length: 1000\r\n\r\nhalf",
    "no token": GET.format(""),
    "another token": GET.format("Authorization: Bearer wrong\r\n"),
    "no token, half a body": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf",
}


@dataclass
class Server:
    """A server under test, and the connections to it, which end with it."""

    port: int
    stack: AsyncExitStack
    go_on: anyio.Event
    waiting: int = 0
    """How many requests wait to be told."""
    read: anyio.Event = field(default_factory=anyio.Event)
    """A body has come to its end, or broken off."""

    async def connect(self, said: str = "") -> SocketStream:
        stream = await self.stack.enter_async_context(await anyio.connect_tcp(HOST, self.port))
        if said:
            with suppress(anyio.BrokenResourceError):  # it had to make room
                await stream.send(said.encode())
        return stream


@asynccontextmanager
async def serving(
    most: int | None = None, proof_seconds: float = LONG, *, guarded: bool = True, kept_paths: Collection[str] = ()
) -> AsyncIterator[Server]:
    """`/` answers at once; `/wait...` when told to; `/file` takes its time to read a body; `/broken` fails.

    What is kept needs no token.
    """
    go_on = anyio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/file":
            scope["state"]["allow"](LONG)
        try:
            body = await Request(scope, receive).body()
        finally:
            server.read.set()
        if scope["path"] == "/broken":
            raise ZeroDivisionError("a prompt")
        if scope["path"].startswith("/wait"):
            server.waiting += 1
            await go_on.wait()
        await Response(b"well" + body)(scope, receive, send)

    only = BearerOnly(application, TOKEN)

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        await (only if guarded and scope["path"] not in kept_paths else application)(scope, receive, send)

    with http_server.listen(0) as listener:
        served = http_server.served(
            guard, listener, grace_seconds=0.1, most=most, kept_paths=kept_paths, guarded=guarded,
            proof_seconds=proof_seconds,
        )  # fmt: skip
        with anyio.fail_after(DEADLINE):
            async with served, AsyncExitStack() as stack:
                server = Server(listener.getsockname()[1], stack, go_on)
                yield server


async def answer(stream: SocketStream, said: str = "") -> bytes:
    """The answer to a request."""
    if said:
        await stream.send(said.encode())
    heard = b""
    while not heard.endswith(b"well"):
        heard += await stream.receive()
    return heard


async def hung_up(stream: SocketStream) -> None:
    """Wait until the other side is gone, whatever it still says."""
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            await stream.receive()


@rows("said", UNPROVEN.values(), ids=UNPROVEN)
async def test_a_connection_that_proves_nothing_is_hung_up_on_in_its_time(said: str) -> None:
    async with serving(proof_seconds=0.1) as server:
        await hung_up(await server.connect(said))


async def test_bytes_that_trickle_and_refusals_give_no_more_time() -> None:
    async def keep_on(stream: SocketStream, said: str) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await stream.send(said.encode())
                with anyio.move_on_after(0.02):
                    await stream.receive()

    async with serving(proof_seconds=0.1) as server:
        await keep_on(await server.connect(), "X")
        await keep_on(await server.connect(), GET.format(""))


async def test_a_connection_that_has_proven_itself_stays_while_it_is_idle_and_while_it_is_answered() -> None:
    async with serving(proof_seconds=0.5) as server:
        idle, waiting = await server.connect(), await server.connect(GET.replace("/", "/wait", 1).format(KEY))
        assert (await answer(idle, GET.format(KEY))).startswith(b"HTTP/1.1 200")
        await hung_up(await server.connect())  # so the time of the others is over, too
        assert (await answer(idle, GET.format(KEY))).startswith(b"HTTP/1.1 200")
        server.go_on.set()
        assert (await answer(waiting)).startswith(b"HTTP/1.1 200")


@rows("said", UNPROVEN.values(), ids=UNPROVEN)
async def test_however_many_prove_nothing_who_has_proven_itself_stays_and_who_can_gets_in(said: str) -> None:
    async with serving(most=8) as server:
        idle, waiting = await server.connect(), await server.connect(GET.replace("/", "/wait", 1).format(KEY))
        await answer(idle, GET.format(KEY))
        strangers = [await server.connect(said) for _ in range(30)]
        newcomer = await server.connect()
        assert (await answer(newcomer, GET.format(KEY))).startswith(b"HTTP/1.1 200")
        assert (await answer(idle, GET.format(KEY))).startswith(b"HTTP/1.1 200")
        server.go_on.set()
        assert (await answer(waiting)).startswith(b"HTTP/1.1 200")
        await hung_up(strangers[0])


HALVES = {
    "half a head": "POST / HTTP/1.1\r\nHost: x\r\n" + KEY,
    "half a body": "POST / HTTP/1.1\r\nHost: x\r\n" + KEY + "Content-Length: 1000\r\n\r\nhalf",
    "a chunk without an end": "POST / HTTP/1.1\r\nHost: x\r\n"
    + KEY
    + "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
}


@pytest.mark.parametrize("said", HALVES.values(), ids=HALVES)
async def test_each_further_request_has_the_same_time(said: str) -> None:
    async with serving(proof_seconds=0.5) as server:
        proven, beside = await server.connect(), await server.connect()
        for stream in (proven, beside):
            await answer(stream, GET.format(KEY))
        await proven.send(said.encode())
        await hung_up(proven)
        assert (await answer(beside, GET.format(KEY))).startswith(b"HTTP/1.1 200")


async def test_a_request_that_comes_in_two_parts_in_time_is_answered_and_so_is_the_next() -> None:
    async with serving(proof_seconds=0.5) as server:
        stream, beside = await server.connect(), await server.connect()
        for _ in range(3):
            whole = GET.format(KEY)
            await stream.send(whole[:20].encode())
            await answer(beside, GET.format(KEY))  # so the two parts do not come as one
            assert (await answer(stream, whole[20:])).startswith(b"HTTP/1.1 200")
        await hung_up(await server.connect())  # so the time of each of its requests is over
        assert (await answer(stream, GET.format(KEY))).startswith(b"HTTP/1.1 200")


async def test_a_file_that_is_let_in_may_come_slowly_on_a_new_connection_and_on_a_proven_one() -> None:
    head = "POST /file HTTP/1.1\r\nHost: x\r\n" + KEY + "Content-Length: 8\r\n\r\nhalf"
    async with serving(proof_seconds=0.5) as server:
        proven = await server.connect()
        await answer(proven, GET.format(KEY))
        await proven.send(head.encode())
        new = await server.connect(head)
        await hung_up(await server.connect(HALVES["half a body"]))  # so the usual time of both is over
        for stream in (new, proven):
            assert (await answer(stream, "well")).startswith(b"HTTP/1.1 200")


async def test_where_all_are_being_answered_one_more_is_hung_up_on_and_they_are_not() -> None:
    async with serving(most=2) as server:
        two = [await server.connect(GET.replace("/", "/wait", 1).format(KEY)) for _ in range(2)]
        while server.waiting < len(two):
            await anyio.lowlevel.checkpoint()
        await hung_up(await server.connect(GET.format(KEY)))
        server.go_on.set()
        for stream in two:
            assert (await answer(stream)).startswith(b"HTTP/1.1 200")


async def test_where_all_have_proven_themselves_the_one_that_is_idle_longest_gives_way_to_whoever_proves_it_too() -> (
    None
):
    async with serving(most=3) as server:
        first, second, third = [await server.connect() for _ in range(3)]
        for stream in (first, second, third, first):
            await answer(stream, GET.format(KEY))
        strangers = [await server.connect("POST /mc") for _ in range(9)]
        await hung_up(strangers[0])
        newcomer = await server.connect()
        assert (await answer(newcomer, GET.format(KEY))).startswith(b"HTTP/1.1 200")
        await hung_up(second)
        for stream in (newcomer, third, first):
            assert (await answer(stream, GET.format(KEY))).startswith(b"HTTP/1.1 200")


ALIVE, SLOW = "/alive", "/wait/ready"


async def test_where_all_places_are_taken_what_is_kept_is_answered_and_other_calls_are_told_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waits, alive = GET.replace("/", "/wait", 1).format(KEY), GET.replace("/", ALIVE, 1).format("")
    async with serving(most=3, kept_paths=(ALIVE, SLOW)) as server:
        idle = await server.connect()
        await answer(idle, GET.format(KEY))
        three = [await server.connect(waits) for _ in range(3)]  # one of them on a place that is kept
        while server.waiting < len(three):
            await anyio.lowlevel.checkpoint()
        for _ in range(2 * http_server.KEPT_PLACES):
            told = await server.connect(GET.format(KEY))
            said = await told.receive()
            while http_server.FULL.encode() not in said:
                said += await told.receive()
            assert said.startswith(b"HTTP/1.1 503")
            assert {b"retry-after: 1", b"connection: close"} <= set(said.split(b"\r\n"))
            await hung_up(told)
            assert (await answer(await server.connect(), alive)).startswith(b"HTTP/1.1 200")
        server.go_on.set()
        for stream in three:
            assert (await answer(stream)).startswith(b"HTTP/1.1 200")
            assert (await answer(stream, GET.format(KEY))).startswith(b"HTTP/1.1 200")
    assert [record.getMessage().split(",")[0] for record in caplog.records] == ["all places are taken"]


async def test_whoever_asks_for_what_is_kept_takes_the_places_of_nobody_else() -> None:
    slow, alive = (GET.replace("/", path, 1).format("") for path in (SLOW, ALIVE))
    async with serving(most=2, kept_paths=(ALIVE, SLOW)) as server:
        friend = await server.connect()
        await answer(friend, GET.format(KEY))
        for _ in range(http_server.KEPT_PLACES + 1):
            await server.connect(slow)
        while server.waiting < http_server.KEPT_PLACES:
            await anyio.lowlevel.checkpoint()
        assert b"503" in await (await server.connect(slow)).receive()
        assert (await answer(friend, GET.format(KEY))).startswith(b"HTTP/1.1 200")
        assert (await answer(await server.connect(), alive)).startswith(b"HTTP/1.1 200")
        assert server.waiting == http_server.KEPT_PLACES


LARGE = 32 * 1024 * 1024
"""More than the buffers of the system hold."""


async def test_an_answer_is_sent_when_its_last_byte_has_left_the_process_or_its_caller_is_gone() -> None:
    answered, sent = anyio.Semaphore(0), anyio.Semaphore(0)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"well" if scope["path"] == "/" else b"x" * LARGE)(scope, receive, send)
        answered.release()
        await scope["state"]["sent"]()
        sent.release()

    large = GET.replace("/", "/large", 1).format("").encode()
    with http_server.listen(0) as listener, anyio.fail_after(DEADLINE):
        async with (
            http_server.served(application, listener, grace_seconds=DEADLINE, guarded=False),
            AsyncExitStack() as stack,
        ):
            port = listener.getsockname()[1]
            slow, gone, other = [await stack.enter_async_context(await anyio.connect_tcp(HOST, port)) for _ in range(3)]
            for stream in (slow, gone):
                await stream.send(large)
                await answered.acquire()
            for _ in range(3):
                await answer(other, GET.format(""))
                await sent.acquire()
            with pytest.raises(anyio.WouldBlock):
                sent.acquire_nowait()
            await gone.aclose()
            await sent.acquire()
            heard = 0
            while heard < LARGE:
                heard += len(await slow.receive())
            await sent.acquire()


@asynccontextmanager
async def sending_much(unread_seconds: float) -> AsyncIterator[tuple[SocketStream, anyio.Event]]:
    """One who was sent more than the buffers hold, and what is told once it has left the process."""
    sent = anyio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"x" * LARGE)(scope, receive, send)
        await scope["state"]["sent"]()
        sent.set()

    with http_server.listen(0) as listener, anyio.fail_after(DEADLINE):
        served = http_server.served(
            application, listener, grace_seconds=DEADLINE, guarded=False, unread_seconds=unread_seconds
        )
        async with served, await anyio.connect_tcp(HOST, listener.getsockname()[1]) as stream:
            await stream.send(GET.format("").encode())
            yield stream, sent


async def test_whoever_reads_nothing_of_what_is_sent_is_hung_up_on_in_its_time() -> None:
    async with sending_much(0.2) as (stream, sent):
        await sent.wait()
        heard = 0
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                heard += len(await stream.receive())
        assert heard < LARGE


async def test_a_rest_that_nobody_reads_keeps_no_place_however_small_it_is() -> None:
    step, many = 48 * 1024, 96  # of one of these, less than 64 KB do not fit into the buffers of the system

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        number = int(scope["path"].strip("/") or 0)
        await Response(b"x" * step * number or b"well")(scope, receive, send)

    async def fit(port: int) -> bool:
        """Whether as many as there are places for come in at once, and stay."""
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(await anyio.connect_tcp(HOST, port)) for _ in range(many)]
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                for stream in (*streams, *streams):
                    await answer(stream, GET.format(""))
                return True
        return False

    with http_server.listen(0) as listener, ExitStack() as unread, anyio.fail_after(DEADLINE):
        port = listener.getsockname()[1]
        served = http_server.served(
            application, listener, grace_seconds=0.1, most=many, guarded=False, unread_seconds=0.5
        )
        async with served:
            for number in range(1, many):
                caller = unread.enter_context(socket.socket())
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                caller.connect((HOST, port))
                request = GET.replace("/", f"/{number}", 1).format("Connection: close\r\n")
                caller.sendall(request.encode())
                await anyio.lowlevel.checkpoint()
            while not await fit(port):  # noqa: ASYNC110  # nothing tells of a place that is free
                await anyio.sleep(0.1)


@pytest.mark.deep  # it lasts for nine seconds
async def test_whoever_reads_slowly_hears_all() -> None:
    async with sending_much(3) as (stream, sent):
        heard = 0
        for share in range(1, 10):
            while heard < LARGE * share / 9:
                heard += len(await stream.receive())
            await anyio.sleep(1)
        while heard < LARGE:
            heard += len(await stream.receive())
        await sent.wait()


async def test_where_nobody_is_asked_for_anything_a_whole_request_is_proof() -> None:
    async with serving(proof_seconds=0.5, guarded=False) as server:
        stream = await server.connect()
        await answer(stream, GET.format(""))
        await hung_up(await server.connect("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"))
        assert (await answer(stream, GET.format(""))).startswith(b"HTTP/1.1 200")


async def test_of_the_gallery_only_a_browser_that_came_in_by_its_url_has_proven_itself() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(str(scope["client"][1]).encode())(scope, receive, send)

    with http_server.listen(0) as listener:
        port = listener.getsockname()[1]
        guard = ViewerGuard(application, port)
        served = http_server.served(guard, listener, grace_seconds=0.1, most=4, proof_seconds=LONG)
        with anyio.fail_after(DEADLINE):
            async with served, AsyncExitStack() as stack, httpx2.AsyncClient(verify=TLS) as browser:
                server = Server(port, stack, anyio.Event())
                its_port = (await browser.get(guard.url(), follow_redirects=True)).text
                asked = GET.replace("Host: x", f"Host: 127.0.0.1:{port}").format("")
                strangers = [await server.connect(asked) for _ in range(20)]
                await hung_up(strangers[0])
                assert (await browser.get(f"http://127.0.0.1:{port}/")).text == its_port


async def test_what_an_application_did_not_expect_is_logged_and_a_caller_that_goes_away_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(guarded=False) as server:
        gone = await server.connect("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
        await gone.aclose()
        await server.read.wait()
        await hung_up(await server.connect(GET.replace("/", "/broken", 1).format("Connection: close\r\n")))
    assert [record.getMessage() for record in caplog.records] == ["unexpected ZeroDivisionError"]
