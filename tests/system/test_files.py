"""A file that is written whole: what stands there, before, after and when the system refuses."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from flux2_mcp.system.files import alone, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_has_its_new_bytes_and_nothing_is_left_beside_it(tmp_path: Path, durable: bool) -> None:
    for data in (b"first\n\r\n\x00", b"second"):
        write_atomically(tmp_path / "a.bin", data, durable=durable)
        assert (tmp_path / "a.bin").read_bytes() == data
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.skipif(os.name != "posix", reason="rights are POSIX's")
def test_a_file_is_its_owners_alone_until_it_has_its_place(tmp_path: Path) -> None:
    seen: list[int] = []
    before = os.umask(0)
    try:
        write_atomically(tmp_path / "private", b"x")
        write_atomically(tmp_path / "shared", b"x", mode=0o664, prepare=lambda new: seen.append(rights(new)))
    finally:
        os.umask(before)
    assert seen == [0o600]
    assert (rights(tmp_path / "private"), rights(tmp_path / "shared")) == (0o600, 0o664)


@pytest.mark.skipif(os.name != "posix", reason="links need a right of their own elsewhere")
def test_a_link_stays_one_where_it_is_followed_and_is_replaced_where_not(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    link = tmp_path / "folder" / "link"
    link.symlink_to(tmp_path / "real")
    write_atomically(link, b"new", follow=True)
    assert (link.is_symlink(), (tmp_path / "real").read_bytes()) == (True, b"new")
    write_atomically(link, b"newer")
    assert (link.is_symlink(), link.read_bytes(), (tmp_path / "real").read_bytes()) == (False, b"newer", b"new")
    assert (names(tmp_path), names(tmp_path / "folder")) == (["folder", "real"], ["link"])


def test_what_is_not_to_be_replaced_stays(tmp_path: Path) -> None:
    path = tmp_path / "token"
    write_atomically(path, b"first", replace=False)
    with pytest.raises(FileExistsError):
        write_atomically(path, b"second", replace=False)
    assert (path.read_bytes(), names(tmp_path)) == (b"first", ["token"])


def refuse(_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("refused", ["on disk", "prepared"])
def test_what_the_system_refuses_costs_the_new_bytes_and_not_the_old_file(
    tmp_path: Path, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    if refused == "on disk":
        monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "a", b"new", prepare=refuse if refused == "prepared" else None)
    assert ((tmp_path / "a").read_bytes(), names(tmp_path)) == (b"old", ["a"])


def test_a_folder_that_can_not_be_synced_does_not_make_a_written_file_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, synced = os.fsync, list[bool]()

    def files_only(handle: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(handle).st_mode))
        if synced[-1]:
            raise OSError(22, "Invalid argument")
        sync(handle)

    monkeypatch.setattr(os, "fsync", files_only)
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert synced == ([False, True] if os.name == "posix" else [False])


def test_a_folder_is_held_by_one_at_a_time_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(TimeoutError), alone(tmp_path, seconds=0):
        pass
    with alone(tmp_path, seconds=0):
        assert names(tmp_path) == [] or os.name == "nt"
    assert names(tmp_path) == []
