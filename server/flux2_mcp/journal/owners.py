"""Names of processes, and whether a process is known to be dead: then its leases are free before they lapse."""

from __future__ import annotations

import os
import sys
from functools import cache

LEASE_SECONDS = 20.0
"""How long a lease lasts without renewal, where it can't be seen whether its process lives. It is renewed ten times as
often, so that a process on a busy machine keeps its tasks. No lease of any version lasts longer: one that would is an error of a
clock."""


def name() -> str:
    """A name for this process: where it runs, its process id, and a random part that no later process has."""
    return f"{_place()}/{os.getpid()}/{os.urandom(4).hex()}"


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
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{_node()}{namespace}"


def _node() -> str:
    """The machine's name in its network; "" if it has none."""
    if hasattr(os, "uname"):
        return os.uname().nodename
    import platform

    return platform.node()
