"""Store finished images: streamed to a temporary file, checked, then renamed. No half image has a final name."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from urllib.parse import urljoin

import anyio
import anyio.lowlevel
import anyio.to_thread

from flux2_mcp.domain import codings
from flux2_mcp.domain.models import StoredImage
from flux2_mcp.errors import DeliveryError, StorageError
from flux2_mcp.images import decode, thumbnails
from flux2_mcp.images.names import image_name

if TYPE_CHECKING:  # Pillow loads at its first use
    from PIL.Image import Image

MAX_IMAGE_BYTES = 768 * 1024 * 1024
"""Bytes. A 2k PNG is about 8 MB; enlarged 8 times, it has 268 megapixels and some 400 MB."""
MAX_REDIRECTS = 3
DOWNLOAD_SECONDS = 120.0
"""How long the bytes of one image may take to come: so long to begin with, and as long again for each `BYTES_IN_TIME`."""
BYTES_IN_TIME = 64 * 1024 * 1024
STRUCTURE_ALONE = (
    "It is too large to be decoded here: its structure, its kind and its size were checked, not its pixels."
)
"""What is noted about an image that `decode` could not check whole."""
INCOMING = "incoming"
"""Folder for incomplete files, beside the folder of images."""
STALE_SECONDS = 600.0
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})


class DownloadAnswer(Protocol):
    """An HTTP answer while it is read; `runapi.client` gives these."""

    @property
    def status(self) -> int:
        """HTTP status code."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body, piece by piece."""
        ...


Fetch = Callable[[str], AbstractAsyncContextManager[DownloadAnswer]]


async def deliver(
    fetch: Fetch,
    url: str,
    *,
    folder: Path,
    prompt: str,
    at: datetime,
    threads: anyio.CapacityLimiter | None = None,
    permit: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint,
    max_bytes: int = MAX_IMAGE_BYTES,
    seconds: float = DOWNLOAD_SECONDS,
) -> StoredImage:
    """Fetch one result into `folder`.

    Args:
        fetch: Opens a URL without following redirects and without credentials; refuses places that are not public.
        url: The result's temporary URL.
        folder: The folder of images; made if missing.
        prompt: For the file's name.
        at: When the task was made, for the file's name.
        threads: How many may write and decode at once; None: as many as anyio has.
        permit: Awaited right before the whole file gets its name; what it raises leaves nothing behind.
        max_bytes: A larger image is refused, packed or unpacked.
        seconds: How long its bytes may take to come; as long again for each `BYTES_IN_TIME` that have come.

    Raises:
        DeliveryError: The URL is not allowed or has expired, or the answer is not a whole image.
        StorageError: The image can't be written here.
        TransportError: No answer came.
    """
    in_thread = partial(anyio.to_thread.run_sync, limiter=threads)
    incoming = folder.with_name(INCOMING)
    try:
        await in_thread(make_room, folder, incoming)
    except OSError as exc:
        raise StorageError(f"The image folder can't be written: {exc.strerror}.") from exc
    part, deadline = incoming / f"{secrets.token_hex(8)}.part", _Deadline(seconds)
    try:
        with anyio.fail_after(seconds) as scope:
            deadline.begin(scope)
            label = await _stream(fetch, url, part, in_thread, max_bytes, deadline.extend)
        if (coding := codings.coding(label)) is not None:
            await in_thread(_unpack, part, coding, max_bytes)
        checked, small = await in_thread(decode.check_and_scale, part, thumbnails.SIDE_PX)
        size, sha256 = await in_thread(measured, part)
        final = folder / image_name(prompt, at=at, sha256=sha256, suffix=checked.suffix)
        await permit()
        await in_thread(_place, part, final, small)
    except TimeoutError as exc:
        raise DeliveryError(f"The image did not come within {deadline.seconds:.0f} s.") from exc
    except OSError as exc:
        raise StorageError(f"The image can't be written: {exc.strerror}.") from exc
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.Path(part).unlink(missing_ok=True)
    return StoredImage(
        path=str(final),
        mime_type=checked.mime_type,
        width=checked.width,
        height=checked.height,
        size_bytes=size,
        sha256=sha256,
        transparent_share=checked.transparent_share,
        note=None if checked.whole else STRUCTURE_ALONE,
    )


class _Deadline:
    """The end of a download's time, which each byte that comes moves on: a large image may take longer, a slow one not."""

    def __init__(self, seconds: float) -> None:
        self.seconds = self._first = seconds
        self._scope: anyio.CancelScope | None = None

    def begin(self, scope: anyio.CancelScope) -> None:
        """Count from now on; `scope` has the time to begin with."""
        self._scope = scope

    def extend(self, size: int) -> None:
        """So many bytes have come, all in all."""
        before, self.seconds = self.seconds, self._first * (1 + size / BYTES_IN_TIME)
        if self._scope is not None:
            self._scope.deadline += self.seconds - before


def make_room(*folders: Path) -> None:
    """Make the folders, and delete incomplete files of dead processes: no download lasts `STALE_SECONDS`."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for part in folders[-1].iterdir():
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink()


def _place(part: Path, final: Path, small: Image | None) -> None:
    """Give the file its name. A small copy of it is kept, so that a gallery need not decode it again."""
    part.replace(final)
    if small is not None:
        with suppress(decode.PictureError):  # the image counts, not its copy
            thumbnails.keep(final, final.parent.with_name(thumbnails.FOLDER), thumbnails.encoded(small))


def _unpack(part: Path, coding: str, max_bytes: int) -> None:
    """Take off the coding that a file is labelled with. Where it has none, it stays as it is.

    Raises:
        DeliveryError: The decoded file is larger than any image.
    """
    size = 0
    with part.open("rb") as packed, tempfile.TemporaryFile(dir=part.parent) as plain:
        try:
            for piece in codings.unpacked(_pieces(packed), coding):
                size += len(piece)
                _bound(size, max_bytes)
                plain.write(piece)
        except codings.NotPackedError:
            return
        plain.seek(0)
        with part.open("wb") as file:
            shutil.copyfileobj(plain, file)
            _sync(file)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    return iter(partial(file.read, codings.PIECE_BYTES), b"")


def measured(part: Path) -> tuple[int, str]:
    """A file's size in bytes, and its SHA-256."""
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def is_whole(image: StoredImage) -> bool:
    """Whether a stored image's file is there, with the bytes that were checked."""
    try:
        return measured(Path(image.path)) == (image.size_bytes, image.sha256)
    except OSError:
        return False


def _bound(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise DeliveryError(f"The image is larger than {max_bytes // 2**20} MB.")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def new_file(part: Path) -> BinaryIO:
    """Make a file that only its owner can read."""
    return os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


async def _stream(
    fetch: Fetch,
    url: str,
    part: Path,
    in_thread: Callable[..., Awaitable[Any]],
    max_bytes: int,
    came: Callable[[int], None],
) -> str:
    """Write what a URL leads to into a new file. Gives the `Content-Encoding` that the answer is labelled with.

    The file is opened when the answer is there: of many images that wait for a connection, none holds a file open.
    """
    for _ in range(MAX_REDIRECTS + 1):
        async with fetch(url) as answer:
            if answer.status in REDIRECT_STATUSES:
                url = _target(url, answer.headers.get("location", ""))
                continue
            if answer.status != HTTPStatus.OK:
                raise DeliveryError(f"The result's URL answered {answer.status}; it may have expired.")
            size = 0
            with anyio.CancelScope(shield=True):  # a file that a thread is opening would be lost, and stay open
                file = await in_thread(new_file, part)
            with file:
                async for chunk in answer.chunks():
                    size += len(chunk)
                    _bound(size, max_bytes)
                    came(size)
                    await in_thread(file.write, chunk)
                await in_thread(_sync, file)
            return answer.headers.get("content-encoding", "")
    raise DeliveryError(f"The result's URL redirected more than {MAX_REDIRECTS} times.")


def _target(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as exc:
        raise DeliveryError("The result's URL redirected to what is no URL.") from exc
