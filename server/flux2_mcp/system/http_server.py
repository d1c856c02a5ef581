"""An ASGI application on a port of this machine: uvicorn's HTTP without its logs, signals and process management.

Whatever runs on the machine can connect. A connection has proven itself once one whole request of it was let in; until then it
has a short time, from its first moment on, and makes room for the next. So nobody is shut out by connections that say nothing,
trickle, break off in the middle or lack the token, and none of them takes the place of one that has proven itself.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from flux2_mcp.system.loopback import HOST, plain_name

REUSE = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
"""A port just left may be taken again; on Windows SO_REUSEADDR would even share one in use."""
KEEP_ALIVE_SECONDS = 75
"""Longer than any client's pause between two polls, so that a poll doesn't meet a connection that is just closing."""
PROOF_SECONDS = 10.0
"""How long a connection may take until a whole request of it was let in."""
CANCEL_SECONDS = 0.05
"""How long a cancelled call may take to clean up; one that is busy in a thread takes no notice."""

_silent = logging.getLogger("flux2_mcp.system.http_server.uvicorn")
_silent.setLevel(logging.CRITICAL + 1)


class _State(ServerState):
    """What the connections of one server share: `unproven` are those that have proven nothing, the oldest first."""

    def __init__(self, most: int | None, *, guarded: bool, proof_seconds: float) -> None:
        super().__init__()
        self.most = most
        self.guarded = guarded
        self.proof_seconds = proof_seconds
        self.unproven: dict[_Protocol, asyncio.TimerHandle] = {}


class _Protocol(H11Protocol):
    """uvicorn's, without its logs.

    It lends the application the means to cut its connection, `abort`, and to say that it has let a request in, `admit`.
    """

    def __init__(self, config: Config, state: _State) -> None:
        super().__init__(config, state, {})
        self._state = state
        self._admitted = not state.guarded

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        self.logger = _silent
        self.access_log = False
        self.app_state = {"abort": transport.abort, "admit": self._admit}
        super().connection_made(transport)
        self._state.unproven[self] = self.loop.call_later(self._state.proof_seconds, self.hang_up)
        if self._state.most is not None and len(self.connections) > self._state.most:
            next(iter(self._state.unproven)).hang_up()  # where all others have proven themselves, it is this one

    def connection_lost(self, exc: Exception | None) -> None:
        self._count_no_more()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        self._prove()

    def _admit(self) -> None:
        self._admitted = True
        self._prove()

    def _prove(self) -> None:
        if self._admitted and self.cycle is not None and not self.cycle.more_body:  # type: ignore[redundant-expr]  # None at first
            self._count_no_more()

    def _count_no_more(self) -> None:
        if (timer := self._state.unproven.pop(self, None)) is not None:
            timer.cancel()

    def hang_up(self) -> None:
        """Cut the connection: it has had its time, or must make room."""
        self._count_no_more()
        self.connections.discard(self)
        self.transport.abort()


def listen(port: int) -> socket.socket:
    """A socket on the port of 127.0.0.1; 0: any free one.

    Raises:
        OSError: The port is taken, or not for this user.
    """
    # Said to be TCP, or asyncio would leave Nagle's algorithm on, at 40 ms an answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, REUSE, 1)
        listener.bind((HOST, port))
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
    guarded: bool = True,
    proof_seconds: float = PROOF_SECONDS,
) -> AsyncIterator[None]:
    """Serve within this context. The application's own lifespan is the caller's to enter.

    Args:
        application: What answers. It finds `Host` and `Origin` in lower case, and a name in them without its last dot.
        listener: From `listen`; stays the caller's to close.
        grace_seconds: How long calls under way may take to end after it; then they are cancelled and cut off.
        most: Connections at once. For one more, the oldest that has proven nothing is hung up on. As many calls, those
            included whose callers are gone; what is more is answered 503. None: no limit.
        guarded: Whether the application says itself whom it lets in, by `scope["state"]["admit"]()`; else all are.
        proof_seconds: How long a connection may take until a whole request of it was let in.
    """
    config = Config(
        _in_plain_names(application), http=_Protocol, ws="none", lifespan="off", interface="asgi3", proxy_headers=False,
        server_header=False, date_header=False, log_config=None, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        limit_concurrency=None if most is None else most + 1,  # of the calls alone: connections don't come to more than `most`
    )  # fmt: skip
    config.load()
    state = _State(most, guarded=guarded, proof_seconds=proof_seconds)
    server = await asyncio.get_running_loop().create_server(lambda: _Protocol(config, state), sock=listener)
    try:
        yield
    finally:
        server.close()
        await _end(state, grace_seconds)


def _in_plain_names(application: ASGIApp) -> ASGIApp:
    """The application, which finds in `Host` and `Origin` the spelling that it compares them with."""

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (name, plain_name(value.decode("latin-1")).encode("latin-1") if name in {b"host", b"origin"} else value)
            for name, value in scope["headers"]
        ]
        await application({**scope, "headers": headers}, receive, send)

    return called


async def _end(state: ServerState, grace_seconds: float) -> None:
    for seconds in (grace_seconds, CANCEL_SECONDS):
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=seconds)
        for task in state.tasks:
            task.cancel()
    for connection in list(state.connections):
        connection.transport.abort()
