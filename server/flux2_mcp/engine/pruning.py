"""Removes old images under FLUX2_HOME. Files that were saved into a workspace stay, and so do the records of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import anyio.to_thread

from flux2_mcp.domain.models import StoredImage
from flux2_mcp.errors import DeliveryError
from flux2_mcp.images import thumbnails
from flux2_mcp.journal.contract import History
from flux2_mcp.journal.records import TaskRecord


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What would be removed: the tasks, their existing files, and the total size of these files in bytes."""

    records: tuple[TaskRecord, ...]
    files: tuple[Path, ...]
    size_bytes: int


class Pruner:
    """Finds and removes the images of old tasks.

    Args:
        history: Has the records of the tasks.
        images: The folder of the images. A file outside it is never removed, even if the journal names it.
    """

    def __init__(self, history: History, images: Path) -> None:
        self._history = history
        self._images = images

    async def find(self, before: datetime) -> PrunePlan:
        """Find the tasks created before then whose images still exist."""
        records = await self._history.with_images(before)
        paths = dict.fromkeys(Path(image.path) for record in records for image in record.images)
        return await anyio.to_thread.run_sync(self._measured, records, tuple(paths))

    def _measured(self, records: Sequence[TaskRecord], paths: Sequence[Path]) -> PrunePlan:
        sizes = {path: path.stat().st_size for path in paths if path.parent == self._images and path.is_file()}
        return PrunePlan(tuple(records), tuple(sizes), sum(sizes.values()))

    async def remove(self, old: PrunePlan) -> int:
        """Remove the files, and return the number of freed bytes.

        The records stay. If the workspace has a copy of an image, the record then names the copy.

        Raises:
            DeliveryError: A file can't be removed; the files before it were removed.
        """
        for record in old.records:
            await self._history.keep_images(record.key, self._left(record))
        used = await self._history.still_used([str(path) for path in old.files])
        unused = [path for path in old.files if str(path) not in used]
        return await anyio.to_thread.run_sync(_removed, unused, self._images.with_name(thumbnails.FOLDER))

    def _left(self, record: TaskRecord) -> list[StoredImage]:
        return [
            image if image.saved is None else replace(image, path=image.saved)
            for image in record.images
            if image.saved is not None or Path(image.path).parent != self._images
        ]


def _removed(paths: Sequence[Path], small: Path) -> int:
    freed = 0
    for path in paths:
        thumbnails.remove(path, small)
        with suppress(FileNotFoundError):
            try:
                size = path.stat().st_size
                path.unlink()
                freed += size
            except PermissionError as exc:
                raise DeliveryError(
                    "An old image can't be removed.", cost="Nothing.", next_step="Make FLUX2_HOME writable."
                ) from exc
    return freed
