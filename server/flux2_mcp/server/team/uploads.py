"""`POST /uploads`: a picture of a caller's machine, for `source_images`. RunAPI holds it for an hour; this server keeps nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC
from http import HTTPStatus

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flux2_mcp.domain.people import Caller
from flux2_mcp.domain.sources import MAX_SOURCE_BYTES, UnreadableError
from flux2_mcp.engine.remote_files import FOLDER
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import Flux2Error
from flux2_mcp.server.team import origin

MOST_AT_ONCE, MOST_OF_ONE = 8, 2
"""Files that are read at once, of all and of one person: each may be in memory. Others wait, and whoever sends slowly, or
nothing more, holds up themselves alone."""
READ_SECONDS = 120.0
"""How long a file may take to come: 32 MB at 2 Mbit/s."""
TOO_LARGE = (
    f"The file is larger than {MAX_SOURCE_BYTES // 2**20} MB. Make it smaller: RunAPI needs no more than 4 megapixels."
)


class Places:
    """Who may send a file now.

    Args:
        caller: Returns who makes the call that is being served.
    """

    def __init__(self, caller: Callable[[], Caller | None]) -> None:
        self._who = caller
        self._of_all = anyio.CapacityLimiter(MOST_AT_ONCE)
        self._of_one: dict[str | None, anyio.CapacityLimiter] = {}
        self._callers = Counter[str | None]()

    @asynccontextmanager
    async def one(self, request: Request) -> AsyncIterator[None]:
        """Wait for a place, and give the request its time from then on."""
        caller = self._who()
        key = None if caller is None else caller.person.key
        allow: Callable[[float], None] = request.scope["state"]["allow"]
        self._callers[key] += 1
        try:
            allow(READ_SECONDS)
            async with self._of_one.setdefault(key, anyio.CapacityLimiter(MOST_OF_ONE)), self._of_all:
                allow(READ_SECONDS)
                yield
        finally:
            self._callers[key] -= 1
            if not self._callers[key]:
                del self._callers[key], self._of_one[key]


def route(service: Callable[[], Service], places: Places) -> Route:
    """Return the route.

    Args:
        service: Returns the service of the person whose call is being served.
        places: Says when a file may come.
    """

    async def answer(request: Request) -> Response:
        async with places.one(request):
            data = bytearray()
            async for piece in request.stream():
                data += piece
                if len(data) > MAX_SOURCE_BYTES:
                    return _refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_LARGE)
            try:
                with origin.of_request(request):
                    name, until = await service().take_source(bytes(data))
            except UnreadableError as exc:
                return _refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"The file {exc.message}")
            except Flux2Error as exc:
                return _refused(HTTPStatus.SERVICE_UNAVAILABLE, f"The file could not be uploaded: {exc.message}")
        shown = {"source": name, "expires_at": until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        return JSONResponse(shown, HTTPStatus.CREATED, {"Cache-Control": "no-store"})

    return Route(FOLDER, answer, methods=["POST"])


def _refused(status: HTTPStatus, text: str) -> Response:
    return JSONResponse({"error": text}, status, {"Cache-Control": "no-store"})
