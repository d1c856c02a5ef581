"""Watches the journal for a process that does not work on it, and costs next to nothing while nothing happens.

A look is two calls of the system: have the file or its log changed? Only then SQLite is asked, and only then it is
loaded. Leases end without a change of the file, so what the last answer said of them is looked at each time, too.
"""

from __future__ import annotations

import os
import time
from math import inf

from flux2_mcp.journal import owners

TYPE_CHECKING = False  # as in `names`
if TYPE_CHECKING:
    from flux2_mcp.journal.listed import ListedTask

FILE = "journal.sqlite3"
PATIENCE_SECONDS = 0.1
"""How long a query waits for another process. Readers wait only while a file is opened first or recovered."""
SETTLED_SECONDS = 1.0
"""Two writes within a tick of the disk's clock leave one time. A file that changed within this time is read once more."""

EMPTY = (0, 0, 0)
"""Of an empty file: SQLite leaves one as the log of a file that was only read."""

_Stamp = tuple[tuple[int, int, int], tuple[int, int, int]]


class Watch:
    """The journal of a home, from outside.

    Args:
        home: FLUX2_HOME, an absolute POSIX path.
        sandbox: Whether the sandbox's tasks are meant, and not those of RunAPI.
    """

    def __init__(self, home: str, *, sandbox: bool) -> None:
        self._home = home
        self._file = os.path.join(home, FILE)
        self._log = f"{self._file}-wal"
        self._sandbox = sandbox
        self._seen: _Stamp | None = None
        self._until = inf
        self._owners: tuple[str, ...] = ()
        self.is_quiet = False
        """Whether, as long as no file changes, there will be no work: no task is open, and the last change was read."""

    def finds_work(self) -> bool:
        """Whether an open task is held by no living process, or this can't be told.

        A broken journal is work: who opens it replaces it.
        """
        if (file := _stamp(self._file)) is None:
            self.is_quiet = True
            return False  # there is none
        stamp = file, _stamp(self._log) or EMPTY
        if stamp == self._seen and self._until == inf:
            return False
        now = time.monotonic()
        if stamp == self._seen and now < self._until and not any(map(owners.is_dead, self._owners)):
            return False
        from flux2_mcp.journal.sqlite import glance
        from flux2_mcp.system import sqlite_reading

        try:
            with sqlite_reading.reading(sqlite_reading.address_of(self._file), PATIENCE_SECONDS) as read:
                found = glance.holders(read, now, sandbox=self._sandbox)
        except sqlite_reading.Error as exc:
            self._seen, self._until, self.is_quiet = None, inf, False
            return not sqlite_reading.is_busy(exc)
        except ValueError:  # a path that is no UTF-8
            return True
        self._until = inf if found.first is None else found.first
        self._owners = found.owners
        self._seen = stamp if _is_settled(stamp) else None
        self.is_quiet = self._seen is not None and self._until == inf and not self._owners
        return found.free or any(map(owners.is_dead, self._owners))

    def pause(self, most: float) -> float:
        """Seconds until the next look, no more than these: until the end of the first lease that is known."""
        return most if self._until == inf else min(most, max(0.0, self._until - time.monotonic()))

    def newest(self, name: str, limit: int) -> tuple[ListedTask, ...] | None:
        """The newest tasks of a key, as `contract.Tasks.newest`; None if only the server can tell.

        Args:
            name: The name of the key; see `open_journal`.
            limit: The maximum number.
        """
        if _stamp(self._file) is None:
            # Beside it, something else may show that there was one: then the server has to tell what became of it.
            return (
                None
                if any(os.path.exists(os.path.join(self._home, part)) for part in ("journal.made", "images"))
                else ()
            )
        from flux2_mcp.journal.sqlite import glance, names
        from flux2_mcp.system import sqlite_reading

        try:
            with sqlite_reading.reading(sqlite_reading.address_of(self._file), PATIENCE_SECONDS) as read:
                if not self._sandbox and not names.known(name, read) and names.has_others(name, read):
                    return None  # RunAPI is asked whose they are
                return glance.newest(read, {"account": names.tasks_of(name, read)}, limit=limit, before=None)
        except (sqlite_reading.Error, ValueError):
            return None


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if found.st_size else EMPTY


def _is_settled(stamp: _Stamp) -> bool:
    latest = max(part[2] for part in stamp)
    return not 0 <= time.time() - latest / 1e9 < SETTLED_SECONDS
