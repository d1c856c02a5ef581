"""Calls at once with one `save_to`: each result names the file with its own bytes, and no kill leaves half an image."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from PIL import Image

from flux2_mcp.domain.models import NameOwner, Save, StoredImage
from flux2_mcp.engine.waiting import TaskReport
from flux2_mcp.images.workspace import CLAIM, PART, STALE_SECONDS, place
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.journal.sqlite.store import SqliteJournal
from tests.support import journals
from tests.support.journals import intent, new
from tests.support.services import FETCH, Front, Reply, Seen, fronted, made, opened_twice, through, until

AT_ONCE = 12


def drawn(number: int) -> bytes:
    """A picture that no other number has, large enough that its writing takes a while."""
    out = io.BytesIO()
    Image.new("RGB", (600, 400), (number, 255 - number, number)).save(out, "PNG", compress_level=0)
    return out.getvalue()


def stored(folder: Path, number: int) -> StoredImage:
    folder.mkdir(exist_ok=True)
    data, path = drawn(number), folder / f"{number}.png"
    path.write_bytes(data)
    return StoredImage(
        path=str(path),
        mime_type="image/png",
        width=600,
        height=400,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def refuse(*_: object, **__: object) -> None:
    raise PermissionError


def unchanged(_: pytest.MonkeyPatch) -> None:
    return


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("disk", [unchanged, without_links])
def test_of_many_threads_each_names_the_file_with_its_own_bytes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Callable[[pytest.MonkeyPatch], None]
) -> None:
    disk(monkeypatch)
    images = [stored(tmp_path / "home", number) for number in range(AT_ONCE)]
    together = Barrier(AT_ONCE)

    def put(image: StoredImage) -> StoredImage:
        together.wait(30)
        return place(root, Save("hero.png"), image, 0)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        placed = list(pool.map(put, images))
    assert [image.note for image in placed if image.saved is None] == []
    for image in placed:
        assert hashlib.sha256(Path(image.saved or "").read_bytes()).hexdigest() == image.sha256
    assert len(list(root.iterdir())) == len({image.saved for image in placed}) == AT_ONCE


@pytest.mark.anyio
@pytest.mark.parametrize("overwrite", [False, pytest.param(True, marks=pytest.mark.deep)])
async def test_of_many_calls_in_two_processes_each_result_names_the_file_with_its_own_bytes(
    front: Front, root: Path, tmp_path: Path, overwrite: bool
) -> None:
    told: list[TaskReport] = []
    fetched = front.rule

    async def all_under_way(seen: Seen) -> Reply | None:
        if seen.is_(
            FETCH
        ):  # a call that is made once another has its file may replace it, and would be refused otherwise
            await until(lambda: len(front.tasks()) == AT_ONCE)
        return await fetched(seen)

    front.rule = all_under_way
    if overwrite:
        (root / "hero.png").write_bytes(b"old")
    async with opened_twice(front.settings(tmp_path)) as services, anyio.create_task_group() as group:

        async def call(number: int) -> None:
            outcome = await made(
                services[number % 2], f"fox {number}", workspace=root, save_to="hero.png", overwrite=overwrite
            )
            told.extend(outcome.tasks)

        for number in range(AT_ONCE):
            group.start_soon(call, number)
    images = [image for one in told for image in one.record.images]
    assert len(images) == AT_ONCE
    for image in images:
        assert hashlib.sha256(Path(image.saved or "").read_bytes()).hexdigest() == image.sha256
    assert {path.name for path in root.iterdir()} == {
        "hero.png",
        *(f"hero-{number}.png" for number in range(2, AT_ONCE + 1)),
    }


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    count = iter(range(1, 255))

    async def rule(seen: Seen) -> Reply | None:
        if seen.is_(FETCH):
            return Reply(200, drawn(next(count)), {"Content-Type": "image/png"})
        return await through(seen)

    async with fronted(tmp_path) as front:
        front.rule = rule
        yield front


# --- whose a name is ---


@pytest.mark.anyio
async def test_a_name_belongs_to_the_first_of_the_tasks_that_were_under_way_together(tmp_path: Path) -> None:
    async with journals.opened(tmp_path) as home:
        one, two = home.journal("one"), home.journal("two")
        (first,) = await new(one, intent("first"))
        (second,) = await new(two, intent("second"))
        hero = "/project/hero.png"
        assert [await two.tasks.claim_name(second, hero), await one.tasks.claim_name(first, hero)] == [
            NameOwner.FREE,
            NameOwner.TAKEN,
        ]
        assert await two.tasks.claim_name(second, hero) is NameOwner.OURS  # again, after a crash
        assert await one.tasks.claim_name(first, "/project/hero-2.png") is NameOwner.FREE
        (later,) = await new(one, intent("later"))
        assert (
            await one.tasks.claim_name(later, hero) is NameOwner.FREE
        )  # what was placed before it was asked for may be replaced


def test_with_overwrite_what_another_task_placed_meanwhile_stays_and_is_not_linked_over(
    root: Path, tmp_path: Path
) -> None:
    save, first, second = Save("hero.png", overwrite=True), stored(tmp_path, 1), stored(tmp_path, 2)
    names = {root / "hero.png": NameOwner.TAKEN}
    placed = place(root, save, second, 0, take=lambda path: names.get(path, NameOwner.FREE))
    assert placed.saved == str(root / "hero-2.png")  # the other is about to put its own there
    place(root, save, first, 0)
    assert [(root / name).read_bytes() for name in ("hero.png", "hero-2.png")] == [drawn(1), drawn(2)]


@pytest.mark.anyio
async def test_with_overwrite_a_file_that_had_the_same_bytes_before_is_not_written_over_by_a_task_beside(
    root: Path, tmp_path: Path
) -> None:
    save, one, two = Save("hero.png", overwrite=True), stored(tmp_path, 1), stored(tmp_path, 2)
    (root / "hero.png").write_bytes(drawn(1))
    async with journals.opened(tmp_path) as home:
        first, second = home.journal("one"), home.journal("two")
        (a,), (b,) = await new(first, intent("first")), await new(second, intent("second"))

        def put(journal: SqliteJournal, entry: TaskRecord, image: StoredImage) -> StoredImage:
            return place(
                root,
                save,
                image,
                0,
                take=lambda path: anyio.from_thread.run(journal.tasks.claim_name, entry, str(path)),
            )

        placed = [
            await anyio.to_thread.run_sync(put, first, a, one),
            await anyio.to_thread.run_sync(put, second, b, two),
        ]
    assert [Path(image.saved or "").read_bytes() for image in placed] == [drawn(1), drawn(2)]


def test_the_same_bytes_that_another_task_replaces_before_the_name_is_taken_are_no_copy(
    root: Path, tmp_path: Path
) -> None:
    hero = root / "hero.png"
    hero.write_bytes(drawn(1))

    def take(path: Path) -> NameOwner:
        if path != hero:
            return NameOwner.FREE
        hero.write_bytes(drawn(2))
        return NameOwner.TAKEN

    placed = place(root, Save("hero.png", overwrite=True), stored(tmp_path, 1), 0, take=take)
    assert Path(placed.saved or "").read_bytes() == drawn(1)


def test_with_overwrite_what_the_user_edited_after_the_first_try_stays(root: Path, tmp_path: Path) -> None:
    save, image = Save("hero.png", overwrite=True), stored(tmp_path, 1)
    assert place(root, save, image, 0).saved == str(root / "hero.png")
    (root / "hero.png").write_bytes(b"edited")
    again = place(root, save, image, 0, take=lambda _: NameOwner.OURS)
    assert (again.saved, (root / "hero.png").read_bytes()) == (str(root / "hero-2.png"), b"edited")


# --- what is left half-way ---


def test_what_killed_processes_left_of_this_task_or_long_ago_is_cleared_away_and_of_others_not(
    root: Path, tmp_path: Path
) -> None:
    long_ago = time.time() - STALE_SECONDS - 60
    left = {
        f".hero.png.a1-0123456789ab{PART}": False,
        f".hero-2.png.a1-0123456789ab{PART}": False,
        f".hero.png.b2-0123456789ab{PART}": True,
        f".old.png.b2-0123456789ab{PART}": False,
        f".old.png{CLAIM}": False,
        f".new.png{CLAIM}": True,
        ".hidden.png": True,
    }
    for name in left:
        (root / name).write_bytes(b"half")
        if "old" in name:
            os.utime(root / name, (long_ago, long_ago))
    place(root, Save("hero.png"), stored(tmp_path, 1), 0, task="a1")
    assert {path.name for path in root.iterdir()} == {"hero.png"} | {name for name, stays in left.items() if stays}


def test_an_image_that_may_not_get_its_name_leaves_nothing_behind(root: Path, tmp_path: Path) -> None:
    def stop(_: Path) -> NameOwner:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place(root, Save("hero.png"), stored(tmp_path, 1), 0, take=stop)
    assert list(root.iterdir()) == []


def test_a_name_that_a_killed_process_was_about_to_give_is_passed_over(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_links(monkeypatch)
    (root / f".hero.png{CLAIM}").write_bytes(b"")
    assert place(root, Save("hero.png"), stored(tmp_path, 1), 0).saved == str(root / "hero-2.png")
