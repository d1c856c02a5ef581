"""Where the sources of a remix come from: each becomes an address that RunAPI can fetch. What leaves is written down.

First everything is looked at, on this machine alone, and whatever is wrong with any of it is told together; only then is
something sent. Local bytes go up once an hour at most, and nothing of them but their pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio.to_thread

from flux2_mcp.domain import sources
from flux2_mcp.domain.models import SourceImage, Status
from flux2_mcp.domain.sources import SourceRef, UnreadableError
from flux2_mcp.engine.backend import Backend
from flux2_mcp.errors import ApiError, InvalidRequestError, Problem, shortened
from flux2_mcp.images import workspace
from flux2_mcp.images.upright import UprightImage, upright
from flux2_mcp.journal.contract import Tasks, Uploads
from flux2_mcp.journal.records import TaskRecord

EXPIRY_MARGIN = timedelta(minutes=10)
"""So long before its hour is over an upload is not used again: RunAPI fetches a source when the task's turn comes."""
MAX_SHOWN_CHARS = 200
"""Characters of a source's name that are leased."""


@dataclass(frozen=True, slots=True)
class SourceSet:
    """One source, looked at: its place among the sources, from 1, and how it is shown.

    For local bytes, what would be sent and what names them; for an earlier result, its entry; else it is an address.
    """

    number: int
    given: SourceRef
    shown: str
    local: tuple[str, UprightImage] | None = field(default=None, repr=False)
    record: TaskRecord | None = None


class SourceImages:
    """Finds sources and brings them to RunAPI.

    Args:
        tasks: Knows what was made.
        uploads: Knows what RunAPI holds.
        backend: The way to RunAPI.
        allowed: Folders that may be read from beside the workspace.
        now: UTC.
    """

    def __init__(
        self,
        tasks: Tasks,
        uploads: Uploads,
        backend: Backend,
        allowed: Sequence[Path],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._tasks = tasks
        self._uploads = uploads
        self._backend = backend
        self._allowed = tuple(allowed)
        self._now = now

    async def find(
        self, given: Sequence[str], folders: Sequence[Path], *, local: bool
    ) -> tuple[tuple[SourceSet, ...], tuple[Problem, ...]]:
        """Look at every source. Sends nothing.

        Args:
            given: As the caller gave them.
            folders: The workspace, and what else the client has opened.
            local: See `sources.parse`.
        """
        found: list[SourceSet] = []
        wrong: list[Problem] = []
        for number, text in enumerate(given, 1):
            try:
                found.append(await self._find(number, text, folders, local=local))
            except UnreadableError as exc:
                wrong.append(Problem("source_images", f"item {number} {exc.message}"))
        return tuple(found), tuple(wrong)

    async def _find(self, number: int, text: str, folders: Sequence[Path], *, local: bool) -> SourceSet:
        given = sources.parse(text, local=local)
        shown = given.text if given.kind == "data" else shortened(text, MAX_SHOWN_CHARS)
        if given.kind == "task":
            records = await self._tasks.find([given.text])
            if not records:
                raise UnreadableError("names a task that the journal does not know; check_task lists those it does.")
            return SourceSet(number, given, shown, record=records[0])
        if given.kind == "url":
            return SourceSet(number, given, shown)
        data = given.data
        if given.kind == "file":
            data = await anyio.to_thread.run_sync(workspace.read, given.text, folders, self._allowed)
        return SourceSet(number, given, shown, await anyio.to_thread.run_sync(_ready, data))

    async def send(self, found: Sequence[SourceSet]) -> tuple[tuple[str, ...], tuple[SourceImage, ...]]:
        """Bring the sources to RunAPI. Costs nothing. Gives their addresses, and what each is.

        Raises:
            InvalidRequestError: Naming each task that is not finished, or whose image is nowhere any more.
            ApiError: RunAPI refused a file.
        """
        sent: list[tuple[str, SourceImage]] = []
        wrong: list[Problem] = []
        for one in found:
            try:
                sent.append(await self._send(one))
            except UnreadableError as exc:
                wrong.append(Problem("source_images", f"item {one.number} {exc.message}"))
        if wrong:
            raise InvalidRequestError(*wrong)
        return tuple(url for url, _ in sent), tuple(source for _, source in sent)

    async def _send(self, one: SourceSet) -> tuple[str, SourceImage]:
        if one.local is not None:
            return await self._upload(one.shown, *one.local)
        if one.record is not None:
            return await self._earlier(one, one.record)
        return one.given.text, SourceImage(given=one.shown, identity=one.given.text)

    async def _earlier(self, one: SourceSet, record: TaskRecord) -> tuple[str, SourceImage]:
        """An earlier result: where RunAPI still has it, a fresh address of that; else the file that was leased."""
        image = record.images[0] if record.images else None
        size = {} if image is None else {"width": image.width, "height": image.height}
        trouble = "names a task that RunAPI has not taken yet; wait for it with check_task."
        if record.task_id is not None:
            try:
                remote = await (await self._backend.api()).get(record.request.action, record.task_id)
            except ApiError as exc:
                trouble = f"can't be had: {exc.message}"
            else:
                if remote.image_urls and remote.status is Status.COMPLETED:
                    source = SourceImage(given=one.shown, identity=f"task:{record.task_id}", **size)
                    return remote.image_urls[0], source
                ended = "RunAPI does not have the task's image any more."
                trouble = (
                    ended
                    if remote.status.ended
                    else f"names a task that is {remote.status}; wait for it with check_task."
                )
        if image is None:
            raise UnreadableError(trouble)
        try:
            data = await anyio.Path(image.path).read_bytes()
        except OSError as exc:
            raise UnreadableError(f"{trouble} Its file is gone, too.") from exc
        return await self._upload(one.shown, *await anyio.to_thread.run_sync(_ready, data))

    async def _upload(self, shown: str, identity: str, ready: UprightImage) -> tuple[str, SourceImage]:
        held = await self._uploads.find(identity, at=self._now() + EXPIRY_MARGIN)
        if held is None:
            api = await self._backend.api()
            # RunAPI learns the picture, and not what the user calls it.
            held = await api.upload(f"{identity[-12:]}{ready.suffix}", ready.data)
            await self._uploads.add(identity, held)
        source = SourceImage(
            given=shown,
            identity=identity,
            uploaded_bytes=len(ready.data),
            width=ready.width,
            height=ready.height,
        )
        return held.url, source


def _ready(data: bytes) -> tuple[str, UprightImage]:
    """What names the bytes, and what of them is sent. Refuses what can't be decoded to its end."""
    if not data:
        raise UnreadableError("is empty.")
    return f"sha256:{hashlib.sha256(data).hexdigest()}", upright(data)
