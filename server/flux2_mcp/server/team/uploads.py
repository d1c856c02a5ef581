"""`POST /uploads`: a picture of a caller's machine, for `source_images`. RunAPI holds it for an hour; this server keeps nothing.

A file is read before it takes a place of all: whoever sends slowly, or nothing more, holds up themselves alone. What has come
waits on the disk, not in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import IO

import anyio
import anyio.to_thread
from msgspec import Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flux2_mcp.domain.people import Caller
from flux2_mcp.domain.sources import MAX_SOURCE_BYTES, UnreadableError
from flux2_mcp.engine.remote_files import FOLDER
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import Flux2Error, RejectedError
from flux2_mcp.server.team import origin
from flux2_mcp.system.turns import Turns

MOST_AT_ONCE, MOST_OF_ONE = 8, 2
"""Files that are worked on at once, of all and of one person: each is in memory. Of one person, as many are read at once."""
READ_SECONDS = 120.0
"""How long a file may take to come: 32 MB at 2 Mbit/s."""
MEMORY_BYTES = 2**20
"""What has come of a file beyond this goes to the disk."""
MAX_WAITING_BYTES = 2**30
"""The maximum size of all files together that are coming, or wait on the disk: those of 16 people at least."""
RETRY_SECONDS = "5"
TOO_LARGE = (
    f"The file is larger than {MAX_SOURCE_BYTES // 2**20} MB. Make it smaller: RunAPI needs no more than 4 megapixels."
)
FULL = "Too many files are being uploaded at once. Upload it again later."


class FileTooLargeError(RejectedError):
    """The file of a call is larger than it may be."""


class Arrived(Struct, frozen=True):
    """A file that has come whole."""

    file: IO[bytes]

    def read(self) -> bytes:
        """Return all of it. Call it from a thread."""
        self.file.seek(0)
        return self.file.read()


class Places:
    """Who may send a file now, and whose file is worked on.

    Args:
        caller: Returns who makes the call that is being served.
        folder: Where files wait. They have no name there, and are gone when the call or the process ends.
        most_bytes: The maximum size of all of them together.
    """

    def __init__(
        self, caller: Callable[[], Caller | None], folder: Path, *, most_bytes: int = MAX_WAITING_BYTES
    ) -> None:
        self._who = caller
        self._folder = folder
        self._most_bytes, self._bytes = most_bytes, 0
        self._of_one, self._of_all = Turns(MOST_OF_ONE), Turns(MOST_OF_ONE, MOST_AT_ONCE)

    async def answer(
        self, request: Request, most_bytes: int, too_large: str, work: Callable[[Arrived], Awaitable[Response]]
    ) -> Response:
        """Read the file that a call brings, and work on it when its turn comes.

        Args:
            request: The call. It gets its time when it may be read.
            most_bytes: A larger file is refused.
            too_large: How.
            work: Makes the answer. If the caller goes away, it is cancelled, or not begun.

        Raises:
            FileTooLargeError: The file is too large.
            Flux2Error: There is no room for it now.
        """
        caller = self._who()
        person = None if caller is None else caller.person.key
        allow: Callable[[float], None] = request.scope["state"]["allow"]
        allow(READ_SECONDS)
        async with self._of_one.one(person):
            allow(READ_SECONDS)
            with self._room() as take, tempfile.SpooledTemporaryFile(MEMORY_BYTES, dir=str(self._folder)) as file:
                await _read(request, file, partial(take, most_bytes, too_large))

                async def worked_on() -> Response:
                    async with self._of_all.one(person):
                        return await work(Arrived(file))

                return await _unless_gone(request, worked_on)

    @contextmanager
    def _room(self) -> Iterator[Callable[[int, str, int], None]]:
        """Yield what takes room for bytes; all of it is free afterwards."""
        taken = 0

        def take(most_bytes: int, too_large: str, size: int) -> None:
            nonlocal taken
            if taken + size > most_bytes:
                raise FileTooLargeError(too_large, status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            if self._bytes + size > self._most_bytes:
                raise Flux2Error(FULL)
            taken += size
            self._bytes += size

        try:
            yield take
        finally:
            self._bytes -= taken


async def _read(request: Request, file: IO[bytes], take: Callable[[int], None]) -> None:
    """Write the body of a call into a file, a thread at a time."""
    pieces = bytearray()
    try:
        async for piece in request.stream():
            take(len(piece))
            pieces += piece
            if len(pieces) >= MEMORY_BYTES:
                await anyio.to_thread.run_sync(file.write, bytes(pieces))
                pieces.clear()
        await anyio.to_thread.run_sync(file.write, bytes(pieces))
    except OSError as exc:
        raise Flux2Error(f"The server's disk takes no more: {exc.strerror}.") from exc


async def _unless_gone(request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
    """Work on a call that was read whole. It is cancelled if its caller goes away.

    Raises:
        ClientDisconnect: The caller has gone.
    """
    answer: Response | None = None
    failure: Exception | None = None
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            answer = await work()
        except Exception as exc:  # noqa: BLE001  # raised below, outside the group, which would wrap it
            failure = exc
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if answer is None:
        raise ClientDisconnect
    return answer


def route(service: Callable[[], Service], places: Places) -> Route:
    """Return the route.

    Args:
        service: Returns the service of the person whose call is being served.
        places: Says when a file may come.
    """

    async def taken(request: Request, arrived: Arrived) -> Response:
        with origin.of_request(request):
            name, until = await service().take_source(arrived.read)
        shown = {"source": name, "expires_at": until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        return JSONResponse(shown, HTTPStatus.CREATED, {"Cache-Control": "no-store"})

    async def answer(request: Request) -> Response:
        try:
            return await places.answer(request, MAX_SOURCE_BYTES, TOO_LARGE, partial(taken, request))
        except UnreadableError as exc:
            return _refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"The file {exc.message}")
        except FileTooLargeError:
            return _refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_LARGE)
        except Flux2Error as exc:
            return _refused(HTTPStatus.SERVICE_UNAVAILABLE, f"The file could not be uploaded: {exc.message}")

    return Route(FOLDER, answer, methods=["POST"])


def _refused(status: HTTPStatus, text: str) -> Response:
    later = {"Retry-After": RETRY_SECONDS} if status is HTTPStatus.SERVICE_UNAVAILABLE else {}
    return JSONResponse({"error": text}, status, {"Cache-Control": "no-store"} | later)
