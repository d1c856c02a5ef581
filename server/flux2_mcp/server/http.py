"""Serves MCP over streamable HTTP on loopback, from the listener to the shutdown."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Callable

from flux2_mcp.settings import Settings

PATH = "/mcp"
GRACE_SECONDS = 0.1
"""The time for calls under way to end at the shutdown; then they are cancelled. Their tasks run on."""
MAX_CONNECTIONS = 256
"""The maximum number of simultaneous connections, and also of calls."""
MAX_SESSIONS = 128
MAX_BODY_BYTES = 4 * 2**20
"""The maximum size of a call's body."""


async def serve(settings: Settings, listener: socket.socket, token: str, *, on_ready: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM, and return the exit code that shells expect after the signal.

    Args:
        settings: The settings of the service.
        listener: A socket that listens on loopback.
        token: The bearer token that every call must have.
        on_ready: Called with the URL when the server is ready.
    """
    gc.disable()  # as in the stdio server, while the SDK builds its models
    from mcp.server.transport_security import TransportSecuritySettings

    from flux2_mcp.server import sdk
    from flux2_mcp.server.app import build
    from flux2_mcp.server.transports import bearer, readable
    from flux2_mcp.system import http_server
    from flux2_mcp.system.loopback import named

    host, port = listener.getsockname()[:2]
    names = [f"{name}:{port}" for name in (named(host), "localhost")]
    server = build(settings)
    application = server.streamable_http_app(
        streamable_http_path=PATH,
        max_sessions=MAX_SESSIONS,
        max_request_body_size=MAX_BODY_BYTES,
        transport_security=TransportSecuritySettings(
            allowed_hosts=names, allowed_origins=[f"http://{name}" for name in names]
        ),
    )
    application.add_middleware(readable.MessagesOnly, path=PATH, most=MAX_BODY_BYTES)
    application.add_middleware(bearer.BearerOnly, token=token)  # the middleware that is added last runs first
    gc.freeze()
    gc.enable()
    stop, loop, stopped_by = asyncio.Event(), asyncio.get_running_loop(), [0]

    def stopped(number: int, _: object) -> None:
        stopped_by[0] = number
        loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stopped)
    alive = application.router.lifespan_context(application)
    async with alive, http_server.served(application, listener, grace_seconds=GRACE_SECONDS, most=MAX_CONNECTIONS):
        on_ready(f"http://{names[0]}{PATH}")
        await stop.wait()
        await sdk.end_sessions(server)
    return 128 + stopped_by[0]
