"""Small copies of images: made once, kept for their owner alone, thrown away with the image."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from flux2_mcp.errors import DeliveryError
from flux2_mcp.images import thumbnails


def jpeg(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    Image.new("RGB", (1600, 800), "teal").save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / thumbnails.FOLDER


def size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "JPEG"
        return picture.size


def test_a_second_look_reads_the_copy_and_decodes_nothing(image: Path, folder: Path) -> None:
    assert size(thumbnails.of(image, folder)) == (768, 384)
    (kept,) = folder.iterdir()
    kept.write_bytes(other := jpeg("red"))  # what nobody who decodes the image can come by
    assert thumbnails.of(image, folder) == other


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such modes")
def test_only_its_owner_can_read_it(image: Path, folder: Path) -> None:
    thumbnails.of(image, folder)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())] == [0o700, 0o600]


@pytest.mark.parametrize(
    "broken",
    [b"", jpeg("red")[:-2], *(pytest.param(each, marks=pytest.mark.deep) for each in (b"GIF89a", jpeg("red")[2:]))],
)
def test_a_copy_that_is_not_whole_is_made_anew(image: Path, folder: Path, broken: bytes) -> None:
    whole = thumbnails.of(image, folder)
    (kept,) = folder.iterdir()
    kept.write_bytes(broken)
    assert thumbnails.of(image, folder) == whole == kept.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="it has no pipes in folders, and links need a right")
def test_what_is_no_plain_file_is_not_read_but_made_anew(image: Path, folder: Path, tmp_path: Path) -> None:
    whole = thumbnails.of(image, folder)
    (kept,) = folder.iterdir()
    (other := tmp_path / "other.jpg").write_bytes(jpeg("red"))
    makes: list[Callable[[], None]] = [
        lambda: kept.symlink_to(other),
        lambda: os.mkfifo(kept),
        lambda: kept.symlink_to("/dev/zero"),
    ]
    for make in makes:
        kept.unlink()
        make()
        assert thumbnails.of(image, folder) == whole
        assert kept.is_file()
        assert not kept.is_symlink()


def test_an_image_that_was_changed_has_another_copy(image: Path, folder: Path) -> None:
    thumbnails.of(image, folder)
    Image.new("RGB", (400, 900), "teal").save(image)
    assert size(thumbnails.of(image, folder)) == (341, 768)


def test_the_oldest_copies_make_room_for_new_ones(image: Path, folder: Path) -> None:
    folder.mkdir()
    (own := folder / "my-photo-1.jpg").write_bytes(jpeg("green"))  # the folder is not ours alone
    for number in range(5):
        other = image.with_name(f"{number}.png")
        other.write_bytes(image.read_bytes())
        thumbnails.keep(other, folder, jpeg("red"), most=3)
    assert len(list(folder.iterdir())) == 3 + 1
    thumbnails.keep(image, folder, jpeg("blue"), most=1)
    own.unlink()
    (last,) = folder.iterdir()
    assert last.read_bytes() == jpeg("blue")


def test_its_copies_are_found_though_the_image_was_changed_and_is_gone(image: Path, folder: Path) -> None:
    thumbnails.of(image, folder)
    Image.new("RGB", (400, 900), "teal").save(image)
    thumbnails.of(image, folder)
    image.unlink()
    assert sorted(thumbnails.copies([image], folder)) == sorted(folder.iterdir())
    assert len(thumbnails.copies([image], folder)) == 2
    assert thumbnails.copies([image.with_name("b.png")], folder) == thumbnails.copies([image], folder / "none") == []


def test_a_folder_that_cannot_be_written_costs_only_the_copy(image: Path, folder: Path) -> None:
    folder.write_text("a file where the folder should be")
    assert size(thumbnails.of(image, folder)) == (768, 384)


def test_without_the_image_there_is_nothing_to_show(image: Path, folder: Path) -> None:
    thumbnails.of(image, folder)
    image.unlink()
    with pytest.raises(DeliveryError):
        thumbnails.of(image, folder)
