"""`python -m tests.support.in_memory COMMAND ...` runs a command whose temporary files stand in memory, where there is room.

A tenth of what the suite takes is the disk: it syncs journals, databases and images, as the product does. The files are removed at the
end, unless the command fails: then it is said where they are. Where TMPDIR is set, or memory is short, they stand where they always do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

MEMORY = "/dev/shm"  # noqa: S108  # a folder of one's own is made in it
ROOM_BYTES = 4 * 1024**3
"""The suite leaves 0.7 GB behind."""
END_SECONDS = 10.0
"""How long a database that nobody uses any more may take to end, and to remove its folder."""


def room(env: Mapping[str, str]) -> bool:
    """Whether the files may stand in memory."""
    if "TMPDIR" in env or sys.platform != "linux" or not os.access(MEMORY, os.W_OK):
        return False
    free = os.statvfs(MEMORY)
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(free.f_bavail * free.f_frsize, pages) >= ROOM_BYTES


def main(command: list[str]) -> int:
    """Run the command; gives its exit code."""
    if not room(os.environ):
        return subprocess.run(command, check=False).returncode
    folder = Path(tempfile.mkdtemp(prefix="f-", dir=MEMORY))
    folder.chmod(0o711)  # where root runs the tests, PostgreSQL is another user's
    code: int | None = None
    try:
        code = subprocess.run(command, env=os.environ | {"TMPDIR": str(folder)}, check=False).returncode
    finally:
        if code:
            sys.stderr.write(f"What the tests left behind is in {folder}, in memory: remove it when you have looked.\n")
        else:
            _remove(folder)
    return code


def _remove(folder: Path) -> None:
    deadline = time.monotonic() + END_SECONDS
    while [*folder.glob("pg-*")] and time.monotonic() < deadline:
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
