"""The system tells of changes in a folder, once for each time that it is asked to."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flux2_mcp.system.folder_changes import FolderChanges

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of changes")
DEADLINE_SECONDS = 30.0
WRITE = "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).execute('INSERT INTO a VALUES (1)')"


class Told:
    """How often a change was told."""

    def __init__(self, folder: Path) -> None:
        self.times = 0
        self.changes = FolderChanges(str(folder), self._count)

    def _count(self) -> None:
        self.times += 1

    def once(self, change: Callable[[], object]) -> bool:
        """Whether it is told, once, if this is done twice."""
        before = self.times
        assert self.changes.watch()
        assert not self.changes.came
        change()
        until = time.monotonic() + DEADLINE_SECONDS
        while self.times == before and time.monotonic() < until:
            time.sleep(0.01)
        change()
        return self.times == before + 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (folder := tmp_path / "home").mkdir()
    return folder


@pytest.fixture
def told(folder: Path) -> Iterator[Told]:
    told = Told(folder)
    yield told
    told.changes.close()


def test_what_another_process_writes_to_a_database_is_told(folder: Path, told: Told) -> None:
    file = folder / "a.sqlite3"
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE a (b)")
        command = [sys.executable, "-c", WRITE, str(file)]
        assert told.once(lambda: subprocess.run(command, check=True))


def test_a_file_that_is_made_or_gets_its_name_is_told(folder: Path, told: Told, tmp_path: Path) -> None:
    assert told.once((folder / "a").touch)
    (tmp_path / "b").touch()
    assert told.once(lambda: shutil.copy(tmp_path / "b", folder / "c"))


def test_what_is_read_is_not_told(folder: Path, told: Told) -> None:
    (folder / "a").write_text("1")
    assert told.changes.watch()
    assert (folder / "a").read_text() == "1"
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert (told.changes.came, told.times) == (False, 0)


def test_where_there_is_no_folder_its_making_is_told_then_what_is_in_it(folder: Path) -> None:
    deep = folder / "share" / "flux2"
    told = Told(deep)
    try:
        assert told.once(lambda: (folder / "share").mkdir(exist_ok=True))
        assert told.once(lambda: deep.mkdir(exist_ok=True))
        assert told.once(lambda: (deep / "a").write_text("1"))
        deep.rename(folder / "moved")
        deep.mkdir()
        assert told.once(lambda: (deep / "a").write_text("1"))
    finally:
        told.changes.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_one_that_is_closed_keeps_no_file_open_and_a_late_signal_ends_no_process(folder: Path) -> None:
    before = open_files()
    told = Told(folder)
    for _ in range(3):
        assert told.changes.watch()
    assert open_files() == before + 1
    told.changes.close()
    (folder / "a").touch()
    os.kill(os.getpid(), signal.SIGIO)
    assert (open_files(), told.times) == (before, 0)
