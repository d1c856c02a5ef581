"""What was read is not read again, and what was changed is, however its times look."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from flux2_mcp.system import files
from flux2_mcp.system.known_contents import KnownContents

LONG_AGO = 10**18


class Counted:
    """A file with content that was last changed long ago, and how many bytes of it were read."""

    def __init__(self, folder: Path) -> None:
        self.path, self.notes = folder / "a.png", folder / "home/contents/site.json"
        (folder / "home").mkdir()
        self.put(b"one")

    def put(self, data: bytes, at: int = LONG_AGO) -> None:
        self.path.write_bytes(data)
        os.utime(self.path, ns=(at, at))

    def asked(self) -> tuple[bool, int]:
        """Whether the digest is right, and how many bytes were read for it."""
        known = KnownContents(self.notes)
        with files.open_plain(self.path) as file:
            digest = known.sha256(file)
            read = file.tell()
        known.keep()
        return digest == hashlib.sha256(self.path.read_bytes()).hexdigest(), read


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """The clock is a minute ahead, so that what is written now was written a minute ago."""
    monkeypatch.setattr(time, "time_ns", lambda at=time.time_ns: at() + 60 * 10**9)
    return Counted(tmp_path)


def test_what_was_read_once_is_not_read_again(counted: Counted) -> None:
    assert [counted.asked(), counted.asked()] == [(True, 3), (True, 0)]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere no time tells of it")
def test_a_change_of_the_same_size_whose_time_was_set_back_is_noticed(counted: Counted) -> None:
    counted.asked()
    counted.put(b"two")
    assert counted.asked() == (True, 3)


def test_what_was_changed_just_now_is_not_noted(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert [counted.asked(), counted.asked()] == [(True, 3), (True, 3)]
    assert not counted.notes.exists()


@pytest.mark.parametrize("damage", [b"", b"[]", b"{ this is no JSON", b'{"1:2:3:4:5": "abc"}', b"[" * 100_000])
def test_notes_that_can_not_be_read_are_made_anew(counted: Counted, damage: bytes) -> None:
    counted.asked()
    counted.notes.write_bytes(damage)
    assert [counted.asked(), counted.asked()] == [(True, 3), (True, 0)]


def test_no_home_is_made_for_notes(counted: Counted) -> None:
    counted.notes.parent.parent.rmdir()
    assert counted.asked() == (True, 3)
    assert not counted.notes.parent.parent.exists()
