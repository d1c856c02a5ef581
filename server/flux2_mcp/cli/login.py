"""`flux2-mcp login`: gets a key for this computer, from the browser or from standard input, never from an argument."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import anyio
import click
from anyio.abc import SocketAttribute, SocketStream
from anyio.from_thread import BlockingPortal
from anyio.streams.stapled import MultiListener
from msgspec import Struct
from msgspec.structs import replace

from flux2_mcp.cli import browser as web_browser
from flux2_mcp.cli import output
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.domain.budget import dollars
from flux2_mcp.domain.models import Balance
from flux2_mcp.domain.urls import is_url
from flux2_mcp.errors import (
    ApiError,
    AuthenticationError,
    Flux2Error,
    InsufficientCreditsError,
    InvalidRequestError,
    Problem,
    RateLimitedError,
    SettingsError,
    TransportError,
    WireError,
)
from flux2_mcp.runapi import key_file
from flux2_mcp.runapi.exchange import sendable
from flux2_mcp.runapi.key_file import check_team, config_fields, config_file, without_team
from flux2_mcp.runapi.login.callback import Attempt, LoginCallback
from flux2_mcp.runapi.login.pkce import LoginAttempt
from flux2_mcp.runapi.login.provider import ProviderSignIn, has_provider
from flux2_mcp.runapi.login.redeem import LoginResult, prove, redeem
from flux2_mcp.system import one_shot_http
from flux2_mcp.system.environment import said_key
from flux2_mcp.system.logs import masked

WAIT_SECONDS = 300
MAX_WAIT_SECONDS = 3600
MAX_KEY_CHARS = 4096
"""The maximum number of bytes read from standard input."""
MAX_LINE_BYTES = 65_536
NO_BROWSER = "No browser could be opened here: open the address above yourself."
EPILOG = """
\b
Examples:
  flux2-mcp login
  pass show runapi | flux2-mcp login --stdin
  flux2-mcp login --team https://flux2.example.com
  ssh -L 8765:127.0.0.1:8765 build-host -t flux2-mcp login --port 8765 --no-browser

The key goes into RunAPI's own config file, readable by you alone; its other tools find it.
"""


@click.command(epilog=EPILOG)
@click.option("--stdin", "from_stdin", is_flag=True, help="Read a key from standard input, and try it.")
@click.option("--browser/--no-browser", default=True, help="Only print the address. So it is over SSH.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="Listen there; default: any free.")
@click.option(
    "--timeout", "seconds", type=click.FloatRange(1, MAX_WAIT_SECONDS), default=WAIT_SECONDS, metavar="SECONDS",
    help=f"Wait so long for the browser. Default {WAIT_SECONDS}.",
)  # fmt: skip
@click.option("--team", metavar="URL", help="Work through the team's server at URL; its provider lets you in.")
@click.option("--client-id", metavar="ID", help="With --team: what its provider knows flux2-mcp by.")
@click.option("--listen", is_flag=True, help="Ask RunAPI for its callbacks with this key, as FLUX2_LISTEN=1 does.")
@click.pass_obj
def login(  # each is an option
    invocation: Invocation,
    *,
    from_stdin: bool,
    browser: bool,
    port: int,
    seconds: float,
    team: str | None,
    client_id: str | None,
    listen: bool,
) -> None:
    """Log in to RunAPI in the browser and keep the key.

    The page must show the code that is shown here. Where the browser is on another computer, open the printed address
    there and paste back the one that it ends at.
    """
    path = config_file(invocation.env)
    if path is None:
        raise SettingsError("There is no home folder to keep a key in.", next_step="Set HOME or XDG_CONFIG_HOME.")
    fields = config_fields(
        invocation.config, path
    )  # checked first: a file that can't be changed must not cost a login code
    base_url = replace(invocation, config=json.dumps(without_team(fields)))().base_url
    if team is not None:
        base_url = _team_url(team)
        check_team(path, base_url)
    opening = invocation.env if browser and web_browser.is_here(invocation.env) else None
    if from_stdin or (team is not None and not output.run(lambda: has_provider(base_url), stopped="Stopped.")):
        what = "key" if team is None else "token"
        key, success = _read_key(what), f"The {what} works"
        saved_for = None if team is None else base_url
        balance = output.run(
            lambda: _proven(base_url, key, path, saved_for), stopped=f"Stopped. The {what} was not saved."
        )
    else:
        route = (
            _RunApiRoute(base_url, path, port, seconds, opening)
            if team is None
            else _TeamRoute(base_url, path, port, seconds, opening, client_id=client_id)
        )
        result = output.run(route.go, stopped="Stopped. Nobody waits for the browser any more.")
        key, balance, success = result.key, result.balance, f"Logged in{f' as {result.email}' if result.email else ''}"
    key_file.set_listening(path, on=listen)
    output.echo(f"{success}: {masked(key)}, balance {dollars(balance.balance_usd)}.\nSaved in {path}.")
    for notice in _notices(invocation, path, key, team if team is None else base_url):
        output.echo(notice, err=True)


def _read_key(what: str) -> str:
    """Read a key, or a team's token, from standard input; a terminal does not show it."""
    if sys.stdin is not None and sys.stdin.isatty():
        text = str(click.prompt(f"The {what} (not shown)", hide_input=True, err=True))
    else:
        read = b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_KEY_CHARS + 1)
        text = read.decode("utf-8", "replace")
    key = said_key(text) or ""
    if not sendable(key) or " " in key or len(key) > MAX_KEY_CHARS:
        raise InvalidRequestError(
            Problem("standard input", f"holds no {what}: one line of printable ASCII characters.")
        )
    return key


def _team_url(url: str) -> str:
    """The address of a team's server, as settings have it. The address of its MCP endpoint means the same server."""
    place = url.strip().rstrip("/").removesuffix("/mcp")
    if not is_url(place, local=True) or urlsplit(place).path or set(place) & set("?#"):
        raise InvalidRequestError(Problem("--team", "must be https://host[:port], or http:// on loopback."))
    return place


async def _proven(base_url: str, key: str, path: Path, team: str | None) -> Balance:
    try:
        balance = await prove(base_url, key)
    except (ApiError, WireError) as exc:
        if team is None:
            raise
        raise _refused_by(team, exc) from exc
    key_file.save(path, key, team=team)
    return balance


def _refused_by(team: str, error: ApiError | WireError) -> ApiError | WireError:
    """The error in the words of a team's server: a wrong address and a token that has ended are what mostly goes wrong."""
    status = error.status if isinstance(error, ApiError) else HTTPStatus.OK
    if isinstance(error, AuthenticationError):
        text = f"The server at {team} does not take this token ({status})."
        ask = "Ask whoever runs the server for a personal token: flux2-mcp team token create makes one."
        return AuthenticationError(text, status=status, next_step=ask)
    if isinstance(error, RateLimitedError | InsufficientCreditsError) or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return error
    text = f"What answers at {team} ({status}) is no server for a team."
    return WireError(text, next_step="Give --team the address that whoever runs the server gives to --public-url.")


class _Route(Struct, frozen=True):
    """A login through the browser. `env` is the environment for the browser; None: the user opens it."""

    can_paste: ClassVar[str]

    base_url: str
    path: Path
    port: int
    seconds: float
    env: Mapping[str, str] | None

    async def listener(self) -> MultiListener[SocketStream]:
        """Listen for the browser."""
        try:
            return await one_shot_http.listen(self.port)
        except OSError as exc:
            text = f"{self.port} of 127.0.0.1 can't be listened on: {exc.strerror}. Leave it out for any free one."
            raise InvalidRequestError(Problem("--port", text)) from exc

    async def answered(
        self, callback: LoginCallback, attempt: Attempt, listener: MultiListener[SocketStream], told: str, address: str
    ) -> LoginResult:
        """Send the person to a page, and wait for what comes of it."""
        typing = sys.stdin is not None and sys.stdin.isatty()
        output.echo(self._words(told, address, typing=typing), err=True)
        if self.env is not None:
            web_browser.open_at(address, self.env, failing=NO_BROWSER)
        async with BlockingPortal() as portal:
            if typing:
                _listen_to_keys(portal, callback, attempt)
            await callback.run(listener, self.seconds)
        if (result := callback.result()) is None:
            raise TransportError(
                f"The browser did not come back within {self.seconds:g} seconds.",
                sent=False,
                next_step="Start again with flux2-mcp login, with --timeout for more time.",
            )
        return result

    def _words(self, told: str, address: str, *, typing: bool) -> str:
        opening = (
            "A browser opens. If it does not, open this address:" if self.env else "Open this address in a browser:"
        )
        elsewhere = (
            "Where the browser is on another computer, it ends at an address that does not load.\n"
            f"Paste {self.can_paste} and press Enter.\n"
        )
        return (
            f"{told}\n\n{opening}\n\n  {address}\n\n{elsewhere if typing else ''}Waiting for the browser; Ctrl-C stops."
        )


class _RunApiRoute(_Route, frozen=True):
    """A login at RunAPI."""

    can_paste = "that here, or only the code in it,"

    async def go(self) -> LoginResult:
        listener = await self.listener()
        attempt = LoginAttempt(port=listener.extra(SocketAttribute.local_port))  # noqa: S610  # no Django here
        hostname = socket.gethostname()

        async def finish(code: str) -> LoginResult:
            return await redeem(attempt, code, base_url=self.base_url, hostname=hostname, path=self.path)

        code = output.style(attempt.display_code, bold=True)
        told = f"Log in at {self.base_url}. Allow it only if the page shows this code:\n\n    {code}"
        address = attempt.address(self.base_url, hostname)
        return await self.answered(LoginCallback(attempt, finish), attempt, listener, told, address)


class _TeamRoute(_Route, frozen=True, kw_only=True):
    """A sign-in with the provider of a team."""

    can_paste = "that here"

    client_id: str | None

    async def go(self) -> LoginResult:
        listener = await self.listener()
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610  # no Django here
        sign_in = ProviderSignIn(self.base_url, port, client_id=self.client_id, path=self.path)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(sign_in.run)
            outcome = await self._outcome(sign_in, listener)
            group.cancel_scope.cancel()
        if isinstance(outcome, Flux2Error):
            raise outcome
        return outcome

    async def _outcome(
        self, sign_in: ProviderSignIn, listener: MultiListener[SocketStream]
    ) -> LoginResult | Flux2Error:
        told = f"Sign in for the server at {self.base_url}, with the provider of your team."
        try:  # a task group would put an error into a group of errors
            attempt = await sign_in.page()
            return await self.answered(LoginCallback(attempt, sign_in.finish), attempt, listener, told, attempt.address)
        except Flux2Error as exc:
            return exc


def _listen_to_keys(portal: BlockingPortal, callback: LoginCallback, attempt: Attempt) -> None:
    """Read lines that the user pastes into the terminal. The thread stays behind if the login ends in another way."""

    def work() -> None:
        # `sys.stdin` is not used: a thread that stays behind would hold its lock and break the interpreter's exit.
        while line := os.read(0, MAX_LINE_BYTES):
            code = attempt.pasted(line.decode("utf-8", "replace"))
            if code is not None:
                portal.start_task_soon(callback.take, code)
                return
            if line.strip():
                output.echo("That is not this login's address, nor a code. Paste it again, whole:", err=True)

    threading.Thread(target=work, daemon=True).start()


def _notices(invocation: Invocation, path: Path, key: str, team: str | None) -> list[str]:
    """Return notices about settings that keep the saved key from being used."""
    now = replace(invocation, config=key_file.read(path))()
    plain: Mapping[str, str] = {name: value for name, value in invocation.env.items() if name != "RUNAPI_BASE_URL"}
    elsewhere = replace(invocation, env=plain, config=key_file.read(path))().base_url
    notices = {
        f"{now.key_source} is set and goes before it: unset it to use this key.": now.api_key != key,
        "FLUX2_MODE is sandbox: unset it to make real images.": now.mode == "sandbox",
        f"It is a key of {now.base_url}: keep RUNAPI_BASE_URL set, or it is sent to {elsewhere}.": team is None
        and elsewhere != now.base_url,
        f"RUNAPI_BASE_URL is set and goes before {team}: unset it, or this token is sent to {now.base_url}.": team
        is not None
        and now.base_url not in {team, elsewhere},
    }
    return [notice for notice, holds in notices.items() if holds]
