"""The source images of a remix: each becomes a URL that RunAPI can fetch. Every upload is recorded.

First all sources are checked on this machine, and all problems are reported together. Only then is anything sent. The
same local image is uploaded at most once an hour, and only its pixels are sent.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread
from msgspec import Struct
from msgspec.structs import replace

from flux2_mcp.domain import catalog, sources
from flux2_mcp.domain.hidden_fields import repr_without
from flux2_mcp.domain.models import SourceImage, Status
from flux2_mcp.domain.sources import SourceRef, UnreadableError
from flux2_mcp.engine.remote_files import UPLOAD
from flux2_mcp.engine.seam import Seam
from flux2_mcp.errors import ApiError, InvalidRequestError, Problem, StorageError, shortened
from flux2_mcp.images.store import ImageFolder
from flux2_mcp.journal.records import TaskRecord

if TYPE_CHECKING:  # loaded with the first local source
    from flux2_mcp.images.upright import UprightImage

EXPIRY_MARGIN = timedelta(minutes=10)
"""An upload that expires within this time is not used again: RunAPI fetches a source only when it starts the task."""
UPLOAD_LIFETIME = timedelta(hours=1)
"""How long RunAPI holds a file (`api/runapi.md`, files), where its answer does not say."""
MAX_SHOWN_CHARS = 200
"""The maximum number of characters of a source's name that are stored."""


class SourceSet(Struct, frozen=True):
    """One source that was checked.

    Attributes:
        number: Its place among the sources, from 1.
        given: What the caller gave. It has the bytes of a file, too, until they are decoded.
        shown: Its name for lists and records.
        local: For local bytes, their identity and the image to upload.
        record: For an earlier result, its task. If `local` and `record` are None, the source is a URL.
    """

    number: int
    given: SourceRef
    shown: str
    local: tuple[str, UprightImage] | None = None
    record: TaskRecord | None = None

    __repr__ = repr_without("local")

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels; None if this machine has not read the picture."""
        if self.local is not None:
            return self.local[1].width, self.local[1].height
        images = () if self.record is None else self.record.images
        return (images[0].width, images[0].height) if images else None

    @property
    def identity(self) -> str:
        """The same for the same picture; see `SourceImage.identity`."""
        if self.local is not None:
            return self.local[0]
        return _identity(self.record) if self.record is not None else self.given.text


class SourceImages:
    """Finds sources and makes them available to RunAPI.

    Args:
        seam: The journal, which has the earlier results and what was uploaded to RunAPI, and the way to RunAPI.
        allowed: Folders outside the workspace that may be read.
        images: The images of earlier results.
    """

    def __init__(self, seam: Seam, allowed: Sequence[Path], images: ImageFolder) -> None:
        self._tasks = seam.journal.tasks
        self._uploads = seam.journal.uploads
        self._backend = seam.backend
        self._allowed = tuple(allowed)
        self._images = images
        self._now = seam.now
        self._seam, self._remote, self._person = seam, seam.remote, seam.person

    async def find(
        self, given: Sequence[str], folders: Sequence[Path], *, local: bool
    ) -> tuple[tuple[SourceSet, ...], tuple[Problem, ...]]:
        """Check every source, and send nothing. Where many people call, `decoded` has to check the pictures afterwards.

        Args:
            given: The sources as the caller gave them.
            folders: The workspace, and the other folders that the client has opened.
            local: See `sources.parse`.
        """
        found: list[SourceSet] = []
        wrong: list[Problem] = []
        for number, text in enumerate(given, 1):
            try:
                found.append(await self._find(number, text, folders, local=local))
            except UnreadableError as exc:
                wrong.append(_problem(number, text, exc))
        return tuple(found), tuple(wrong)

    async def decoded(self, found: Sequence[SourceSet]) -> tuple[tuple[SourceSet, ...], tuple[Problem, ...]]:
        """Check the pictures of sources that are found, and not decoded yet."""
        ready: list[SourceSet] = []
        wrong: list[Problem] = []
        for source in found:
            try:
                ready.append(await self._decoded(source))
            except UnreadableError as exc:
                wrong.append(_problem(source.number, source.shown, exc))
        return tuple(ready), tuple(wrong)

    async def _decoded(self, source: SourceSet) -> SourceSet:
        if source.local is not None or source.given.kind not in {"data", "file"}:
            return source
        local = await self._seam.in_turn(partial(_ready, source.given.data))
        return replace(source, given=replace(source.given, data=b""), local=local)

    async def content(self, text: str, folders: Sequence[Path]) -> str:
        """Return the SHA-256 of a local file, as hex digits. The rules for its path are those of a source.

        Raises:
            UnreadableError: The file can't or must not be read, or the text is no path.
        """
        if self._remote is not None:
            raise UnreadableError(self._remote.looking_up(text))
        if not sources.is_local(text):
            raise UnreadableError("must be the path of a file in the workspace.")
        given = sources.parse(text, local=False)
        data = await anyio.to_thread.run_sync(_read, given.text, folders, self._allowed)
        return hashlib.sha256(data).hexdigest()

    async def _find(self, number: int, text: str, folders: Sequence[Path], *, local: bool) -> SourceSet:
        if self._remote is not None and text.startswith(UPLOAD):
            return SourceSet(number, SourceRef("url", await self._uploaded(text)), text)
        given = sources.parse(text, local=local)
        if self._remote is not None and given.kind == "file":
            raise UnreadableError(self._remote.bringing(given.text))
        shown = given.text if given.kind == "data" else shortened(text, MAX_SHOWN_CHARS)
        if given.kind == "task":
            records = await self._tasks.find([given.text])
            if not records:
                raise UnreadableError("names a task that the journal does not know; check_task lists those it does.")
            return SourceSet(number, given, shown, record=records[0])
        if given.kind == "url":
            return SourceSet(number, given, shown)
        if given.kind == "file":
            given = replace(given, data=await anyio.to_thread.run_sync(_read, given.text, folders, self._allowed))
        source = SourceSet(number, given, shown)
        return await self._decoded(source) if self._seam.turns is None else source

    async def take(self, read: Callable[[], bytes]) -> tuple[str, datetime]:
        """Upload a picture that a caller on another machine has sent, for nothing. Return its name as a source, and until when it works.

        Args:
            read: Reads the picture. It is called in a thread, when the picture is decoded and not before.

        Raises:
            UnreadableError: It is no picture that can be a source.
            ApiError: RunAPI refused it.
        """
        identity, ready = await self._seam.in_turn(lambda: _ready(read()))
        await self._upload(UPLOAD, identity, ready)
        name, held = f"{UPLOAD}{secrets.token_urlsafe(16)}", await self._uploads.find(identity, at=self._now())
        if held is None:
            raise UnreadableError("could not be kept.")
        await self._uploads.add(self._own(name), held)
        return name, (held.expires_at or self._now() + UPLOAD_LIFETIME) - EXPIRY_MARGIN

    async def _uploaded(self, name: str) -> str:
        held = await self._uploads.find(self._own(name), at=self._now() + EXPIRY_MARGIN)
        if held is None:
            raise UnreadableError("is no upload of yours, or it is too old: upload the file again.")
        return held.url

    def _own(self, name: str) -> str:
        """The name under which an upload is recorded: nobody else's is found."""
        return f"{name} of {self._person}"

    async def send(self, found: Sequence[SourceSet]) -> tuple[tuple[str, ...], tuple[SourceImage, ...]]:
        """Upload the sources where needed; this is free. Return their URLs, and a description of each.

        Raises:
            InvalidRequestError: It names each task that is not finished, or whose image does not exist any more.
            ApiError: RunAPI refused a file.
        """
        sent: list[tuple[str, SourceImage]] = []
        wrong: list[Problem] = []
        for source in found:
            try:
                sent.append(await self._send(source))
            except UnreadableError as exc:
                wrong.append(_problem(source.number, source.shown, exc))
        if wrong:
            raise InvalidRequestError(*wrong)
        return tuple(url for url, _ in sent), tuple(image for _, image in sent)

    async def of_step(self, record: TaskRecord) -> tuple[str, SourceImage]:
        """Send the image of the task that another follows: its checked file, or, if that is gone, as any earlier result.

        Raises:
            InvalidRequestError: The image does not exist any more.
            ApiError: RunAPI refused the file.
        """
        shown = _identity(record)
        try:
            data = await anyio.Path(await self._images.here(record.images[0])).read_bytes()
            if hashlib.sha256(data).hexdigest() == record.images[0].sha256:
                theirs = replace(self._seam, person=record.person)  # of whoever asked for it
                return await self._upload(shown, *await theirs.in_turn(partial(_ready, data)))
        except (OSError, StorageError, UnreadableError):
            pass  # someone removed or changed it, or the store of images does not answer
        (url,), (source,) = await self.send([SourceSet(1, SourceRef("task", shown), shown, record=record)])
        return url, source

    async def _send(self, source: SourceSet) -> tuple[str, SourceImage]:
        if source.local is not None:
            return await self._upload(source.shown, *source.local)
        if source.record is not None:
            return await self._earlier(source, source.record)
        return source.given.text, SourceImage(given=source.shown, identity=source.given.text)

    async def _earlier(self, source: SourceSet, record: TaskRecord) -> tuple[str, SourceImage]:
        """Send an earlier result: by a fresh URL if RunAPI still has the image, or else by an upload of our file."""
        image = record.images[0] if record.images else None
        width, height = (None, None) if image is None else (image.width, image.height)
        transparent = bool(image.transparent_share) or None if image is not None else None
        trouble = "names a task that RunAPI has not taken yet; wait for it with check_task."
        if record.task_id is not None:
            try:
                remote = await (await self._backend.api()).get(
                    record.request.action, record.task_id, line=catalog.line(record.request), location=record.location
                )
            except ApiError as exc:
                trouble = f"can't be had: {exc.message}"
            else:
                if remote.image_urls and remote.status is Status.COMPLETED:
                    sent = SourceImage(
                        given=source.shown,
                        identity=_identity(record),
                        width=width,
                        height=height,
                        transparent=transparent,
                    )
                    return remote.image_urls[0], sent
                ended = "RunAPI does not have the task's image any more."
                trouble = (
                    ended
                    if remote.status.ended
                    else f"names a task that is {remote.status}; wait for it with check_task."
                )
        if image is None:
            raise UnreadableError(trouble)
        try:
            data = await anyio.Path(await self._images.here(image)).read_bytes()
        except StorageError as exc:
            raise UnreadableError(f"{trouble} {exc.message}") from exc
        except OSError as exc:
            raise UnreadableError(f"{trouble} Its file is gone, too.") from exc
        if hashlib.sha256(data).hexdigest() != image.sha256:
            raise UnreadableError(f"{trouble} Its file was changed; give the file's path, if that is meant.")
        return await self._upload(source.shown, *await self._seam.in_turn(partial(_ready, data)))

    async def _upload(self, shown: str, identity: str, ready: UprightImage) -> tuple[str, SourceImage]:
        held = await self._uploads.find(identity, at=self._now() + EXPIRY_MARGIN)
        if held is None:
            api = await self._backend.api()
            # RunAPI receives the picture, but not the user's name of the file.
            held = await api.upload(f"{identity[-12:]}{ready.suffix}", ready.data)
            await self._uploads.add(identity, held)
        source = SourceImage(
            given=shown,
            identity=identity,
            uploaded_bytes=len(ready.data),
            width=ready.width,
            height=ready.height,
            transparent=ready.transparent or None,
        )
        return held.url, source


def _identity(record: TaskRecord) -> str:
    return f"task:{record.task_id or record.key}"


def _problem(number: int, text: str, error: UnreadableError) -> Problem:
    named = "" if text.startswith(sources.DATA) else f" ({shortened(text)!r})"
    return Problem("source_images", f"item {number}{named} {error.message}")


def _read(text: str, folders: Sequence[Path], allowed: Sequence[Path]) -> bytes:
    from flux2_mcp.images import workspace

    return workspace.read(text, folders, allowed)


def _ready(data: bytes) -> tuple[str, UprightImage]:
    """Return the identity of the bytes, and the image to upload. Raises UnreadableError if decoding fails."""
    from flux2_mcp.images.upright import upright

    if not data:
        raise UnreadableError("is empty.")
    return f"sha256:{hashlib.sha256(data).hexdigest()}", upright(data)
