"""Lets a process fork while it has SQLite files open: each is closed for that moment.

SQLite counts the locks on a file for each process. A child that was forked while a file was open would believe that it
has the parent's locks, and could write into a log that another process is deleting.
"""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import Protocol
from weakref import WeakSet


class Parkable(Protocol):
    """An open file."""

    def park(self) -> None:
        """Close the file between two transactions, and let no thread use it before `unpark`."""
        ...

    def unpark(self, *, reopen: bool) -> None:
        """End `park`. Without `reopen`, the file stays closed: a child opens its own."""
        ...


opening = threading.RLock()
"""Held while a file is opened or closed, and while this process forks."""
open_files: WeakSet[Parkable] = WeakSet()
"""Changed only by a thread that holds `opening`."""


def _before() -> None:
    opening.acquire()
    for file in open_files:
        file.park()


def _after(*, reopen: bool) -> None:
    for file in open_files:
        file.unpark(reopen=reopen)
    opening.release()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(
        before=_before, after_in_parent=partial(_after, reopen=True), after_in_child=partial(_after, reopen=False)
    )
