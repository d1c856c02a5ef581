"""The user's own folders: what gets in, what is read, and a table of names that lead elsewhere."""

from __future__ import annotations

import hashlib
import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flux2_mcp.domain.models import Save, StoredImage
from flux2_mcp.domain.sources import MAX_SOURCE_BYTES, UnreadableError
from flux2_mcp.errors import InvalidRequestError
from flux2_mcp.images.names import targets
from flux2_mcp.images.workspace import check, place, put, read
from tests.support.rows import rows


def drawn(kind: str = "PNG", colour: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 24), colour).save(out, kind)
    return out.getvalue()


PNG = drawn()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def stored(tmp_path: Path) -> StoredImage:
    return kept(tmp_path, PNG)


def kept(tmp_path: Path, data: bytes, mime_type: str = "image/png") -> StoredImage:
    path = tmp_path / "home" / f"2026-11-20-a-cat-{hashlib.sha256(data).hexdigest()[:12]}.{mime_type[6:]}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return StoredImage(
        path=str(path),
        mime_type=mime_type,
        width=32,
        height=24,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())


def refusal(root: Path, save: Save) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        check(root, save)
    (problem,) = caught.value.problems
    assert problem.field == "save_to"
    return problem.text


# --- names ---


@rows(
    ("save_to", "count", "expected"),
    [
        ("hero.png", 1, ["hero.png"]),
        ("public/hero.png", 1, ["public/hero.png"]),
        ("./public/hero.JPG", 1, ["public/hero.JPG"]),
        ("public/hero.png", 3, ["public/hero-1.png", "public/hero-2.png", "public/hero-3.png"]),
        ("a/b/c.webp", 2, ["a/b/c-1.webp", "a/b/c-2.webp"]),
        ("assets/", 2, ["assets/", "assets/"]),
        ("assets", 1, ["assets/"]),
        ("assets/.hidden", 1, ["assets/.hidden/"]),
        ("größe/日本.jpeg", 1, ["größe/日本.jpeg"]),
        ("v1.2/", 1, ["v1.2/"]),
        ("console.png", 1, ["console.png"]),
        ("./a/./b.png", 1, ["a/b.png"]),
        ("././a/.", 1, ["a/"]),
        ("a.png/.", 1, ["a.png/"]),
    ],
)
def test_a_name_says_where_each_image_goes(save_to: str, count: int, expected: list[str]) -> None:
    assert targets(save_to, count) == expected


@rows(
    ("save_to", "words"),
    [
        ("", "must be a file name or folder relative"),
        (" ", "must be a file name or folder relative"),
        ("/", "must be a file name or folder relative"),
        ("/etc/passwd.png", "must be a file name or folder relative"),
        ("//server/share/a.png", "must be a file name or folder relative"),
        ("~/a.png", "must be a file name or folder relative"),
        ("~root/a.png", "must be a file name or folder relative"),
        (".", "must be a file name or folder relative"),
        ("././", "must be a file name or folder relative"),
        ("..", "must stay below the workspace"),
        ("../a.png", "must stay below the workspace"),
        ("a/../../b.png", "must stay below the workspace"),
        ("a//b.png", "must stay below the workspace"),
        ("./../a.png", "must stay below the workspace"),
        ("C:\\a.png", "holds a character"),
        ("C:/a.png", "holds a character"),
        ("c:a.png", "holds a character"),
        ("\\\\server\\share\\a.png", "holds a character"),
        ("..\\a.png", "holds a character"),
        ("\\\\.\\pipe\\a.png", "holds a character"),
        ("a.png:stream", "holds a character"),
        ("a?.png", "holds a character"),
        ("a\x00.png", "holds a character"),
        ("a\n.png", "holds a character"),
        ("a\u202egnp.exe", "holds a character"),
        ("a\ud800.png", "holds a character"),
        ("con.png", "holds a name that Windows keeps"),
        ("NUL", "holds a name that Windows keeps"),
        ("a/Com1.png", "holds a name that Windows keeps"),
        ("lpt¹.png", "holds a name that Windows keeps"),
        ("aux/hero.png", "holds a name that Windows keeps"),
        ("a./hero.png", "holds a name that Windows keeps"),
        ("hero.png ", "holds a name that Windows keeps"),
        ("hero.png.", "holds a name that Windows keeps"),
        (".git/hero.png", "leads into .git"),
        ("site/.GIT/hooks/a.png", "leads into .git"),
        ("x" * 201 + ".png", "holds a name of more than 200 bytes"),
        ("日" * 67 + ".png", "holds a name of more than 200 bytes"),
        ("hero.gif", "ends in .gif; images are saved as .png, .jpg, .jpeg, .webp."),
        ("hero.svg", "ends in .svg"),
        (".bashrc.sh", "ends in .sh"),
        ("v1.2", "ends in .2"),
    ],
)
def test_a_name_that_leads_elsewhere_or_means_something_else_is_refused(save_to: str, words: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        targets(save_to, 1)
    assert caught.value.problems[0].text.startswith(words)


@given(
    st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "a", "/", "\\", "con", "x.png", "~", ":"])).map("".join)
)
def test_no_name_makes_anything_but_its_own_error_and_none_leads_outside(save_to: str) -> None:
    try:
        (target,) = targets(save_to, 1)
    except InvalidRequestError:
        return
    assert not Path(target).is_absolute()
    assert not {"..", "."} & set(target.split("/"))


# --- before money moves ---


def test_what_is_free_may_be_used(root: Path) -> None:
    (root / "there").mkdir()
    (root / "there" / "old.png").write_bytes(PNG)
    for save in (
        Save("hero.png"),
        Save("a/b/c/hero.png"),
        Save("there/new.png"),
        Save("there/"),
        Save("new/"),
        Save("there/old.png", overwrite=True),
    ):
        check(root, save)
    assert files(root) == ["there/old.png"]


def test_a_file_that_is_there_is_not_written_over_unasked(root: Path) -> None:
    (root / "hero.png").write_bytes(b"mine")
    assert refusal(root, Save("hero.png")) == "hero.png exists; give another name, or overwrite: true to replace it."


def test_a_folder_or_a_file_in_the_way_is_named(root: Path) -> None:
    (root / "hero.png").mkdir()
    (root / "file").write_bytes(b"")
    assert "is a link, a folder or a device" in refusal(root, Save("hero.png", overwrite=True))
    assert refusal(root, Save("file/")) == "file is a file, not a folder."
    assert refusal(root, Save("file/hero.png")) == "a part of file/hero.png is a file, not a folder."


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_that_leads_outside_is_refused_and_one_that_stays_inside_is_not(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (root / "inside").mkdir()
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "up").symlink_to("..")
    (root / "in").symlink_to("inside")
    (root / "dangling.png").symlink_to(tmp_path / "outside" / "new.png")
    (root / "loop").symlink_to("loop")
    for target in ("out/hero.png", "out/", "up/hero.png", "up/outside/hero.png", "loop/hero.png", "loop/"):
        assert refusal(root, Save(target)) == "a link on the way leads outside the workspace, or in circles."
    for save in (Save("dangling.png"), Save("dangling.png", overwrite=True)):
        assert "is a link" in refusal(root, save)
    check(root, Save("in/hero.png"))


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
def test_a_device_or_a_pipe_is_refused(root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    assert "is a link, a folder or a device" in refusal(root, Save("pipe.png", overwrite=True))


def test_a_workspace_that_is_gone_is_said(root: Path) -> None:
    root.rmdir()
    assert refusal(root, Save("hero.png")) == "the workspace is not there any more."


# --- putting an image there ---


def test_an_image_gets_into_the_workspace_with_its_folders(root: Path, stored: StoredImage) -> None:
    put = place(root, Save("a/b/hero.png"), stored, 0)
    assert (put.saved, put.note, put.path) == (str(root / "a" / "b" / "hero.png"), None, stored.path)
    assert (root / "a" / "b" / "hero.png").read_bytes() == PNG
    assert files(root) == ["a/b/hero.png"]


def test_into_a_folder_it_goes_under_its_readable_name(root: Path, stored: StoredImage) -> None:
    put = place(root, Save("assets/"), stored, 0)
    assert put.saved == str(root / "assets" / Path(stored.path).name)


def test_a_second_image_of_one_task_is_numbered_where_all_have_one_name(root: Path, stored: StoredImage) -> None:
    assert place(root, Save("hero.png"), stored, 1).saved == str(root / "hero-2.png")
    assert place(root, Save("assets/"), stored, 1).saved == str(root / "assets" / Path(stored.path).name)


def test_done_again_it_makes_no_second_copy(root: Path, stored: StoredImage) -> None:
    first = place(root, Save("hero.png"), stored, 0)
    assert place(root, Save("hero.png"), stored, 0) == first
    assert files(root) == ["hero.png"]


def test_what_came_to_stand_there_meanwhile_is_kept_and_the_next_number_taken(root: Path, stored: StoredImage) -> None:
    (root / "hero.png").write_bytes(b"mine")
    (root / "hero-2.png").mkdir()
    put = place(root, Save("hero.png"), stored, 0)
    assert (put.saved, put.note) == (
        str(root / "hero-3.png"),
        "hero.png had come to exist meanwhile, so this is hero-3.png.",
    )
    assert (root / "hero.png").read_bytes() == b"mine"


def test_a_file_of_the_same_size_is_not_taken_for_our_copy(root: Path, stored: StoredImage) -> None:
    another = bytes(len(PNG))
    (root / "hero.png").write_bytes(another)
    assert place(root, Save("hero.png"), stored, 0).saved == str(root / "hero-2.png")
    assert (root / "hero.png").read_bytes() == another


def test_with_overwrite_it_replaces_a_file_and_never_follows_a_link(root: Path, stored: StoredImage) -> None:
    (root / "hero.png").write_bytes(b"mine")
    assert place(root, Save("hero.png", overwrite=True), stored, 0).saved == str(root / "hero.png")
    assert (root / "hero.png").read_bytes() == PNG
    (root / "other").write_bytes(b"untouched")
    (root / "link.png").symlink_to("other")
    assert place(root, Save("link.png", overwrite=True), stored, 0).saved == str(root / "link-2.png")
    assert (root / "other").read_bytes() == b"untouched"


@pytest.mark.parametrize(("name", "kind"), [("hero.jpg", "JPEG"), ("hero.jpeg", "JPEG"), ("hero.webp", "WEBP")])
def test_the_type_is_what_the_name_says(root: Path, stored: StoredImage, name: str, kind: str) -> None:
    put = place(root, Save(name), stored, 0)
    assert put.note is not None
    assert put.note.startswith("Converted from image/png to image/")
    with Image.open(root / name) as picture:
        assert (picture.format, picture.size) == (kind, (32, 24))
    assert place(root, Save(name), stored, 0) == put
    assert files(root) == [name]


def test_a_jpeg_asked_for_as_png_becomes_one(root: Path, tmp_path: Path) -> None:
    place(root, Save("hero.png"), kept(tmp_path, drawn("JPEG"), "image/jpeg"), 0)
    with Image.open(root / "hero.png") as picture:
        assert picture.format == "PNG"


def test_what_cannot_be_saved_is_said_and_the_image_is_safe(root: Path, tmp_path: Path, stored: StoredImage) -> None:
    (tmp_path / "outside").mkdir()
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "file").write_bytes(b"")
    for target, reason in (
        ("out/hero.png", "a link on the way leads outside the workspace."),
        ("file/hero.png", "Not a directory."),
    ):
        put = place(root, Save(target), stored, 0)
        assert put.saved is None
        assert put.note is not None
        assert put.note.startswith(f"Not saved to {target}: ")
        assert put.note.endswith("The image itself is safe in its path.")
        assert reason.lower().rstrip(".") in put.note.lower() or "exists" in put.note
    assert list((tmp_path / "outside").iterdir()) == []
    (root / "out").unlink()
    (root / "file").unlink()
    root.rmdir()
    assert "the workspace is not there any more" in (place(root, Save("hero.png"), stored, 0).note or "")


def test_half_a_file_of_a_killed_process_is_cleared_away(root: Path, stored: StoredImage) -> None:
    (root / ".hero.png.flux2-part").write_bytes(PNG[:10])
    place(root, Save("hero.png"), stored, 0)
    assert files(root) == ["hero.png"]


def test_a_disk_without_hard_links_gets_the_file_all_the_same(
    root: Path, stored: StoredImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    (root / "taken.png").write_bytes(b"mine")
    assert place(root, Save("hero.png"), stored, 0).saved == str(root / "hero.png")
    assert place(root, Save("taken.png"), stored, 0).saved == str(root / "taken-2.png")
    assert files(root) == ["hero.png", "taken-2.png", "taken.png"]


# --- reading sources ---


def unreadable(text: str, *folders: Path, max_bytes: int = MAX_SOURCE_BYTES) -> str:
    with pytest.raises(UnreadableError) as caught:
        read(text, folders, max_bytes=max_bytes)
    return caught.value.message


def test_a_file_of_the_workspace_is_read_by_either_of_its_names(root: Path, tmp_path: Path) -> None:
    (root / "art").mkdir()
    (root / "art" / "cat.png").write_bytes(PNG)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "dog.png").write_bytes(b"dog")
    for text in ("art/cat.png", "./art/../art/cat.png", str(root / "art" / "cat.png")):
        assert read(text, [root]) == PNG
    assert read(str(tmp_path / "shared" / "dog.png"), [root, tmp_path / "shared"]) == b"dog"
    assert read(str(tmp_path / "shared" / "dog.png"), [root], [tmp_path / "shared"]) == b"dog"
    assert read(str(root / "art" / "cat.png"), [], [root]) == PNG


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_what_stands_outside_is_not_read_and_not_told_of(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PNG)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "up").symlink_to("..")
    (root / "fine.png").write_bytes(PNG)
    (root / "alias.png").symlink_to("fine.png")
    outside = "stands outside the workspace; move it there, or name its folder in FLUX2_ALLOWED_DIRS."
    for text in (
        "../secret.png",
        "../nothing.png",
        "link.png",
        "up/secret.png",
        str(tmp_path / "secret.png"),
        "/etc/passwd",
        "/etc/nothing",
        "/dev/zero",
        "/proc/self/environ",
        f"{root}-twin/cat.png",
    ):
        assert unreadable(text, root) == outside
    assert read("alias.png", [root]) == PNG


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
def test_what_is_no_plain_file_or_too_large_is_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "pipe.png")
    (root / "folder").mkdir()
    (root / "large.png").write_bytes(bytes(101))
    assert unreadable("pipe.png", root) == "is no plain file."
    assert unreadable("folder", root) in {"is no plain file.", "can't be read: Is a directory."}
    assert unreadable("large.png", root, max_bytes=100) == "is larger than 0 MB."
    assert read("large.png", [root], max_bytes=101) == bytes(101)
    monkeypatch.setenv("HOME", str(root / "folder"))
    for missing, folder in (("nothing.png", root), (str(root / "nothing.png"), root), ("~/no.png", root / "folder")):
        assert unreadable(missing, root) == f"can't be read: there is no such file in {folder}."
    assert unreadable("x" * 300, root) == "can't be read: File name too long."


def test_without_a_workspace_a_relative_path_says_what_to_set(root: Path) -> None:
    assert "Set FLUX2_WORKSPACE" in unreadable("cat.png")
    assert "FLUX2_ALLOWED_DIRS" in unreadable(str(root / "cat.png"))


def test_of_two_that_write_the_same_under_one_name_both_have_written_it(root: Path) -> None:
    barrier = Barrier(4)

    def write(number: int) -> str:
        barrier.wait(timeout=30)
        return put(root, f"{number}.png", b"the same", replaces=())

    with ThreadPoolExecutor(4) as pool:
        for number in range(100):
            assert len({*pool.map(write, [number] * 4)}) == 1
    (root / "other.png").write_bytes(b"another")
    with pytest.raises(FileExistsError):
        put(root, "other.png", b"the same", replaces=())
