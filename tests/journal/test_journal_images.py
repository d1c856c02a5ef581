"""The contract's suite: what it knows of files, where an image is wanted, what RunAPI holds of a source, and what is let go of."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from flux2_mcp.domain import catalog
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.domain.models import Save, StoredImage, UploadedFile
from flux2_mcp.engine.pruning import Pruner
from flux2_mcp.errors import InvalidRequestError
from flux2_mcp.images import thumbnails
from flux2_mcp.images.store import ImageFolder
from flux2_mcp.journal.contract import Journal
from flux2_mcp.journal.records import TaskChange, TaskRecord
from tests.support.journals import AT, CAT, NO_CAPS, Home, apply, intend, intent, new, steps

pytestmark = pytest.mark.anyio

REMIX = catalog.request(prompt="at night", source_image_urls=["https://runapi.ai/files/1"])
HERO = Save("public/hero.png")


def stored(folder: Path, name: str, **more: Any) -> StoredImage:  # noqa: ANN401  # fields of an image
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"12345")
    path = str(folder / name)
    return StoredImage(path=path, mime_type="image/png", width=1, height=1, size_bytes=5, sha256="0", **more)


async def delivered(journal: Journal, key: str, *images: StoredImage) -> TaskRecord:
    await new(journal, intent(key))
    await steps(journal, key, Event.ACCEPTED, Event.COMPLETED)
    return await apply(journal, key, Event.DELIVERED, TaskChange(at=AT, images=images))


# --- where an image is wanted ---


async def test_where_an_image_is_wanted_is_written_down_with_its_task(home: Home) -> None:
    (record,) = await new(home.journal(), intent(save=Save("assets/", overwrite=True)))
    assert record.save == Save("assets/", overwrite=True)
    assert (await home.journal("b").tasks.find(["k"]))[0].save == record.save


async def test_only_a_call_that_wants_it_in_the_same_place_joins(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("k1", save=HERO))
    for number, save in enumerate((None, Save("other.png"))):
        assert not (await intend(journal, intent(f"x{number}", save=save), join=True)).joined
    assert (await intend(journal, intent("k3", save=HERO), join=True)).joined


async def test_a_known_key_does_not_send_its_image_to_another_place(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("k", save=HERO))
    assert (await intend(journal, intent("k", save=HERO))).records[0].save == HERO
    for other in (intent("k", save=Save("other.png")), intent("k", save=HERO, workspace="/elsewhere")):
        with pytest.raises(InvalidRequestError, match="save_to"):
            await intend(journal, other)


async def test_what_speaks_against_it_is_asked_for_new_tasks_alone_and_then_nothing_is_written(home: Home) -> None:
    journal = home.journal()

    async def asked(*keys: str, join: bool = False) -> bool:
        intents = [intent(key, CAT, save=HERO) for key in keys]
        given = await journal.tasks.intend(
            intents, at=AT, caps=NO_CAPS, join=join, in_flight=9, unless=InvalidRequestError()
        )
        return given.joined

    with pytest.raises(InvalidRequestError):
        await asked("k1")
    assert await journal.tasks.recent(limit=9) == ()
    await new(journal, intent("k1", save=HERO))
    assert not await asked("k1")
    assert await asked("k2", join=True)


# --- what RunAPI holds ---


async def test_an_upload_serves_every_process_until_its_hour_is_over(home: Home) -> None:
    file = UploadedFile(
        file_name="a.png", url="https://x/1", size_bytes=5, mime_type="image/png", expires_at=AT + timedelta(hours=1)
    )
    await home.journal("a").uploads.add("sha256:1", file)
    other = home.journal("b")
    assert await other.uploads.find("sha256:1", at=AT) == file
    assert await other.uploads.find("sha256:1", at=AT + timedelta(minutes=59)) == file
    assert await other.uploads.find("sha256:1", at=AT + timedelta(hours=1)) is None
    assert await other.uploads.find("sha256:2", at=AT) is None
    assert await home.journal("c", account="another").uploads.find("sha256:1", at=AT) is None
    newer = replace(file, url="https://x/2", expires_at=AT + timedelta(hours=3))
    await other.uploads.add("sha256:1", newer)
    assert await other.uploads.find("sha256:1", at=AT) == newer


async def test_an_upload_that_says_nothing_of_its_end_is_not_used_again(home: Home) -> None:
    file = UploadedFile(file_name="a.png", url="https://x/1", size_bytes=5, mime_type="image/png", expires_at=None)
    await home.journal().uploads.add("sha256:1", file)
    assert await home.journal().uploads.find("sha256:1", at=AT) is None


# --- what is let go of ---


async def test_old_files_go_and_records_stay(home: Home, tmp_path: Path) -> None:
    journal, images = home.journal(), tmp_path / "images"
    project = tmp_path / "project"
    copy = stored(project, "hero.png")
    await delivered(journal, "k1", stored(images, "1.png"))
    await delivered(journal, "k2", stored(images, "2.png", saved=copy.path))
    pruner = Pruner(journal.history, ImageFolder(images))
    assert (await pruner.find(AT)).files == ()
    for file in images.iterdir():
        thumbnails.keep(file, tmp_path / thumbnails.FOLDER, b"a small copy")
    old = await pruner.find(AT + timedelta(seconds=1))
    assert ([path.name for path in old.files], old.size_bytes, len(old.records)) == (["1.png", "2.png"], 10 + 24, 2)
    (images / "2.png").unlink()  # the copy of a file that somebody removes by hand goes, too
    old = await pruner.find(AT + timedelta(seconds=1))
    assert (len(old.files), len(old.copies), old.size_bytes) == (1, 2, 5 + 24)
    assert await pruner.remove(old) == 5 + 24
    assert list(images.iterdir()) == list((tmp_path / thumbnails.FOLDER).iterdir()) == []
    assert (project / "hero.png").exists()
    found = await journal.tasks.find(["k1", "k2"])
    assert [[image.path for image in record.images] for record in found] == [[], [copy.path]]


async def test_a_file_that_a_younger_task_shares_stays(home: Home, tmp_path: Path) -> None:
    journal, images = home.journal(), tmp_path / "images"
    shared = stored(images, "same.png")
    await delivered(journal, "old", shared)
    await new(journal, intent("young"), at=AT + timedelta(days=9))
    await steps(journal, "young", Event.ACCEPTED, Event.COMPLETED)
    await apply(journal, "young", Event.DELIVERED, TaskChange(at=AT, images=(shared,)))
    pruner = Pruner(journal.history, ImageFolder(images))
    assert await pruner.remove(await pruner.find(AT + timedelta(days=1))) == 0
    assert Path(shared.path).exists()


async def test_nothing_outside_the_folder_of_images_is_removed_whatever_the_journal_says(
    home: Home, tmp_path: Path
) -> None:
    journal = home.journal()
    elsewhere = stored(tmp_path / "elsewhere", "precious.png")
    await delivered(journal, "k", elsewhere, stored(tmp_path / "images" / "deep", "1.png"))
    pruner = Pruner(journal.history, ImageFolder(tmp_path / "images"))
    old = await pruner.find(AT + timedelta(days=1))
    assert (old.files, await pruner.remove(old)) == ((), 0)
    assert Path(elsewhere.path).exists()
    assert len((await journal.tasks.find(["k"]))[0].images) == 2


async def test_a_file_that_somebody_removed_meanwhile_is_not_missed(home: Home, tmp_path: Path) -> None:
    journal, images = home.journal(), tmp_path / "images"
    gone, there = stored(images, "1.png"), stored(images, "2.png")
    await delivered(journal, "k", gone, there)
    pruner = Pruner(journal.history, ImageFolder(images))
    old = await pruner.find(AT + timedelta(seconds=1))
    Path(gone.path).unlink()
    assert await pruner.remove(old) == there.size_bytes
    assert list(images.iterdir()) == []


async def test_what_another_key_paid_for_is_not_offered(home: Home, tmp_path: Path) -> None:
    images = tmp_path / "images"
    await delivered(home.journal(account="another"), "k", stored(images, "1.png"))
    old = await Pruner(home.journal().history, ImageFolder(images)).find(AT + timedelta(days=9))
    assert (old.records, old.files, old.size_bytes) == ((), (), 0)
