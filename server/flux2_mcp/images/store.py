"""The folder of images of this machine, and the store behind it that all of a team's servers share (FLUX2_IMAGES_URL).

Rules
- An image has one name, in the folder and in the store: it holds the beginning of its SHA-256, so other bytes have another name.
- With a store, the journal records that name alone, since each machine has a folder of its own; without one, the path.
- A delivery puts the image into the store before the journal says that the task is delivered. What stands there already is
  fine if its bytes are the same. Other bytes are an error, and are never written over.
- A store has a mark, which is put there with its first image, and which the journal remembers. Where the mark is another one, or
  is gone, the place is not the store any more: a disk that is not mounted, an emptied or another bucket. Nothing is put there
  then, nothing counts as removed from it, and no mark is made anew.
- Whatever needs an image asks `ImageFolder.here` for its file, which fetches it from the store if it is not in the folder. What
  comes is believed only with the recorded size and SHA-256. The folder is a cache then: what is in it may be removed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import anyio
import anyio.to_thread
from msgspec import Struct
from msgspec.structs import replace

from flux2_mcp.domain.models import StoredImage
from flux2_mcp.errors import JournalError, StorageError

T = TypeVar("T")

MAX_THREADS = 8
"""Images that are fetched at once: a store that says nothing holds up no other work."""
BRING_SECONDS = 10.0
"""How long an answer about tasks waits for their images to come from the store. They can be asked for again."""
CHECK_STORE = (
    "Check the store that FLUX2_IMAGES_URL names, and what it was given to sign in (flux2-mcp doctor). What waits for it goes"
    " on by itself."
)
MARK = ".flux2-store"
"""The name of the mark in the store. No image has it."""
MARK_FACT = "store"
"""The journal's name for it."""
LOST = (
    "The store of images (FLUX2_IMAGES_URL) is not the one in which the images of this journal are: it is empty, not mounted, or"
    " another one."
)
NOT_THE_ONE = "is not the one that it was"
"""`LOST` in a few words."""
OTHER_BYTES = "The store of images (FLUX2_IMAGES_URL) has other bytes under the name of this image."
MOVE_AWAY = "Find out who wrote there, and move that object away. What waits for it goes on by itself."


class ImageStore(Protocol):
    """Where whole images stand by their names. Sync; call from a thread. All may raise StorageError, in words of ours."""

    def put(self, name: str, file: Path, image: StoredImage) -> None:
        """Store a file under a name that is free, or that has the same bytes.

        Raises:
            StorageError: Something else stands there, or the store refused or did not answer.
        """
        ...

    def read(self, name: str, into: BinaryIO, size: int) -> bool:
        """Write what stands under a name into an open file, at most a little more than `size` bytes; False if nothing does."""
        ...

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Those of these names that are there, with their sizes in bytes."""
        ...

    def delete(self, names: Sequence[str]) -> None:
        """Delete what stands under these names. One that is not there is fine."""
        ...

    def check(self) -> None:
        """Ask the store for something, whether it has it or not."""
        ...

    def mark(self) -> str | None:
        """Its mark; None: it has none."""
        ...

    def set_mark(self, mark: str) -> str:
        """Give a store without a mark this one. Returns the mark that it has then: another process may have been faster."""
        ...


class Facts(Protocol):
    """What the machines of a store agree on: the journal's, see `team_contract.Facts`."""

    async def get(self, name: str) -> str | None:
        """The fact of this name; None: nobody has stated it."""
        ...

    async def settle(self, name: str, text: str) -> str:
        """State a fact, unless it was stated before. Returns what holds."""
        ...


def opened(url: str | None, *, http: bool = False) -> ImageStore | None:
    """The store of an address, see `Settings.images_url`; None without one. Nothing is loaded or asked before its first use.

    Args:
        url: FLUX2_IMAGES_URL.
        http: Whether its endpoint is plain HTTP.
    """
    if url is None:
        return None
    from flux2_mcp.images.object_store import ObjectStore

    return ObjectStore(url, http=http)


class _Fetch(Struct):
    """A fetch under way, for all who need the same image."""

    ended: anyio.Event
    error: StorageError | None = None


class ImageFolder:
    """The images of this machine.

    Args:
        folder: Has the images' files; made if missing.
        store: Has the images of all machines; None: there is none, and the folder has all.
        facts: Returns what remembers the store's mark; None: nothing does so far.
    """

    def __init__(
        self, folder: Path, store: ImageStore | None = None, facts: Callable[[], Facts | None] = lambda: None
    ) -> None:
        self.folder = folder
        self.store = store
        self._facts = facts
        self._mark: str | None = None
        self._fetches: dict[str, _Fetch] = {}
        self._threads: anyio.CapacityLimiter | None = None

    def recorded(self, image: StoredImage) -> StoredImage:
        """The image as the journal records it: with a store by its name, without one by its path."""
        path = Path(image.path)
        return image if self.store is None or path.parent != self.folder else replace(image, path=path.name)

    def placed(self, images: Sequence[StoredImage]) -> tuple[StoredImage, ...]:
        """Images of a record, with their paths on this machine."""
        return tuple(replace(image, path=str(self.place(image))) if _named(image) else image for image in images)

    def place(self, image: StoredImage) -> Path:
        """The path of an image of a record on this machine, whether or not its file is there."""
        return self.folder / image.path if _named(image) else Path(image.path)

    async def keep(self, image: StoredImage) -> None:
        """Put a whole and checked image of the folder into the store.

        Raises:
            StorageError: The store has other bytes under its name, or refused, or did not answer, or is another one.
        """
        if (store := self.store) is not None:
            await self._prove(store, first=True)
            path = self.place(image)
            await self._in_thread(lambda: store.put(path.name, path, image))

    async def here(self, image: StoredImage) -> Path:
        """Return the path of an image's file, which is fetched from the store if it is not in the folder.

        If it is not in the store either, nothing stands at that path.

        Raises:
            StorageError: The store refused or did not answer, or has other bytes under the image's name.
        """
        path = self.place(image)
        # A workspace has a copy of its own, under a path that the user chose.
        if self.store is None or image.path == image.saved or await anyio.Path(path).is_file():
            return path
        path = self.folder / path.name  # an earlier record may name the folder of another machine
        while not await anyio.Path(path).is_file():
            if (under_way := self._fetches.get(path.name)) is None:
                if not await self._fetch(self.store, image, path):
                    return self.place(image)
                continue
            await under_way.ended.wait()
            if under_way.error is not None:
                raise under_way.error.with_traceback(None)
        return path

    async def has(self, image: StoredImage) -> bool:
        """Whether an image is in the folder or in the store. Raises as `here`."""
        path = self.place(image)
        if await anyio.Path(path).is_file():
            return True
        if self.store is None or image.path == image.saved:
            return False
        return path.name in await self.stored([path.name])

    async def bring(self, images: Iterable[StoredImage], seconds: float = BRING_SECONDS) -> None:
        """Fetch the images that are not in the folder, as far as the store gives them in this time."""
        if self.store is None:
            return

        async def one(image: StoredImage) -> None:
            try:
                await self.here(image)
            except StorageError:
                return  # whoever needs its bytes is told why

        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as group:
                for image in images:
                    group.start_soon(one, image)

    async def stored(self, names: Collection[str]) -> Mapping[str, int]:
        """Those of these names that are in the store, with their sizes in bytes. Raises as `here`."""
        if (store := self.store) is None or not names:
            return {}
        sizes = await self._in_thread(lambda: store.sizes(names))
        if len(sizes) < len(names):
            await self._prove(store)
        return sizes

    async def delete(self, names: Sequence[str]) -> None:
        """Delete images from the store, not from the folder. Raises as `here`."""
        if (store := self.store) is not None and names:
            await self._prove(store)
            await self._in_thread(lambda: store.delete(names))

    async def check(self) -> None:
        """Ask the store for its mark, or for something else if it has none yet. Raises as `here`."""
        if (store := self.store) is not None and not await self._prove(store):
            await self._in_thread(store.check)

    async def _prove(self, store: ImageStore, *, first: bool = False) -> bool:
        """Check that the store is the one in which the journal's images are. False: it has had none so far.

        Args:
            store: The store.
            first: Whether an image is about to be put there, so that it gets its mark now if it never had one.

        Raises:
            StorageError: It is another one, or has lost its mark; or it or the journal refused or did not answer.
        """
        if (facts := self._facts()) is None:
            return False
        try:
            if self._mark is None:
                self._mark = await facts.get(MARK_FACT)
            if self._mark is None and not first:
                return False
            found = await self._in_thread(store.mark)
            if self._mark is None:
                own = secrets.token_hex(16)
                given = await self._in_thread(lambda: store.set_mark(own)) if found is None else found
                found, self._mark = given, await facts.settle(MARK_FACT, given)
        except JournalError as exc:
            text = f"The journal does not say which store of images is the right one. {exc.message}"
            raise StorageError(text, next_step=exc.next_step) from exc
        if found != self._mark:
            again = f"Mount it, or correct the variable. The right one has an object {MARK} with {self._mark} in it."
            more = "What waits for it goes on by itself. Moving a store: docs/team.md."
            raise StorageError(LOST, next_step=f"{again} {more}", reason=NOT_THE_ONE)
        return True

    async def _fetch(self, store: ImageStore, image: StoredImage, path: Path) -> bool:
        """Fetch an image into the folder; False if the store does not have it."""
        fetch = self._fetches[path.name] = _Fetch(anyio.Event())
        try:
            if await self._in_thread(lambda: _fetched(store, image, path)):
                return True
            await self._prove(store)
        except StorageError as exc:
            fetch.error = exc
            raise
        else:
            return False
        finally:
            del self._fetches[path.name]
            fetch.ended.set()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Call the store. The caller need not wait for its answer: the thread then cleans up by itself."""
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(MAX_THREADS)
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._threads)


def _named(image: StoredImage) -> bool:
    """Whether a record has the name of an image only, and no path of any system."""
    return image.path not in {".", ".."} and not {"/", "\\"} & set(image.path)


def _fetched(store: ImageStore, image: StoredImage, path: Path) -> bool:
    """Fetch an image and give it its name, if its bytes are those that were recorded; False if it is not in the store.

    Raises:
        StorageError: They are others, or the store or this machine's disk refused.
    """
    from flux2_mcp.images import download

    incoming = path.parent.with_name(download.INCOMING)
    part = incoming / f"{secrets.token_hex(8)}.part"
    try:
        download.make_room(path.parent, incoming)
        try:
            with download.new_file(part) as file:
                found = store.read(path.name, file, image.size_bytes)
            if not found:
                return False
            if download.measured(part) != (image.size_bytes, image.sha256):
                raise StorageError(OTHER_BYTES, next_step=MOVE_AWAY)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as exc:
        raise StorageError(f"An image can't be written into the folder of images: {exc.strerror}.") from exc
    return True
