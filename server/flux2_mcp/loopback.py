"""HTTP on 127.0.0.1: uvicorn's protocol around an application, in whichever event loop it is entered, and no signal handlers.

The sandbox and the gallery for terminals stand on it. Imported by what serves, at first use.
"""

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
GRACE_SECONDS = 0.2
"""How long calls under way may take to end when the server closes."""
KEEP_ALIVE_SECONDS = 75
"""Longer than any client's pause between two polls, so that a poll doesn't meet a connection that is just closing."""

_silent = logging.getLogger("flux2_mcp.loopback.uvicorn")
_silent.setLevel(logging.CRITICAL + 1)


class _Protocol(H11Protocol):
    """uvicorn's, without its logs, and lending the application the means to cut its connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        self.logger = _silent
        self.access_log = False
        self.app_state = {"abort": transport.abort}
        super().connection_made(transport)


def listen(port: int) -> socket.socket:
    """A socket bound to a port of 127.0.0.1; 0: any free one. OSError where the port is taken or not allowed."""
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
async def serving(application: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serve for as long as it is entered; at its end calls under way get `GRACE_SECONDS`."""
    config = Config(
        application, http=_Protocol, ws="none", lifespan="off", interface="asgi3", proxy_headers=False,
        server_header=False, date_header=False, log_config=None, timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )  # fmt: skip
    config.load()
    served = ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: _Protocol(config, served, {}), sock=listener)
    try:
        yield
    finally:
        server.close()
        if served.tasks:
            await asyncio.wait(served.tasks, timeout=GRACE_SECONDS)
        for connection in list(served.connections):
            connection.transport.abort()
