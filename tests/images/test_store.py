"""The folder of images and the store behind it, over S3 and over a folder: what is put, believed, refused and told."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

import anyio
import pytest
from msgspec.structs import replace

from flux2_mcp.domain.models import StoredImage
from flux2_mcp.errors import JournalError, StorageError
from flux2_mcp.images.names import image_name
from flux2_mcp.images.object_store import MAX_NAMES_ASKED, ObjectStore
from flux2_mcp.images.store import MARK, MARK_FACT, ImageFolder
from tests.support.object_store import S3Server, running

pytestmark = pytest.mark.anyio

AT = datetime(2026, 11, 29, 8, 0, tzinfo=UTC)
BYTES = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4
OTHER = BYTES[:-1] + b"\0"


class Place(Protocol):
    """A store as its owner sees it, past our code."""

    store: ObjectStore

    def put(self, name: str, data: bytes) -> None: ...
    def get(self, name: str) -> bytes: ...
    def names(self) -> list[str]: ...
    def forget(self) -> None: ...


class S3Place:
    def __init__(self, server: S3Server) -> None:
        self.store = ObjectStore(server.url, http=True)
        self.put, self.get, self.names, self.forget = server.put, server.get, server.everything, server.lose


class FolderPlace:
    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.store = ObjectStore(str(folder))

    def put(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)

    def get(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def forget(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with running() as server, pytest.MonkeyPatch.context() as patch:
        for name, text in server.env.items():
            patch.setenv(name, text)
        yield server


@pytest.fixture(params=["s3", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return FolderPlace(tmp_path / "shared")
    server: S3Server = request.getfixturevalue("server")
    server.lose()
    return S3Place(server)


def image(folder: Path, data: bytes = BYTES, prompt: str = "a red fox") -> StoredImage:
    """An image whose file is in the folder."""
    sha256 = hashlib.sha256(data).hexdigest()
    path = folder / image_name(prompt, at=AT, sha256=sha256, suffix=".png")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return StoredImage(path=str(path), mime_type="image/png", width=16, height=16, size_bytes=len(data), sha256=sha256)


async def test_an_image_that_one_machine_has_kept_is_fetched_by_another_under_its_name(
    place: Place, tmp_path: Path
) -> None:
    one, two = (ImageFolder(tmp_path / home / "images", place.store) for home in ("one", "two"))
    made = image(one.folder)
    await one.keep(made)
    name = Path(made.path).name
    assert (place.names(), place.get(name)) == ([name], BYTES)
    record = one.recorded(made)
    assert record == replace(made, path=name)
    assert two.placed([record]) == (replace(made, path=str(two.folder / name)),)
    assert await two.has(record)
    assert (await two.here(record)).read_bytes() == BYTES
    # An earlier record has the path of another machine, and somebody has copied that machine's folder into the store.
    (two.folder / name).unlink()
    assert (await two.here(made)).samefile(one.folder / name)
    Path(made.path).unlink()
    assert await two.here(made) == two.folder / name
    assert list(two.folder.with_name("incoming").iterdir()) == []


async def test_the_same_bytes_may_be_put_again_and_others_are_never_written_over(place: Place, tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path / "images", place.store)
    made = image(folder.folder)
    await folder.keep(made)
    await folder.keep(made)
    name = Path(made.path).name
    for others in (OTHER, BYTES[:100], BYTES + b"\0", b""):
        place.put(name, others)
        with pytest.raises(StorageError, match="has other bytes under the name of this image"):
            await folder.keep(made)
        assert place.get(name) == others


async def test_what_comes_with_other_bytes_than_were_recorded_is_not_believed(place: Place, tmp_path: Path) -> None:
    one, two = (ImageFolder(tmp_path / home / "images", place.store) for home in ("one", "two"))
    record = one.recorded(image(one.folder))
    for others in (OTHER, BYTES[:-1], BYTES + b"\0", b""):
        place.put(record.path, others)
        with pytest.raises(StorageError, match="has other bytes under the name of this image"):
            await two.here(record)
    assert [*two.folder.iterdir(), *two.folder.with_name("incoming").iterdir()] == []


async def test_what_is_nowhere_is_told_as_a_file_that_is_gone(place: Place, tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path / "images", place.store)
    made = image(folder.folder)
    Path(made.path).unlink()
    path = await folder.here(folder.recorded(made))
    assert (path, path.exists(), await folder.has(made)) == (Path(made.path), False, False)
    await folder.check()


async def test_images_are_found_and_deleted_by_their_names_few_or_many(place: Place, tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path / "images", place.store)
    names = []
    for number in range(MAX_NAMES_ASKED + 2):
        made = image(folder.folder, BYTES + bytes([number]), f"fox {number}")
        await folder.keep(made)
        names.append(Path(made.path).name)
    place.put("another.png", b"nobody asks for it")
    sizes = dict.fromkeys(names, len(BYTES) + 1)
    assert (await folder.stored(names[:2]), await folder.stored([*names, "none.png"])) == (
        {name: sizes[name] for name in names[:2]},
        sizes,
    )
    await folder.delete(["none.png", *names[:-1]])
    assert place.names() == sorted([names[-1], "another.png"])


async def test_without_a_store_all_is_as_it_was(tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path / "images")
    made = image(folder.folder)
    assert (folder.recorded(made), folder.placed([made])) == (made, (made,))
    Path(made.path).unlink()
    assert (await folder.here(made), await folder.has(made)) == (Path(made.path), False)
    await folder.keep(made)
    await folder.check()


class Slow:
    """A store that gives nothing before it is told to, and counts who asks."""

    def __init__(self, real: ObjectStore) -> None:
        self.real, self.reads = real, 0
        self.go = threading.Event()
        self.put, self.sizes, self.delete, self.check = real.put, real.sizes, real.delete, real.check
        self.mark, self.set_mark = real.mark, real.set_mark

    def read(self, name: str, into: BinaryIO, size: int) -> bool:
        self.reads += 1
        assert self.go.wait(30)
        return self.real.read(name, into, size)


async def test_an_image_that_many_need_at_once_is_fetched_once(tmp_path: Path) -> None:
    slow = Slow(FolderPlace(tmp_path / "shared").store)
    one, two = (ImageFolder(tmp_path / home / "images", slow) for home in ("one", "two"))
    record = one.recorded(made := image(one.folder))
    await one.keep(made)
    found = []

    async def look() -> None:
        found.append((await two.here(record)).read_bytes())

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(look)
            await anyio.wait_all_tasks_blocked()
            slow.go.set()
    assert (found, slow.reads) == ([BYTES] * 20, 1)


async def test_who_waits_for_a_fetch_that_another_gave_up_fetches_for_itself(tmp_path: Path) -> None:
    slow = Slow(FolderPlace(tmp_path / "shared").store)
    one, two = (ImageFolder(tmp_path / home / "images", slow) for home in ("one", "two"))
    record = one.recorded(made := image(one.folder))
    await one.keep(made)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as first:

                async def leave() -> None:
                    await anyio.wait_all_tasks_blocked()
                    first.cancel()
                    slow.go.set()

                group.start_soon(two.bring, [record])
                group.start_soon(leave)
                await two.here(record)
    assert (two.folder / record.path).read_bytes() == BYTES


def told(exc: pytest.ExceptionInfo[StorageError]) -> str:
    """What is said, and what a log would show of its cause."""
    error = exc.value
    assert error.__cause__ is None
    assert error.__suppress_context__
    return f"{error.message} {error.next_step}"


async def test_a_store_that_refuses_or_says_nothing_is_told_without_a_key(server: S3Server, tmp_path: Path) -> None:
    made = image(tmp_path / "images")
    for bucket in ("s3://no-such-bucket", "s3://no-such-bucket/deep/er"):
        away = ImageFolder(tmp_path / "images", ObjectStore(bucket, http=True))
        for refused in (away.keep(made), away.check(), away.stored(["a.png"]), away.has(replace(made, path="b.png"))):
            with pytest.raises(StorageError) as caught:
                await refused
            assert told(caught).startswith(
                "The store of images (FLUX2_IMAGES_URL) refused, with 404 NoSuchBucket. Check the store"
            )
    server.signal(signal.SIGSTOP)
    try:
        silent = ImageFolder(tmp_path / "images", ObjectStore(server.url, http=True, seconds=0.5))
        for late in (silent.keep(made), silent.check(), silent.here(replace(made, path="b.png"))):
            with pytest.raises(StorageError) as caught:
                await late
            assert told(caught).startswith("The store of images (FLUX2_IMAGES_URL) did not answer. Check the store")
    finally:
        server.signal(signal.SIGCONT)


async def test_plain_http_is_spoken_only_where_the_settings_have_allowed_it(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    folder = ImageFolder(tmp_path / "images", ObjectStore(server.url))
    with pytest.raises(StorageError, match="did not answer"):
        await folder.keep(image(folder.folder))


class Remembered:
    """Stands for the journal of all machines."""

    def __init__(self, mark: str | None = None) -> None:
        self.mark = mark

    async def get(self, name: str) -> str | None:
        assert name == MARK_FACT
        return self.mark

    async def settle(self, name: str, text: str) -> str:
        assert name == MARK_FACT
        self.mark = self.mark or text
        return self.mark


def marks(place: Place) -> list[str]:
    try:
        return [place.get(MARK).decode()]
    except FileNotFoundError:
        return []


async def test_a_store_gets_its_mark_with_its_first_image_and_no_look_at_it_makes_one(
    place: Place, tmp_path: Path
) -> None:
    place.forget()
    facts = Remembered()
    one, two = (ImageFolder(tmp_path / home / "images", place.store, lambda: facts) for home in ("one", "two"))
    await one.check()
    assert await one.stored(["none.png"]) == {}
    await one.delete(["none.png"])
    assert (facts.mark, marks(place)) == (None, [])
    async with anyio.create_task_group() as group:
        group.start_soon(one.keep, image(one.folder))
        group.start_soon(two.keep, image(two.folder, OTHER, "another"))
    assert marks(place) == [facts.mark]
    # A journal that does not remember, such as one from a backup of before, takes the mark that is there.
    restored = Remembered()
    await ImageFolder(one.folder, place.store, lambda: restored).keep(image(one.folder))
    assert (restored.mark, marks(place)) == (facts.mark, [facts.mark])


@pytest.mark.parametrize("instead", [None, b"the mark of another store"])
async def test_a_store_that_is_another_one_gets_nothing_and_nothing_counts_as_gone_from_it(
    place: Place, tmp_path: Path, instead: bytes | None
) -> None:
    place.forget()
    facts = Remembered()
    folder = ImageFolder(tmp_path / "images", place.store, lambda: facts)
    made = image(folder.folder)
    await folder.keep(made)
    [mark], name = marks(place), Path(made.path).name
    place.forget()
    if instead is not None:
        place.put(MARK, instead)
    away = replace(made, path=f"{name[:-4]}-2.png")
    for new in (folder, ImageFolder(tmp_path / "images", place.store, lambda: facts)):
        for refused in (
            new.keep(made), new.check(), new.here(away), new.has(away), new.stored([name]), new.delete([name]),
        ):  # fmt: skip
            with pytest.raises(StorageError, match="is not the one in which the images of this journal are") as caught:
                await refused
            assert f"an object .flux2-store with {mark} in it" in caught.value.next_step
        await new.bring([away])
    assert place.names() == ([] if instead is None else [MARK])
    place.put(MARK, f"{mark}\n".encode())
    await folder.check()
    await folder.keep(made)
    assert place.get(name) == BYTES


class Unread(Remembered):
    async def get(self, name: str) -> str | None:
        raise JournalError(f"{name} can't be read.")


async def test_where_the_journal_does_not_say_which_store_it_is_nothing_is_put_there(
    place: Place, tmp_path: Path
) -> None:
    folder = ImageFolder(tmp_path / "images", place.store, Unread)
    for refused in (folder.keep(image(folder.folder)), folder.check()):
        with pytest.raises(StorageError, match="The journal does not say which store of images is the right one"):
            await refused


async def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path / "images", ObjectStore(str(tmp_path / "not mounted")))
    with pytest.raises(StorageError, match=r"The store of images .* can't be used"):
        await folder.keep(image(folder.folder))
    assert not (tmp_path / "not mounted").exists()
