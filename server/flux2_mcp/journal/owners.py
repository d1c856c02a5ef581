"""Names of processes, and whether a process is known to be dead: then its leases are free before they lapse."""

from __future__ import annotations

import os
import platform
import sys
import uuid
from functools import cache
from pathlib import Path


def name() -> str:
    """A name for this process: where it runs, its process id, and a random part that no later process has."""
    return f"{_place()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"


def is_dead(owner: str) -> bool:
    """True if the process has certainly ended; False if it lives, or if this machine can't know."""
    place, _, rest = owner.rpartition("/")[0].rpartition("/")
    if place != _place() or not rest.isdecimal() or sys.platform == "win32":  # on Windows, signal 0 would kill it
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError, ValueError):  # another user's, or a number that no process has
        return False
    return False


@cache
def _place() -> str:
    """The machine and, on Linux, the container: process ids are only unique in it."""
    try:
        namespace = Path("/proc/self/ns/pid").readlink().name
    except OSError:
        namespace = ""
    return f"{platform.node()}{namespace}"
