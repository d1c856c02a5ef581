"""Links to images that a team's server has: signed, in force for an hour, and open to whoever has one.

A browser, an agent host or RunAPI fetches an image through its link without a token. Every server with the same FLUX2_SEAL_KEY
makes and knows the same links.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import anyio
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from flux2_mcp.domain.models import StoredImage
from flux2_mcp.engine.audited import note_link
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import JournalError, StorageError
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.server.team import origin

FOLDER = "/images/"
LIFETIME = timedelta(hours=1)
PURPOSE = b"flux2-mcp: links to images"
"""Keeps a signature of a link from being of use anywhere else where the same key signs."""
MAX_DIGITS = 12
SIGNATURE_CHARS = 32
"""Hex digits: 128 bits. A link stays short enough to be shown whole."""
RETRY_SECONDS = "5"
SOON_SECONDS = "1"
NO_LINK = "This is no link of this server."
EXPIRED = "This link has expired. Ask for the task again: check_task gives a new one."
PRUNED = "The image is not kept any more."
TOO_MANY = "Too many images of this person are being fetched at once. Call again."
HEADERS = {
    "Cache-Control": "private, max-age=3600",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _RefusedError(Exception):
    """A link that opens nothing: the status and a sentence."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text

    def answer(self) -> Response:
        soon = {"Retry-After": SOON_SECONDS} if self.status == HTTPStatus.TOO_MANY_REQUESTS else {}
        return PlainTextResponse(f"{self.text}\n", self.status, {"Cache-Control": "no-store"} | soon)


class ImageLinks:
    """Makes links, and answers them.

    Args:
        base: The public address of the server, without a slash at its end.
        seal_keys: The keys of all servers behind it, the present one first; without any, links are of use at this process alone.
        now: The present time, aware.
    """

    def __init__(
        self, base: str, seal_keys: Sequence[str], *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._base = base
        self._keys = [key.encode() for key in seal_keys] or [secrets.token_bytes(32)]
        self._now = now

    def link(self, record: TaskRecord, number: int) -> tuple[str, datetime]:
        """Return a link to an image of a task, and the time from which it opens nothing more; `number` counts from 0."""
        expires_at = self._now().replace(microsecond=0) + LIFETIME
        expires = int(expires_at.timestamp())
        signature = _signature(self._keys[0], record.key, number, expires)
        url = f"{self._base}{FOLDER}{_name(record.key)}/{number}?expires={expires}&signature={signature}"
        return url, expires_at

    def read(self, request: Request) -> tuple[str, int]:
        """Return the task's key and the image's number of the link that is called.

        Raises:
            _RefusedError: It is none of ours, or its time is over.
        """
        path, query = request.path_params, request.query_params
        try:
            key, number, expires = _key(path["name"]), _digits(path["number"]), _digits(query.get("expires", ""))
        except ValueError:
            raise _RefusedError(HTTPStatus.NOT_FOUND, NO_LINK) from None
        if not self.opens(key, number, expires, query.get("signature", "")):
            raise _RefusedError(HTTPStatus.NOT_FOUND, NO_LINK)
        if self.expired(expires):
            raise _RefusedError(HTTPStatus.GONE, EXPIRED)
        return key, number

    def opens(self, key: str, number: int, expires: int, signature: str) -> bool:
        """Whether a link is one of ours. It may have expired."""
        given = signature.encode("ascii", "replace")
        return any(hmac.compare_digest(given, _signature(each, key, number, expires).encode()) for each in self._keys)

    def expired(self, expires: int) -> bool:
        """Whether a link's time is over."""
        return self._now().timestamp() >= expires


class _Fetches:
    """The images that are being fetched by their links: whoever has one could otherwise read slowly, and take the places of all."""

    def __init__(self, most_of_one: int) -> None:
        self._most_of_one = most_of_one
        self._under_way = Counter[str | None]()

    @contextmanager
    def one(self, person: str | None) -> Iterator[None]:
        """Count one of a person's images."""
        if self._under_way[person] >= self._most_of_one:
            raise _RefusedError(HTTPStatus.TOO_MANY_REQUESTS, TOO_MANY)
        self._under_way[person] += 1
        try:
            yield
        finally:
            self._under_way[person] -= 1
            if not self._under_way[person]:
                del self._under_way[person]


class _ImageResponse(FileResponse):
    """An image that is sent. `held` is let go at its end."""

    held: ExitStack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.held:
            await super().__call__(scope, receive, send)
            await scope["state"]["sent"]()


def route(links: ImageLinks, service: Callable[[], Service], *, most_of_one: int) -> Route:
    """Return the route that answers links.

    Args:
        links: Checks them.
        service: Has the images of all.
        most_of_one: The maximum number of simultaneous fetches of one person's images.
    """
    fetches = _Fetches(most_of_one)

    async def found(request: Request, held: ExitStack) -> tuple[TaskRecord, StoredImage, Path]:
        """Return the task, the image and its file."""
        key, number = links.read(request)
        record = await service().known(key)
        held.enter_context(fetches.one(None if record is None else record.person))
        image = None if record is None or number >= len(record.images) else record.images[number]
        file = None if image is None else await service().images.here(image)
        if record is None or image is None or file is None or not await anyio.Path(file).is_file():
            raise _RefusedError(HTTPStatus.NOT_FOUND, PRUNED)
        return record, image, file

    async def answer(request: Request) -> Response:
        with ExitStack() as held:
            try:
                record, image, file = await found(request, held)
                request.scope["state"]["admit"]()  # an enlarged image takes longer than an unproven connection may
                # The same on every server, whenever its file was written.
                headers = HEADERS | {"ETag": f'"{image.sha256}"'}
                if _has(request.headers.getlist("if-none-match"), headers["ETag"]):
                    return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
                if request.method != "HEAD":  # which gives out no bytes; a range of them may be all
                    agent, address = request.headers.get("user-agent"), origin.address_of(request)
                    await note_link(service(), record, client=agent, address=address)
            except _RefusedError as exc:
                return exc.answer()
            except (JournalError, StorageError) as exc:
                headers = {"Cache-Control": "no-store", "Retry-After": RETRY_SECONDS}
                return PlainTextResponse(f"{exc.message}\n", HTTPStatus.SERVICE_UNAVAILABLE, headers)
            response = _ImageResponse(file, headers=headers, media_type=image.mime_type)
            response.held = held.pop_all()
        return response

    return Route(f"{FOLDER}{{name}}/{{number}}", answer, methods=["GET"])


def _name(key: str) -> str:
    """A task's key as a link has it: as it is, it could hold what has a meaning in a path."""
    return urlsafe_b64encode(key.encode()).decode().rstrip("=")


def _key(name: str) -> str:
    return urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()


def _has(tags: Sequence[str], tag: str) -> bool:
    """Whether a caller has this version; a proxy that has compressed it on the way says so with W/."""
    given = {each.strip().removeprefix("W/") for line in tags for each in line.split(",")}
    return bool(given & {tag, "*"})


def _digits(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise ValueError
    return int(text)


def _signature(seal_key: bytes, key: str, number: int, expires: int) -> str:
    purpose = hmac.digest(seal_key, PURPOSE, "sha256")
    return hmac.digest(purpose, f"{number} {expires} {key}".encode(), "sha256").hex()[:SIGNATURE_CHARS]
