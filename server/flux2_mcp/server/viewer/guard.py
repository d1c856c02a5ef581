"""The access rules of the viewer: every request that they do not allow is refused before it reaches the application.

A call of generate spends the user's money, and every page in the user's browser can send requests to 127.0.0.1. So:

- `Host` must be a loopback name with our port. This refuses names that were made to point here (DNS rebinding).
- `Origin` must be ours if there is one. A request that is not a GET must have one.
- The token in the URL is exchanged for a cookie, HttpOnly and SameSite=Strict, and disappears from the address bar.
- There are three paths, with one method each.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flux2_mcp.system.loopback import HOST

PATHS: Final[Mapping[str, str]] = {"/": "GET", "/gallery": "GET", "/rpc": "POST"}
NAMES: Final = (HOST, "localhost")
HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""The headers of every response, also of refusals."""
UNKNOWN_CALLER: Final = "This gallery opens with the URL that flux2-mcp gallery printed when it was started.\n"


class ViewerGuard:
    """The application behind the access rules.

    Args:
        application: Gets only requests of the user's own browser, for `PATHS`.
        port: The port of the viewer.
    """

    def __init__(self, application: ASGIApp, port: int) -> None:
        self._application = application
        self._base = f"http://{HOST}:{port}"
        self._hosts = {f"{name}:{port}" for name in NAMES}
        self._token = secrets.token_urlsafe(32)
        self._tickets: set[str] = set()
        self._session = secrets.token_urlsafe(32)
        # Cookies do not depend on the port. The name does, so that two galleries do not overwrite each other's cookie.
        self._cookie = f"flux2-gallery-{port}"

    def url(self) -> str:
        """Return the URL that opens the viewer any number of times, for the terminal of its user."""
        return f"{self._base}/?token={self._token}"

    def ticket(self) -> str:
        """Return a URL that works once, for the browser's command line, which every user of the machine can read."""
        self._tickets.add(ticket := secrets.token_urlsafe(32))
        return f"{self._base}/?token={ticket}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request, as in ASGI."""
        request = Request(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        answer: ASGIApp | None = self._refused(request) or self._entered(request)
        if answer is None:
            scope["state"]["admit"]()
            answer = self._application
        await answer(scope, receive, send_with_headers)

    def _refused(self, request: Request) -> Response | None:
        host, path = request.headers.get("host"), request.scope["path"]
        origins = {f"http://{host}"} | ({None} if request.method == "GET" else set())
        if host not in self._hosts or request.headers.get("origin") not in origins:
            return PlainTextResponse("Not from here.\n", HTTPStatus.FORBIDDEN)
        if path not in PATHS:
            return PlainTextResponse("There is nothing.\n", HTTPStatus.NOT_FOUND)
        if request.method != PATHS[path]:
            return PlainTextResponse("Not so.\n", HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": PATHS[path]})
        return None

    def _entered(self, request: Request) -> Response | None:
        """Return the response to a caller with a token or without the cookie; None for a caller with the cookie."""
        known = _same(request.cookies.get(self._cookie, ""), self._session)
        token = request.query_params.get("token")
        if token is None or request.scope["path"] != "/":
            return None if known else PlainTextResponse(UNKNOWN_CALLER, HTTPStatus.FORBIDDEN)
        if not (known or self._opens(token)):
            return PlainTextResponse(UNKNOWN_CALLER, HTTPStatus.FORBIDDEN)
        answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        answer.set_cookie(self._cookie, self._session, path="/", httponly=True, samesite="strict")
        return answer

    def _opens(self, token: str) -> bool:
        used = {ticket for ticket in self._tickets if _same(token, ticket)}
        self._tickets -= used
        return bool(used) or _same(token, self._token)


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "replace"), wanted.encode())
