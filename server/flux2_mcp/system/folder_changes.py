"""Tells a process that waits when something changes in a folder, so that it need not look again and again.

Linux sends a signal for the first change after each `watch` (dnotify, which Python's `fcntl` has; inotify is not in its library).
It costs nothing until then. Elsewhere, and where the file system has none, `watch` returns False.
"""

from __future__ import annotations

import os
import signal

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TYPE_CHECKING = False  # the server that sleeps has no use for typing and collections
if TYPE_CHECKING:
    from collections.abc import Callable

SIGNAL = getattr(signal, "SIGIO", None)
"""What the system sends. Only the main thread may get it: others have to block it."""


class FolderChanges:
    """Changes of the files in a folder. For the main thread alone.

    Args:
        folder: An absolute path. Where there is none, the nearest folder above it is watched for what appears in it.
        on_change: Called in the main thread, between two of its instructions.
    """

    def __init__(self, folder: str, on_change: Callable[[], None]) -> None:
        self._folder = folder
        self._on_change = on_change
        self._watched: int | None = None
        self.came = False
        """Whether something has changed since `watch`."""
        self._before = None if SIGNAL is None or fcntl is None else signal.signal(SIGNAL, self._changed)

    def watch(self) -> bool:
        """Tell of the next change. False: none will be told."""
        self.came = False
        if SIGNAL is None or not hasattr(fcntl, "F_NOTIFY"):
            return False
        folder, events = self._folder, fcntl.DN_MODIFY | fcntl.DN_CREATE | fcntl.DN_RENAME
        while not os.path.isdir(folder):
            above = os.path.dirname(folder)
            if above == folder:
                return False
            folder, events = above, fcntl.DN_CREATE | fcntl.DN_RENAME
        try:
            # A folder that was made anew meanwhile is another one, though its name is the same.
            self._leave()
            self._watched = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.fcntl(self._watched, fcntl.F_NOTIFY, events)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Tell of no change any more."""
        self._leave()
        if SIGNAL is not None and self._before is not None:
            signal.signal(SIGNAL, _nothing)  # the system's own answer to a late one would end the process

    def _leave(self) -> None:
        if self._watched is not None:
            os.close(self._watched)
            self._watched = None

    def _changed(self, *_: object) -> None:
        self.came = True
        self._on_change()


def _nothing(*_: object) -> None:
    pass
