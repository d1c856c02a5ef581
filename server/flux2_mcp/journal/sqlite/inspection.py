"""The checks of the journal for `flux2-mcp doctor`. They change nothing in it."""

from __future__ import annotations

import time
from pathlib import Path

from flux2_mcp.journal.records import Health, Inspection
from flux2_mcp.journal.sql import inspection
from flux2_mcp.journal.sqlite.integrity import has_left_images, whole
from flux2_mcp.journal.sqlite.migrations import MIGRATIONS
from flux2_mcp.journal.watch import FILE
from flux2_mcp.system.migrations import pending
from flux2_mcp.system.sqlite_file import Error, looked_at, mark_of, reading


def health(home: Path, account: str) -> Health:
    """Inspect the journal of a home.

    Args:
        home: FLUX2_HOME, an existing folder.
        account: A name made from the service and the key; see `engine.backend.account_name`.
    """
    path = home / FILE
    if not path.exists():
        return Health("vanished" if mark_of(path).exists() or has_left_images(path) else "none", path)
    if not path.is_file():
        return Health("no_file", path)
    try:
        sound, tasks = looked_at(path, "SELECT count(*) FROM task", whole)
    except Error as exc:
        return Health("unreadable", path, reason=str(exc))
    if not sound:
        return Health("broken", path)
    size = sum(file.stat().st_size for file in home.glob(f"{FILE}*") if file.is_file())
    try:
        found = inspect(path, account)
    except Error:  # another process keeps the file busy; it was sound a moment ago, so this is no failure
        found = None
    return Health("sound", path, tasks, size, inspection=found)


def inspect(path: Path, account: str) -> Inspection:
    """Inspect the tasks that have not ended. The file is sound.

    Raises:
        sqlite3.Error: The file can't be read.
    """
    with reading(path) as read:
        if pending(read, MIGRATIONS):
            return Inspection()  # written by an older version, and not opened since the update
        return inspection.inspect(read, account, time.monotonic())
