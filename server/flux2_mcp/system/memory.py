"""What the C library does with freed memory."""

from __future__ import annotations

import sys
from contextlib import suppress

M_ARENA_MAX = -8
"""From glibc's malloc.h: how many arenas there may be."""


def one_arena() -> None:
    """Let all threads of this process share one arena. Call it before the first thread starts.

    glibc gives threads arenas of their own, and each keeps what its threads have freed: a process that handles picture after
    picture grows with their number. Python lets one thread at a time allocate, so nothing waits for the one arena. macOS,
    Windows and musl have no such arenas, and no `mallopt`.
    """
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
