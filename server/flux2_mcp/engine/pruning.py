"""Removes old images under FLUX2_HOME, and from the store of images. Files that were saved into a workspace stay, and so do the records of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import anyio.to_thread
from msgspec import Struct
from msgspec.structs import replace

from flux2_mcp.domain.models import StoredImage
from flux2_mcp.errors import DeliveryError
from flux2_mcp.images.store import ImageFolder
from flux2_mcp.journal.contract import History
from flux2_mcp.journal.records import TaskRecord


class PrunePlan(Struct, frozen=True):
    """What would be removed: the tasks, their images and small copies that exist, and the total size of these in bytes.

    A copy may outlive its image, which somebody removed by hand. `stored` has the sizes of the images in the store, by name.
    """

    records: tuple[TaskRecord, ...]
    files: tuple[Path, ...]
    copies: tuple[Path, ...]
    size_bytes: int
    stored: Mapping[str, int] = {}

    @property
    def names(self) -> frozenset[str]:
        """The images by name, wherever they are."""
        return frozenset((*(path.name for path in self.files), *self.stored))


class Pruner:
    """Finds and removes the images of old tasks.

    Args:
        history: Has the records of the tasks.
        images: The folder of the images, and the store behind it. A file elsewhere is never removed, even if the journal
            names it.
    """

    def __init__(self, history: History, images: ImageFolder) -> None:
        self._history = history
        self._images = images

    async def find(self, before: datetime) -> PrunePlan:
        """Find the tasks created before then whose images still exist.

        Raises:
            StorageError: The store of images did not answer.
        """
        records = await self._history.with_images(before)
        stored = await self._images.stored([path.name for path in self._paths(records)])
        return await anyio.to_thread.run_sync(self._measured, records, stored)

    def _measured(self, records: Sequence[TaskRecord], stored: Mapping[str, int]) -> PrunePlan:
        paths = self._paths(records)
        files = tuple(path for path in paths if path.is_file())
        copies = tuple(self._copies(paths))
        size_bytes = sum(map(_size, (*files, *copies))) + sum(stored.values())
        return PrunePlan(tuple(records), files, copies, size_bytes, stored)

    def _paths(self, records: Sequence[TaskRecord]) -> list[Path]:
        paths = dict.fromkeys(self._images.place(image) for record in records for image in record.images)
        return [path for path in paths if path.parent == self._images.folder]

    def _copies(self, paths: Sequence[Path]) -> list[Path]:
        from flux2_mcp.images import thumbnails

        return thumbnails.copies(paths, self._images.folder.with_name(thumbnails.FOLDER))

    async def remove(self, old: PrunePlan) -> int:
        """Remove the files, and return the number of freed bytes.

        The records stay. If the workspace has a copy of an image, the record then names the copy.

        Raises:
            DeliveryError: A file can't be removed; the files before it were removed.
            StorageError: The store of images did not answer; if it did not answer at all, nothing was changed.
        """
        if old.stored:
            await self._images.check()
        for record in old.records:
            await self._history.keep_images(record.key, self._left(record))
        paths = self._paths(old.records)
        used = await self._history.still_used([text for path in paths for text in (str(path), path.name)])
        unused = [path for path in paths if not used & {str(path), path.name}]
        stored = [path.name for path in unused if path.name in old.stored]
        await self._images.delete(stored)
        freed = await anyio.to_thread.run_sync(lambda: _removed([*self._copies(unused), *unused]))
        return freed + sum(old.stored[name] for name in stored)

    def _left(self, record: TaskRecord) -> list[StoredImage]:
        return [
            image if image.saved is None else replace(image, path=image.saved)
            for image in record.images
            if image.saved is not None or self._images.place(image).parent != self._images.folder
        ]


def _size(path: Path) -> int:
    with suppress(OSError):  # another process may have removed it meanwhile
        return path.stat().st_size
    return 0


def _removed(paths: Sequence[Path]) -> int:
    freed = 0
    for path in paths:
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
