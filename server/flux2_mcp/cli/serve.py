"""`flux2-mcp serve --http`: the MCP server over streamable HTTP, for hosts on this machine or for a team."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable

import click

from flux2_mcp.cli import output
from flux2_mcp.errors import Flux2Error
from flux2_mcp.server import http
from flux2_mcp.settings import Settings
from flux2_mcp.system.logs import to_stderr
from flux2_mcp.system.loopback import HOST

PORT = 8788
MAX_DRAIN_SECONDS = 900.0
EPILOG = f"""
\b
Examples:
  flux2-mcp serve --http
  flux2-mcp serve --http --port 0
  flux2-mcp serve --http --host 0.0.0.0 --public-url https://flux2.example.com

\b
With Claude Code:
  claude mcp add --transport http flux-2 http://127.0.0.1:{PORT}{http.PATH} \\
    --header "Authorization: Bearer TOKEN"
"""


def _address(_: click.Context, __: click.Parameter, text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as exc:
        raise click.BadParameter("must be an IP address of this machine, such as 0.0.0.0 for all of them.") from exc


@click.command(epilog=EPILOG)
@click.option(
    "--http", is_flag=True, required=True, expose_value=False,
    help="Over streamable HTTP. Over stdio: flux2-mcp without a command.",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, metavar="N",
    help="The port; 0: any free one.",
)  # fmt: skip
@click.option(
    "--host", default=HOST, show_default=True, callback=_address, metavar="IP",
    help="The address to listen on. Another than this needs --public-url, and FLUX2_OIDC_ISSUER or personal tokens.",
)  # fmt: skip
@click.option(
    "--public-url", metavar="URL",
    help="The address by which a team calls this server, such as https://flux2.example.com; needs FLUX2_OIDC_ISSUER or personal tokens.",
)  # fmt: skip
@click.option(
    "--drain", type=click.FloatRange(0, MAX_DRAIN_SECONDS), default=20.0, show_default=True, metavar="SECONDS",
    help="For a team: on SIGTERM, how long calls under way may take to be answered.",
)  # fmt: skip
@click.pass_obj
def serve(read_settings: Callable[[], Settings], *, port: int, host: str, public_url: str | None, drain: float) -> int:
    """Serve MCP until stopped: to this machine, or to a team that signs in.

    To this machine: every call needs the bearer token that is made at the first start, shown once, and kept in
    FLUX2_HOME/http-token. Only this machine is listened to, and only for its own names: web pages can't reach it
    through the browser.

    To a team, where FLUX2_OIDC_ISSUER names its OpenID provider: every call needs a token of that provider, or a personal one
    that flux2-mcp team token create has made. With --public-url, personal tokens alone will do.
    """
    settings = read_settings()
    to_stderr(settings.log_level)
    from flux2_mcp.server.team import serve as team

    address = team.Address(host=host, public_url=public_url, drain_seconds=drain)
    if team.checked(settings, address, has_tokens=lambda: asyncio.run(_has_tokens(settings))):
        whom = "personal tokens" if settings.sign_in is None else f"people of {settings.sign_in.issuer}"
        with _listener(port, host) as listener:

            def tell_team(url: str) -> None:
                output.echo(f"Serving MCP at {url}, for {whom}. SIGTERM ends it.", err=True)

            return asyncio.run(team.serve(settings, listener, address, on_ready=tell_team))
    from flux2_mcp.server.transports import bearer

    with _listener(port, host) as listener:
        token, made = bearer.token(settings.home)
        file = str(bearer.path(settings.home))

        def tell(url: str) -> None:
            output.echo(_words(url, token if made else None, file), err=True)

        return asyncio.run(http.serve(settings, listener, token, on_ready=tell))


async def _has_tokens(settings: Settings) -> bool:
    from flux2_mcp.domain.personal_tokens import LIVE
    from flux2_mcp.engine.team import Team

    async with Team.opened(settings) as team:
        return any(state == LIVE and token.issuer is None for token, state in await team.tokens())


def _listener(port: int, host: str) -> socket.socket:
    from flux2_mcp.system import http_server

    try:
        return http_server.listen(port, host)
    except OSError as exc:
        raise Flux2Error(
            f"The server can't listen on port {port} of {host}: {exc.strerror}.",
            next_step="Choose another --port, or 0 for any.",
        ) from exc


def _words(url: str, token: str | None, file: str) -> str:
    where = f"The bearer token is in {file}."
    if token is not None:
        where = f"Bearer token, made now and not shown again: {token}\nIt stays in {file}, for you alone to read."
    return f"Serving MCP at {url}, for this machine alone. Ctrl-C ends it.\n{where}"
