"""The calls under way, and the end of the server: who has called is answered, and who calls now is sent elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

RETRY_SECONDS = 1
POST_ALONE = (
    "This server takes POST alone: it keeps nothing between two calls, so there is no stream to open or to end.\n"
)
STOPPING = "This server is stopping, and takes no new calls. Call again: another one answers.\n"


class Traffic:
    """`calls` is the number of calls under way; `stopping` is True from the moment when no new call is taken."""

    def __init__(self) -> None:
        self.stopping = False
        self.calls = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    def begin(self) -> None:
        """Note that a call has begun."""
        self.calls += 1
        self._quiet.clear()

    def end(self) -> None:
        """Note that a call was answered, or cut."""
        self.calls -= 1
        if not self.calls:
            self._quiet.set()

    async def quiet(self) -> None:
        """Wait until no call is under way."""
        await self._quiet.wait()


def post_alone(path: str) -> Route:
    """Return the route that refuses to open a stream, on which nothing could ever come and which would hold a place."""

    async def answer(_: Request) -> Response:
        return PlainTextResponse(POST_ALONE, 405, {"Allow": "POST"})

    return Route(path, answer, methods=["GET", "DELETE"])


class CountedCalls:
    """Counts the calls, and refuses new ones while the server stops. Other requests pass.

    Args:
        app: The application behind it.
        traffic: Where the calls are counted.
        paths: The paths of calls.
        folders: What the paths of other calls begin with.
    """

    def __init__(self, app: ASGIApp, *, traffic: Traffic, paths: Collection[str], folders: Collection[str]) -> None:
        self._app = app
        self._traffic = traffic
        self._paths = frozenset(paths)
        self._folders = tuple(folders)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan" or not (scope["path"] in self._paths or scope["path"].startswith(self._folders)):
            await self._app(scope, receive, send)
        elif self._traffic.stopping:
            headers = {"Retry-After": str(RETRY_SECONDS), "Connection": "close"}
            await PlainTextResponse(STOPPING, 503, headers)(scope, receive, send)
        else:
            self._traffic.begin()
            try:
                await self._app(scope, receive, send)
            finally:
                self._traffic.end()
