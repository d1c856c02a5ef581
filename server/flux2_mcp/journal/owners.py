"""Names of processes, and whether they are known to be dead: then nobody need wait for their leases to lapse."""

from __future__ import annotations

import os
import platform
import sys
import uuid
from functools import cache
from pathlib import Path


def name() -> str:
    """A name for this process: where it runs, its process id, and something that no later process has."""
    return f"{_place()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"


def is_dead(owner: str) -> bool:
    """True where the process certainly ended; False where it lives or nobody here can tell."""
    place, _, rest = owner.rpartition("/")[0].rpartition("/")
    if place != _place() or not rest.isdecimal() or sys.platform == "win32":  # there, asking by signal 0 would kill
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
    """The machine and, on Linux, the container: process ids mean nothing beyond it."""
    try:
        namespace = Path("/proc/self/ns/pid").readlink().name
    except OSError:
        namespace = ""
    return f"{platform.node()}{namespace}"
