"""`flux2-mcp serve --http`: the MCP server over streamable HTTP on loopback, for hosts that connect instead of starting it."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Callable

import click

from flux2_mcp.errors import Flux2Error
from flux2_mcp.settings import Settings
from flux2_mcp.system.logs import to_stderr
from flux2_mcp.system.loopback import HOST

PORT = 8788
PATH = "/mcp"
GRACE_SECONDS = 0.1
"""How long calls under way may take to end at the stop; then they are cancelled. Their tasks run on."""
MAX_CONNECTIONS = 256
"""Connections, and calls, at once."""
MAX_SESSIONS = 128
MAX_BODY_BYTES = 4 * 2**20
"""Of a call."""
EPILOG = f"""
\b
Examples:
  flux2-mcp serve --http
  flux2-mcp serve --http --port 0

\b
With Claude Code:
  claude mcp add --transport http flux-2 http://127.0.0.1:{PORT}{PATH} \\
    --header "Authorization: Bearer TOKEN"
"""


@click.command(epilog=EPILOG)
@click.option(
    "--http", is_flag=True, required=True, expose_value=False,
    help="Over streamable HTTP. Over stdio: flux2-mcp without a command.",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, metavar="N",
    help="On 127.0.0.1; 0: any free one.",
)  # fmt: skip
@click.pass_obj
def serve(read_settings: Callable[[], Settings], *, port: int) -> int:
    """Serve MCP on this machine until stopped.

    Every call needs the bearer token that is made at the first start, shown once, and kept in FLUX2_HOME/http-token.
    Only this machine is listened to, and only for its own names: web pages can't reach it through the browser.
    """
    settings = read_settings()
    to_stderr(settings.log_level)
    from flux2_mcp.server.transports import bearer
    from flux2_mcp.system import http_server

    try:
        listener = http_server.listen(port)
    except OSError as exc:
        raise Flux2Error(
            f"The server can't listen on port {port} of {HOST}: {exc.strerror}.",
            next_step="Choose another --port, or 0 for any.",
        ) from exc
    with listener:
        token, made = bearer.token(settings.home)
        return asyncio.run(_serve(settings, listener, token, made=made))


async def _serve(settings: Settings, listener: socket.socket, token: str, *, made: bool) -> int:
    """Serve until SIGINT or SIGTERM; gives the exit code that shells expect after it."""
    gc.disable()  # as the stdio server does while the SDK builds its models
    from mcp.server.transport_security import TransportSecuritySettings

    from flux2_mcp.server.app import build
    from flux2_mcp.server.transports import bearer, readable
    from flux2_mcp.system import http_server

    port = int(listener.getsockname()[1])
    names = [f"{host}:{port}" for host in (HOST, "localhost")]
    server = build(settings)
    application = server.streamable_http_app(
        streamable_http_path=PATH,
        max_sessions=MAX_SESSIONS,
        max_request_body_size=MAX_BODY_BYTES,
        transport_security=TransportSecuritySettings(
            allowed_hosts=names, allowed_origins=[f"http://{name}" for name in names]
        ),
    )
    application.add_middleware(readable.MessagesOnly, most=MAX_BODY_BYTES)
    application.add_middleware(bearer.BearerOnly, token=token)  # the last stands before all others
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
        click.echo(_said(names[0], token if made else None, str(bearer.path(settings.home))), err=True)
        await stop.wait()
        # The manager would only cancel them, and each with a call under way then takes a second to give up its answer.
        for session in list(server.session_manager._server_instances.values()):  # noqa: SLF001  # the SDK has no other way
            await session.terminate()
    return 128 + stopped_by[0]


def _said(name: str, token: str | None, file: str) -> str:
    where = f"The bearer token is in {file}."
    if token is not None:
        where = f"Bearer token, made now and not shown again: {token}\nIt stays in {file}, for you alone to read."
    return f"Serving MCP at http://{name}{PATH}, for this machine alone. Ctrl-C ends it.\n{where}"
