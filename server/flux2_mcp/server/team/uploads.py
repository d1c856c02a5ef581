"""`POST /uploads`: a picture of a caller's machine, for `source_images`. RunAPI holds it for an hour; this server keeps nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from http import HTTPStatus

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flux2_mcp.domain.sources import MAX_SOURCE_BYTES, UnreadableError
from flux2_mcp.engine.remote_files import FOLDER
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import Flux2Error
from flux2_mcp.server.team import origin

MOST_AT_ONCE = 8
"""Uploads that are read at once: each may be in memory. Others wait."""
READ_SECONDS = 120.0
"""How long a file may take to come: 32 MB at 2 Mbit/s."""
TOO_LARGE = (
    f"The file is larger than {MAX_SOURCE_BYTES // 2**20} MB. Make it smaller: RunAPI needs no more than 4 megapixels."
)


def route(service: Callable[[], Service]) -> Route:
    """Return the route.

    Args:
        service: Returns the service of the person whose call is being served.
    """
    reading = anyio.CapacityLimiter(MOST_AT_ONCE)

    async def answer(request: Request) -> Response:
        request.scope["state"]["allow"](READ_SECONDS)
        async with reading:
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
