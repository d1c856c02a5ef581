"""Remembers the SHA-256 of files, so that only those that have changed are read again.

Content counts, and a file's times are only a hint. So a note is used for the same file on the same disk, with the same size and
the same times to the nanosecond; and it is made only if the last change was seconds before the file was read: a change in the
same tick of the disk's clock would not show. Who changes a file and sets its time back is found out by the time of the change,
which nobody can set; on Windows, which has none, such a file is read again when its size is another.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from flux2_mcp.system import files

STEADY_NS = 3 * 10**9
"""Disks note times to two seconds (FAT), one (some network drives) or better."""
MAX_BYTES = 4_000_000
PIECE_BYTES = 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")


class KnownContents:
    """The notes of one file. It may be used by several threads; of two processes, the last to write has its notes kept.

    Args:
        file: Where the notes are kept; None: they are not.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._noted = {} if file is None else _read(file)
        self._used: dict[str, str] = {}

    def sha256(self, file: BinaryIO) -> str:
        """Return the SHA-256 of an open file as hex digits.

        Raises:
            OSError: It can't be read.
        """
        about = os.fstat(file.fileno())
        mark = f"{about.st_dev}:{about.st_ino}:{about.st_size}:{about.st_mtime_ns}:{about.st_ctime_ns}"
        found = self._noted.get(mark)
        if found is None:
            steady = time.time_ns() - max(about.st_mtime_ns, about.st_ctime_ns) > STEADY_NS
            digest = hashlib.sha256()
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
            found = digest.hexdigest()
            if not steady:
                return found
        self._used[mark] = found
        return found

    def keep(self) -> None:
        """Write the notes of the files that were asked about since the start, if they are others than before.

        Without notes, files are read again. So no error is raised, and the folder of all notes must be there: a check makes none.
        """
        if self._file is not None and self._used != self._noted and self._file.parent.parent.is_dir():
            with suppress(OSError):
                self._file.parent.mkdir(mode=0o700, exist_ok=True)
                files.write_atomically(self._file, json.dumps(self._used, indent=0).encode(), durable=False)
                self._noted = dict(self._used)


def _read(file: Path) -> dict[str, str]:
    """Return the notes of an earlier run; none if the file is not as `keep` writes it."""
    try:
        with files.open_plain(file) as opened:
            held = json.loads(opened.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    fits = isinstance(held, dict) and all(isinstance(each, str) and _SHA256.fullmatch(each) for each in held.values())
    return held if fits else {}
