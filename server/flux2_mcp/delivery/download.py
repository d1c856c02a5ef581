"""Bring finished images to disk: streamed to a temporary file, checked, then renamed. Never a half image."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urljoin

import anyio
import anyio.lowlevel
import anyio.to_thread

from flux2_mcp.delivery import image
from flux2_mcp.delivery.paths import image_name
from flux2_mcp.errors import DeliveryError, StorageError
from flux2_mcp.journal.entry import StoredImage

LARGEST = 64 * 1024 * 1024
"""Bytes. A 2k PNG is about 8 MB."""
REDIRECTS = 3
SECONDS = 120.0
INCOMING = "incoming"
"""Folder, beside that of the images, of what has not come whole yet."""
STALE_SECONDS = 600.0
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})


class Answer(Protocol):
    """An answer being read: `runapi.client` gives these."""

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


Fetch = Callable[[str], AbstractAsyncContextManager[Answer]]


async def deliver(
    fetch: Fetch,
    url: str,
    *,
    folder: Path,
    prompt: str,
    at: datetime,
    threads: anyio.CapacityLimiter | None = None,
    permit: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint,
) -> StoredImage:
    """Fetch one result into `folder`.

    Args:
        fetch: Opens a URL without following redirects and without credentials; refuses places that are not public.
        url: The result's temporary URL.
        folder: Where images are kept; made where missing.
        prompt: For the file's name.
        at: When the task was made, for the file's name.
        threads: How many may write and decode at once; None: as many as anyio has.
        permit: Awaited right before the whole file gets its name; what it raises leaves nothing behind.

    Raises:
        DeliveryError: The URL is not allowed, has expired, or what came is not a whole image.
        StorageError: It can't be written here.
        TransportError: No answer came.
    """
    in_thread = partial(anyio.to_thread.run_sync, limiter=threads)
    incoming = folder.with_name(INCOMING)
    try:
        await in_thread(_make_room, folder, incoming)
        handle, name = await in_thread(lambda: tempfile.mkstemp(dir=incoming))
    except OSError as exc:
        raise StorageError(f"The image folder can't be written: {exc.strerror}.") from exc
    part, digest = Path(name), hashlib.sha256()
    try:
        with anyio.fail_after(SECONDS), os.fdopen(handle, "wb") as file:

            def take(chunk: bytes) -> None:
                digest.update(chunk)
                file.write(chunk)

            size = await _stream(fetch, url, partial(in_thread, take))
            await in_thread(_sync, file)
        checked = await in_thread(image.check, part)
        sha256 = digest.hexdigest()
        final = folder / image_name(prompt, at=at, sha256=sha256, suffix=checked.suffix)
        await permit()
        await in_thread(os.replace, part, final)
    except TimeoutError as exc:
        raise DeliveryError(f"The image did not come within {SECONDS:.0f} s.") from exc
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
    )


def _make_room(*folders: Path) -> None:
    """Make the folders, and clear away what dead processes left half-way: nobody writes for so long."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for part in folders[-1].iterdir():
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


async def _stream(fetch: Fetch, url: str, take: Callable[[bytes], Awaitable[object]]) -> int:
    """Give what a URL leads to, chunk by chunk, to `take`. Gives the size in bytes."""
    for _ in range(REDIRECTS + 1):
        async with fetch(url) as answer:
            if answer.status in REDIRECT_STATUSES:
                url = _target(url, answer.headers.get("location", ""))
                continue
            if answer.status != HTTPStatus.OK:
                raise DeliveryError(f"The result's URL answered {answer.status}; it may have expired.")
            size = 0
            async for chunk in answer.chunks():
                size += len(chunk)
                if size > LARGEST:
                    raise DeliveryError(f"The image is larger than {LARGEST // 2**20} MB.")
                await take(chunk)
            return size
    raise DeliveryError(f"The result's URL redirected more than {REDIRECTS} times.")


def _target(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as exc:
        raise DeliveryError("The result's URL redirected to what is no URL.") from exc
