"""The bearer token of the HTTP server: made at its first use, kept in FLUX2_HOME for its owner alone, asked of every call."""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from flux2_mcp.errors import SettingsError
from flux2_mcp.system.files import write_atomically

TOKEN_FILE = "http-token"  # noqa: S105 - a file's name
MIN_TOKEN_CHARS = 32
"""Characters. What is shorter was not made here."""
REFUSED = (
    "This server needs its bearer token: Authorization: Bearer TOKEN. The token is in FLUX2_HOME, file http-token.\n"
)


def path(home: Path) -> Path:
    """The file that holds the token."""
    return home / TOKEN_FILE


def token(home: Path) -> tuple[str, bool]:
    """The token, and whether it was made just now.

    Args:
        home: FLUX2_HOME; made if it is not there.

    Raises:
        SettingsError: The file can't be read or made, holds no token, or can be read by others.
    """
    file = path(home)
    try:
        made = not file.exists() and make(home)
        with file.open("rb") as opened:
            mode, found = os.fstat(opened.fileno()).st_mode, opened.read().strip()
    except OSError as exc:
        raise SettingsError(f"The token file {file} can't be used: {exc.strerror}.") from exc
    again = "Delete it and start again: a new one is made."
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise SettingsError(f"Other users can read the token file {file}.", next_step=again)
    if len(found) < MIN_TOKEN_CHARS or not found.isascii():
        raise SettingsError(f"The token file {file} holds no token.", next_step=again)
    return found.decode("ascii"), made


def make(home: Path) -> bool:
    """Make the token file, whole or not at all. False where there is one: another process was faster.

    Raises:
        OSError: The folder can't be used.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        write_atomically(path(home), secrets.token_urlsafe(32).encode() + b"\n", replace=False)
    except FileExistsError:
        return False
    return True


def _nobody_asks() -> None:
    """A server that does not count whom we let in."""


class BearerOnly:
    """Lets in the calls that carry the token, and answers all others 401: nothing is read of them but this header.

    Args:
        app: What it guards.
        token: ASCII.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        if scope["type"] == "lifespan" or self._known(Headers(scope=scope).getlist("authorization")):
            scope.get("state", {}).get("admit", _nobody_asks)()
            await self._app(scope, receive, send)
            return
        refused = PlainTextResponse(REFUSED, status_code=401, headers={"WWW-Authenticate": "Bearer"})
        await refused(scope, receive, send)

    def _known(self, given: list[str]) -> bool:
        if len(given) != 1:
            return False
        scheme, _, credentials = given[0].partition(" ")
        # Bytes, as compare_digest takes no other text than ASCII; Starlette reads headers as Latin-1.
        same = hmac.compare_digest(credentials.strip().encode("latin-1"), self._token)
        return same and scheme.lower() == "bearer"
