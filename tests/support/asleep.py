"""Whether a server's process sleeps: then it has no event loop, and it has not loaded the SDK unless it was forked with it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.support import forked

needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc shows what a process has loaded")
DEADLINE = 60.0


def is_asleep(pid: int) -> bool:
    """True as long as there is no event loop, and the compiled part of pydantic, without which nobody has the SDK, was not loaded."""
    folder = Path(f"/proc/{pid}")
    if any(map(_is_loop, (folder / "fd").iterdir())):
        return False
    was_forked = forked.PROGRAM[-1].encode() in (folder / "cmdline").read_bytes()
    return was_forked or "pydantic_core" not in (folder / "maps").read_text("utf-8")


def _is_loop(descriptor: Path) -> bool:
    try:
        return str(descriptor.readlink()) == "anon_inode:[eventpoll]"
    except FileNotFoundError:  # it was closed meanwhile
        return False


_WITNESS = """#!{python}
import os, time
server = os.getpid()
if not (child := os.fork()):
    # A client may end all children of its server.
    if os.fork():
        os._exit(0)
    os.setsid()
    for number in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    said, until = "asleep", time.monotonic() + {seconds}
    try:
        while time.monotonic() < until:
            with open(f"/proc/{{server}}/maps") as maps:
                text = maps.read()
            if not text:
                break
            if "pydantic_core" in text:
                said = "awake"
            time.sleep(0.02)
    except OSError:
        pass
    with open({told!r}, "a") as told:
        told.write(said + chr(10))
    os._exit(0)
os.waitpid(child, 0)
os.execv({program!r}, [{program!r}])
"""


class Witness:
    """A command that becomes the server, while a second process looks whether it ever wakes.

    Args:
        folder: Where the command is written.
        program: The server's.
    """

    def __init__(self, folder: Path, program: str) -> None:
        self.command = folder / "witness"
        self._told = folder / "told"
        self.command.write_text(
            _WITNESS.format(python=sys.executable, told=str(self._told), program=program, seconds=DEADLINE), "utf-8"
        )
        self.command.chmod(0o755)

    def told(self) -> list[str]:
        """Of each server that has ended, whether it was `awake` at any time, or `asleep`; at least one has to end."""
        deadline = time.monotonic() + 2 * DEADLINE
        while not self._told.exists():
            assert time.monotonic() < deadline, "no server has ended"
            time.sleep(0.02)
        return self._told.read_text("utf-8").split()


def until_awake(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while is_asleep(pid):
        assert time.monotonic() < deadline, "it sleeps on"
        time.sleep(0.02)
