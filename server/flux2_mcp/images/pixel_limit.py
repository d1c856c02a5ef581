"""A limit of the pixels decoded at once in a process: the memory depends on pixels, not on the number of pictures."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

MAX_LARGE_PIXELS = 300_000_000
"""The largest picture that is checked piece by piece: 8 times each side of 2k is 268 megapixels. More is a bomb or a mistake."""


class PixelLimit:
    """A semaphore of pixels. Threads get their share in the order of their calls.

    The order keeps a large picture from waiting for ever behind small ones. A thread that waits has read no pixels yet.

    Args:
        pixels: The largest number held at once. A picture that needs more is held alone.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = self._free = pixels
        self._line: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def free(self) -> int:
        """The number of pixels that nobody holds."""
        return self._free

    @property
    def waiting(self) -> int:
        """The number of threads that wait."""
        return len(self._line)

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until `pixels` are free, and hold them in the block. Never nest two: both would wait for ever."""
        taken, me = min(pixels, self._pixels), object()
        with self._changed:
            self._line.append(me)
            self._changed.wait_for(lambda: self._line[0] is me and self._free >= taken)
            self._line.popleft()
            self._free -= taken
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += taken
                self._changed.notify_all()
