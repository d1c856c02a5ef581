"""The bearer token of the HTTP server, which each call must have.

It is made at the first use, and stored in FLUX2_HOME, readable for the owner only.
"""

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
"""The minimum length of a token: a shorter one was not made here."""
REFUSED = (
    "This server needs its bearer token: Authorization: Bearer TOKEN. The token is in FLUX2_HOME, file http-token.\n"
)


def path(home: Path, name: str = TOKEN_FILE) -> Path:
    """Return the path of a token file."""
    return home / name


def token(home: Path, name: str = TOKEN_FILE) -> tuple[str, bool]:
    """Return the token, and whether it was made by this call.

    Args:
        home: FLUX2_HOME; created if it does not exist.
        name: The name of its file.

    Raises:
        SettingsError: The file can't be read or created, holds no token, or other users can read it.
    """
    file = path(home, name)
    try:
        made = not file.exists() and make(home, name)
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


def make(home: Path, name: str = TOKEN_FILE) -> bool:
    """Make a token file atomically. False if the file exists, because another process was faster.

    Raises:
        OSError: The folder is not usable.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        write_atomically(path(home, name), secrets.token_urlsafe(32).encode() + b"\n", replace=False)
    except FileExistsError:
        return False
    return True


def _ignore() -> None:
    """Stand in for `admit` in a server that does not count admitted calls."""


class BearerOnly:
    """Admits calls with the token, and answers 401 to all others. Of those, it reads only the authorization header.

    Args:
        app: The application that it guards.
        token: The token, ASCII.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        if scope["type"] == "lifespan" or self._known(Headers(scope=scope).getlist("authorization")):
            scope.get("state", {}).get("admit", _ignore)()
            await self._app(scope, receive, send)
            return
        refused = PlainTextResponse(REFUSED, status_code=401, headers={"WWW-Authenticate": "Bearer"})
        await refused(scope, receive, send)

    def _known(self, headers: list[str]) -> bool:
        if len(headers) != 1:
            return False
        scheme, _, credentials = headers[0].partition(" ")
        # Compared as bytes, because compare_digest accepts only ASCII text; Starlette reads headers as Latin-1.
        same = hmac.compare_digest(credentials.strip().encode("latin-1"), self._token)
        return same and scheme.lower() == "bearer"
