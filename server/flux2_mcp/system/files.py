"""Opens plain files, and writes whole ones: beside the old file, then in its place. A reader sees the old or the new, never half of one.

Who writes into a file what it has read from it, holds its folder meanwhile: see `alone`.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PRIVATE_MODE = 0o600
ALONE_SECONDS = 30.0
"""How long `alone` waits for another process. One holds a folder for as long as it writes a file: milliseconds."""
TRY_SECONDS = 0.005
_HELD = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}
# Not every system has them.
_NO_LINKS, _NO_WAITING, _BINARY = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))


class NoPlainFileError(OSError):
    """A folder, a pipe or a device stands there."""


def open_plain(path: Path) -> BinaryIO:
    """Open a file to read, if it is a plain one: a link may lead anywhere, a pipe waits for its writer, a device never ends.

    Raises:
        NoPlainFileError: It is neither a plain file nor a link.
        OSError: It is a link, or the system refused.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | _NO_LINKS | _NO_WAITING | _BINARY), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NoPlainFileError(errno.EINVAL, "it is no plain file")
    return file


def write_atomically(
    path: Path,
    data: bytes,
    *,
    mode: int = PRIVATE_MODE,
    follow: bool = False,
    replace: bool = True,
    durable: bool = True,
    prepare: Callable[[Path], None] | None = None,
) -> None:
    """Write a file. A failure leaves the old file unchanged, and no other file beside it.

    Args:
        path: The file; its folder must exist.
        data: The whole content.
        mode: The file's permissions in its place. Until then only its owner can read it.
        follow: If the path is a link, the file that it leads to is written; otherwise the link is replaced.
        replace: An old file is replaced; otherwise it stays, and this raises.
        durable: The new file is synced to disk before it takes its place.
        prepare: Called with the path of the complete new file before it takes its place.

    Raises:
        FileExistsError: There is an old file, and `replace` is False.
        OSError: The system refused.
    """
    target = Path(os.path.realpath(path)) if follow else path
    part = target.with_name(f".{target.name}.{os.urandom(6).hex()}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, PRIVATE_MODE)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if prepare is not None:
                prepare(part)
            if mode != PRIVATE_MODE:
                part.chmod(mode)
            if durable:
                os.fsync(handle)
        if replace:
            part.replace(target)
        else:
            os.link(part, target)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    if durable:
        _sync_folder(target.parent)


@contextmanager
def alone(folder: Path, *, seconds: float = ALONE_SECONDS) -> Iterator[None]:
    """Hold a folder, so that no other process that calls this is in it at the same time. A process that ends lets go of it.

    The folder itself is locked, so nothing is left in it; Windows locks files only, and there an empty one is made for as
    long. Some network drives have no locks: there nothing is held.

    Args:
        folder: It must exist.
        seconds: How long to wait for another process.

    Raises:
        TimeoutError: Another process holds it for longer.
        OSError: The folder can't be opened.
    """
    place = folder / ".flux2-mcp-writes" if sys.platform == "win32" else folder
    handle = os.open(place, os.O_RDWR | os.O_CREAT if sys.platform == "win32" else os.O_RDONLY)
    try:
        end = time.monotonic() + seconds
        while not _locked(handle):
            if time.monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, f"another process has held it for {seconds:g} seconds")
            time.sleep(TRY_SECONDS)
        yield
    finally:
        os.close(handle)
        if place != folder:
            with suppress(OSError):  # another process waits with it open
                place.unlink()


def _locked(handle: int) -> bool:
    """Lock an open file, if no other process has locked it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        return exc.errno not in _HELD
    return True


def _sync_folder(folder: Path) -> None:
    """Sync the new name to disk, too. Errors are ignored: the file is in its place, and an error would deny that."""
    if hasattr(os, "O_DIRECTORY"):  # other systems can't open a folder; they write its entries with the file
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
