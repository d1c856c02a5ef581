"""An ASGI application on a port of this machine: uvicorn's HTTP without its logs, signals and process management."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

HOST = "127.0.0.1"
REUSE = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
"""A port just left may be taken again; on Windows SO_REUSEADDR would even share one in use."""
KEEP_ALIVE_SECONDS = 75
"""Longer than any client's pause between two polls, so that a poll doesn't meet a connection that is just closing."""
CANCEL_SECONDS = 0.05
"""How long a cancelled call may take to clean up; one that is busy in a thread takes no notice."""

_silent = logging.getLogger("flux2_mcp.asgi.uvicorn")
_silent.setLevel(logging.CRITICAL + 1)


class _Protocol(H11Protocol):
    """uvicorn's, without its logs, and lending the application the means to cut its connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        self.logger = _silent
        self.access_log = False
        self.app_state = {"abort": transport.abort}
        super().connection_made(transport)


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
    application: ASGIApp, listener: socket.socket, *, grace_seconds: float, most: int | None = None
) -> AsyncIterator[None]:
    """Serve within this context. The application's own lifespan is the caller's to enter.

    Args:
        application: What answers.
        listener: From `listen`; stays the caller's to close.
        grace_seconds: How long calls under way may take to end after it; then they are cancelled and cut off.
        most: Connections, and calls, at once; what is more is answered 503. None: no limit.
    """
    config = Config(
        application, http=_Protocol, ws="none", lifespan="off", interface="asgi3", proxy_headers=False,
        server_header=False, date_header=False, log_config=None, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        limit_concurrency=most,
    )  # fmt: skip
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: _Protocol(config, state, {}), sock=listener)
    try:
        yield
    finally:
        server.close()
        await _end(state, grace_seconds)


async def _end(state: ServerState, grace_seconds: float) -> None:
    for seconds in (grace_seconds, CANCEL_SECONDS):
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=seconds)
        for task in state.tasks:
            task.cancel()
    for connection in list(state.connections):
        connection.transport.abort()
