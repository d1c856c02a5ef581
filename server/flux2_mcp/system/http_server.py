"""Serves an ASGI application on a port: uvicorn's HTTP without its logs, signals and process management.

Every program on the machine can connect. A connection is proven after one whole request of it was admitted. Until then
it has a short time, counted from its start, and it is cut if a newer one needs its place. So connections that send
nothing, trickle, break off or lack the token can't shut out others, and none of them takes the place of a proven
connection.

A proven connection has the same time for each further request, from its first byte to its last. If all are proven, one
more is let in beside them while one of them is idle. When it has proven itself, the one that is idle longest is cut: so
whoever holds connections that do nothing shuts out nobody. One whose caller does not read what it is sent is cut too.

Some paths are always answered, such as those that a load balancer asks: there are more places for them, of connections
and of calls. So one that is let in while all others are taken is told so, and is not just cut.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import h11
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from flux2_mcp.system.logs import fields
from flux2_mcp.system.loopback import HOST, plain_name

REUSE = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
"""The option with which a port that was just released can be used again. On Windows, SO_REUSEADDR would even share one
that is in use."""
KEEP_ALIVE_SECONDS = 75
"""Longer than any client's pause between two polls, so that no poll uses a connection that is just being closed."""
PROOF_SECONDS = 10.0
"""How long a connection may take until a whole request of it was admitted."""
UNREAD_SECONDS = 600.0
"""In so long a time, a caller must read some of what is sent to it. Shorter times would cut slow lines: the system takes
more from a process only when a large part of its own buffer is read, up to 1.3 MB, and so does a proxy."""
KEPT_PLACES = 32
"""The number of connections beyond the limit where some paths are always answered, and of calls of each of these paths."""
RETRY_SECONDS = 1
QUIET_SECONDS = 60.0
"""That all places are taken is logged again after so long a time in which they were not."""
FULL = "All places of this server are taken. Try again in a second.\n"
CANCEL_SECONDS = 0.05
"""How long a cancelled call may take to clean up. A call that is busy in a thread does not notice the cancellation."""

log = logging.getLogger("flux2_mcp.system.http_server")
_silent = logging.getLogger("flux2_mcp.system.http_server.uvicorn")
_silent.setLevel(logging.CRITICAL + 1)


class _State(ServerState):
    """The state shared by the connections of one server.

    `unproven` has those that are not proven, the oldest first; `idle` the proven ones that ask nothing, those first that
    have been so for longest.
    """

    def __init__(
        self, most: int | None, kept: int, *, guarded: bool, proof_seconds: float, unread_seconds: float
    ) -> None:
        super().__init__()
        self.most = most
        self.kept = kept
        self.guarded = guarded
        self.proof_seconds = proof_seconds
        self.unread_seconds = unread_seconds
        self.unproven: dict[_Protocol, asyncio.TimerHandle] = {}
        self.idle: dict[_Protocol, None] = {}

    @property
    def crowded(self) -> bool:
        """Whether more connections have proven themselves than the limit."""
        return self.most is not None and len(self.connections) - len(self.unproven) > self.most

    def make_room(self) -> None:
        """Cut a connection, if there is one too many."""
        if self.most is None or len(self.connections) <= self.most + max(self.kept, 1 if self.idle else 0):
            return
        # If all others are proven, the first of the unproven ones is the new one.
        next(iter(self.idle if self.crowded and self.idle else self.unproven)).hang_up()


class _Protocol(H11Protocol):
    """uvicorn's protocol, without its logs.

    It gives the application these functions: `abort` cuts the connection, `admit` says that a request was admitted, `allow`
    gives the request that is being read more seconds, from now on: a file may come over a slow line. `sent` waits until
    all that was answered has left this process, `is_proven` says whether the connection has proven itself.
    """

    def __init__(self, config: Config, state: _State) -> None:
        super().__init__(config, state, {})
        self._state = state
        self._admitted = not state.guarded
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        self.logger = _silent
        self.access_log = False
        self.app_state = {
            "abort": transport.abort, "admit": self._admit, "allow": self._allow, "sent": self._sent,
            "is_proven": lambda: self not in self._state.unproven,
        }  # fmt: skip
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # whatever has not left this process is watched until it has
        self._state.unproven[self] = self.loop.call_later(self._state.proof_seconds, self.hang_up)
        self._state.make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._state.idle.pop(self, None)
        super().data_received(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch_no_more()

    def _watch(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(self._state.unread_seconds, self._look, left)

    def _look(self, before: int) -> None:
        if self.transport.get_write_buffer_size() >= before:
            self.hang_up()
        else:
            self._watch()

    def _watch_no_more(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def handle_events(self) -> None:
        super().handle_events()
        self._prove()
        self._time()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        asks_nothing = self._late is None and self.conn.their_state is h11.IDLE
        if asks_nothing and self not in self._state.unproven and self in self.connections:
            self._state.idle[self] = None

    def _admit(self) -> None:
        self._admitted = True
        self._prove()

    def _allow(self, seconds: float) -> None:
        if (timer := self._state.unproven.get(self)) is not None:
            timer.cancel()
            self._state.unproven[self] = self.loop.call_later(seconds, self.hang_up)
        elif self._late is not None:
            self._late.cancel()
            self._late = self.loop.call_later(seconds, self.hang_up)

    async def _sent(self) -> None:
        await self.flow.drain()

    def _prove(self) -> None:
        whole = self.cycle is not None and not self.cycle.more_body  # type: ignore[redundant-expr]  # None at first
        if self._admitted and whole and (timer := self._state.unproven.pop(self, None)) is not None:
            timer.cancel()
            if self._state.crowded and self._state.idle:
                next(iter(self._state.idle)).hang_up()

    def _time(self) -> None:
        """Give a request that has begun its time, and none to one that is whole."""
        theirs = self.conn.their_state
        begun = theirs is h11.SEND_BODY or (theirs is h11.IDLE and bool(self.conn.trailing_data[0]))
        if begun and self._late is None and self not in self._state.unproven:
            self._late = self.loop.call_later(self._state.proof_seconds, self.hang_up)
        elif not begun and self._late is not None:
            self._late.cancel()
            self._late = None

    def _forget(self) -> None:
        for timer in (self._state.unproven.pop(self, None), self._late):
            if timer is not None:
                timer.cancel()
        self._watch_no_more()
        self._state.idle.pop(self, None)

    def hang_up(self) -> None:
        """Cut the connection: its time is over, or a newer one needs its place."""
        self._forget()
        self.connections.discard(self)
        self.transport.abort()


def listen(port: int, host: str = HOST) -> socket.socket:
    """A socket on the port of an address; 0: any free one.

    Args:
        port: The port.
        host: An IP address of this machine. Only a server for a team listens on another than 127.0.0.1.

    Raises:
        OSError: The port is taken, this user may not use it, or this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is given as TCP: otherwise asyncio leaves Nagle's algorithm on, which costs 40 ms an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, REUSE, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


@asynccontextmanager
async def served(
    application: ASGIApp,
    listener: socket.socket,
    *,
    grace_seconds: float,
    most: int | None = None,
    kept_paths: Collection[str] = (),
    guarded: bool = True,
    proof_seconds: float = PROOF_SECONDS,
    unread_seconds: float = UNREAD_SECONDS,
) -> AsyncIterator[None]:
    """Serve within this context. The caller must enter the application's own lifespan.

    Args:
        application: The application. It gets `Host` and `Origin` in lower case, and names in them without their last
            dot.
        listener: From `listen`; the caller must close it.
        grace_seconds: How long open calls may take to end after the context; then they are cancelled and cut.
        most: The limit of connections: for one more, the oldest unproven connection is cut, or the one that is idle
            longest. The same limit holds for calls, with those whose callers are gone; one more is answered 503. None:
            no limit.
        kept_paths: What is answered also when all places are taken: `KEPT_PLACES` calls of each at once.
        guarded: Whether the application admits each request itself, by `scope["state"]["admit"]()`; otherwise all are
            admitted.
        proof_seconds: How long a connection may take until a whole request of it was admitted, and then for each further
            request.
        unread_seconds: The time in which a caller must read some of what is sent to it; otherwise the connection is cut.
    """
    named = _in_plain_names(application)
    config = Config(
        named if most is None else _Places(named, most, kept_paths), http=_Protocol, ws="none", lifespan="off",
        interface="asgi3", proxy_headers=False, server_header=False, date_header=False, log_config=None,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )  # fmt: skip
    config.load()
    state = _State(
        most,
        KEPT_PLACES if kept_paths else 0,
        guarded=guarded,
        proof_seconds=proof_seconds,
        unread_seconds=unread_seconds,
    )
    server = await asyncio.get_running_loop().create_server(lambda: _Protocol(config, state), sock=listener)
    try:
        yield
    finally:
        server.close()
        await _end(state, grace_seconds)


class _Places:
    """Answers a call for which there is no place, and passes on the others."""

    def __init__(self, application: ASGIApp, most: int, kept_paths: Collection[str]) -> None:
        self._application = application
        self._most = {"": most, **dict.fromkeys(kept_paths, KEPT_PLACES)}
        self._calls = Counter[str]()
        self._full_at = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"] if scope["path"] in self._most else ""
        if self._calls[name] >= self._most[name]:
            self._log(self._calls[name])
            headers = {"Retry-After": str(RETRY_SECONDS), "Cache-Control": "no-store"}
            if not scope["state"]["is_proven"]():
                headers["Connection"] = "close"  # its place is for others
            await PlainTextResponse(FULL, 503, headers)(scope, receive, send)
            return
        self._calls[name] += 1
        try:
            await self._application(scope, receive, send)
        finally:
            self._calls[name] -= 1

    def _log(self, calls: int) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._full_at > QUIET_SECONDS:
            log.warning("all places are taken, and further calls are answered 503", extra=fields(calls=calls))
        self._full_at = now


def _in_plain_names(application: ASGIApp) -> ASGIApp:
    """The application, with `Host` and `Origin` in the spelling with which it compares them. What it did not expect is logged."""

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (name, plain_name(value.decode("latin-1")).encode("latin-1") if name in {b"host", b"origin"} else value)
            for name, value in scope["headers"]
        ]
        try:
            await application({**scope, "headers": headers}, receive, send)
        except ClientDisconnect:  # the caller went away while it was read
            return
        except Exception as exc:
            log.exception("unexpected %s", type(exc).__name__)
            raise

    return called


async def _end(state: ServerState, grace_seconds: float) -> None:
    for seconds in (grace_seconds, CANCEL_SECONDS):
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=seconds)
        for task in state.tasks:
            task.cancel()
    for connection in list(state.connections):
        connection.transport.abort()
