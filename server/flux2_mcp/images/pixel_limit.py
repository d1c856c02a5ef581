"""How many pixels are in hand at once, in the whole process: what is decoded takes memory by its size, not by its number."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class PixelLimit:
    """Room for so many pixels. Threads take what they need of it, in the order in which they came.

    The order keeps a large picture from waiting behind ever more small ones. A thread that waits has read nothing yet.

    Args:
        pixels: The most in hand at once; whatever needs more is alone in it.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = self._free = pixels
        self._line: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """How many threads wait for room."""
        return len(self._line)

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until there is room, and keep it meanwhile. Never inside of another `hold`: both would wait for ever."""
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
