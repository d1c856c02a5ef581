"""`flux2-mcp serve --http`: the MCP server over streamable HTTP on loopback, for hosts that connect to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import click

from flux2_mcp.cli import output
from flux2_mcp.errors import Flux2Error
from flux2_mcp.server import http
from flux2_mcp.settings import Settings
from flux2_mcp.system.logs import to_stderr
from flux2_mcp.system.loopback import HOST

PORT = 8788
EPILOG = f"""
\b
Examples:
  flux2-mcp serve --http
  flux2-mcp serve --http --port 0

\b
With Claude Code:
  claude mcp add --transport http flux-2 http://127.0.0.1:{PORT}{http.PATH} \\
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
        file = str(bearer.path(settings.home))

        def tell(url: str) -> None:
            output.echo(_words(url, token if made else None, file), err=True)

        return asyncio.run(http.serve(settings, listener, token, on_ready=tell))


def _words(url: str, token: str | None, file: str) -> str:
    where = f"The bearer token is in {file}."
    if token is not None:
        where = f"Bearer token, made now and not shown again: {token}\nIt stays in {file}, for you alone to read."
    return f"Serving MCP at {url}, for this machine alone. Ctrl-C ends it.\n{where}"
