"""Whole files: one is written beside its place and takes it at once, so that a reader sees the old or the new, never half of one."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PRIVATE_MODE = 0o600
_BINARY: int = getattr(os, "O_BINARY", 0)


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
    """Give a file its content. What fails leaves what stood there as it was, and nothing beside it.

    Args:
        path: The file; its folder must be there.
        data: All of it.
        mode: The rights that it has in its place. Until then it is its owner's alone.
        follow: A link stays one, and the file that it leads to is written; else the link is replaced.
        replace: What stands there is replaced; else it stays.
        durable: It is on disk before it takes its place.
        prepare: Called with the whole new file before it takes its place.

    Raises:
        FileExistsError: Something stands there that is not to be replaced.
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


def _sync_folder(folder: Path) -> None:
    """So that the new name, too, is on disk. The file stands by now: to refuse here would tell that it does not."""
    if hasattr(os, "O_DIRECTORY"):  # elsewhere a folder can't be opened, and its entries are written with the file
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
