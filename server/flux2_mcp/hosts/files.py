"""Configuration files on disk: read with a limit of size, written whole or not at all, with a backup beside them.

Links are followed: the file behind a link is edited, and the link stays. Mode and owner stay: a file whose owner would
change by the replacement is refused.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path, PurePath

from msgspec import Struct

from flux2_mcp.errors import HostFileError
from flux2_mcp.system.files import write_atomically

MAX_FILE_BYTES = 16 * 1024 * 1024
"""Bytes. The largest files of hosts have a few MB."""
BACKUP_SUFFIX = ".flux2-backup"
FOLDER_MODE = 0o700


class File(Struct, frozen=True):
    """A file as it was read. `path` has its links followed; `text` is None if there is no file yet."""

    path: Path
    text: str | None


def first(paths: tuple[PurePath, ...]) -> tuple[Path, ...]:
    """Those of the paths that exist, in order; if none does, the path to make. A `*` is matched against folders."""
    found = [match for path in paths for match in _matches(Path(path))]
    return tuple(path for path in found if os.path.lexists(path)) or tuple(found[:1])


def _matches(path: Path) -> list[Path]:
    """The paths that match a pattern. Only folders are matched, so that a file in one may be new."""
    wild = next((part for part in path.parts if "*" in part), None)
    if wild is None:
        return [path]
    at = path.parts.index(wild)
    root, rest = Path(*path.parts[:at]), path.parts[at + 1 :]
    folders = root.glob(wild) if is_there(root) else ()
    return sorted(folder.joinpath(*rest) for folder in folders if is_there(folder.joinpath(*rest[:-1])))


def is_there(path: Path) -> bool:
    """Whether a path exists, as far as this user may see."""
    return os.path.exists(path)  # noqa: PTH110  # pathlib's raises if a folder can't be read


def read(path: Path) -> File:
    """A file's text, line ends and byte order mark included.

    Raises:
        HostFileError: The file can't be read, is too large, is no plain file, or is not UTF-8.
    """
    target = Path(os.path.realpath(path))
    try:
        kind = target.stat()
        if not stat.S_ISREG(kind.st_mode):
            raise HostFileError("this is not a plain file", path=str(path), next_step=f"Look at what {path} is.")
        if kind.st_size > MAX_FILE_BYTES:
            why = f"the file has {kind.st_size:,} bytes, and more than {MAX_FILE_BYTES:,} are not read"
            raise HostFileError(why, path=str(path), next_step=f"Make {path} smaller, then run again.")
        content = target.read_bytes()
    except FileNotFoundError:
        return File(target, None)
    except OSError as exc:
        raise _refused(exc, path) from exc
    try:
        return File(target, content.decode())
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise HostFileError("this is not UTF-8", line=line, path=str(path)) from exc


def may_mention(path: Path, word: str) -> bool:
    """Whether a file that `read` refuses may hold a word: it does, in some encoding, or it can't be searched."""
    try:
        if not path.is_file():
            return False
        content = b"" if path.stat().st_size > MAX_FILE_BYTES else path.read_bytes()
    except OSError:
        return True
    return not content or any(word.encode(code) in content for code in ("utf-8", "utf-16-le", "utf-16-be"))


def replace(file: File, text: str | None, *, keep: str | None = None) -> Path | None:
    """Write a file's new text, or delete the file if that is None. Returns the path of the backup, if there is one.

    Args:
        file: The file as it was read.
        text: Its new text.
        keep: The text for the backup; None: the file's present text. If it equals the new text, no backup is kept.

    Raises:
        HostFileError: The file is read-only, belongs to another user, was changed meanwhile, or the system refused. It
            is unchanged.
    """
    try:
        return _replace(file, text, file.text if keep is None else keep)
    except OSError as exc:
        raise _refused(exc, file.path) from exc


def backup(file: File) -> Path:
    """The path of a file's backup."""
    return file.path.with_name(file.path.name + BACKUP_SUFFIX)


def before(file: File) -> str | None:
    """The text of the backup, or None if there is none that can be read."""
    try:
        return read(backup(file)).text
    except HostFileError:
        return None


def _replace(file: File, text: str | None, keep: str | None) -> Path | None:
    kept = backup(file)
    if file.text is None or keep is None:
        if file.path.exists():
            raise _meanwhile(file)
        if text is not None:
            file.path.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
            _write(file.path, text, None)
        return None
    kind = file.path.stat()
    if not kind.st_mode & stat.S_IWUSR or not os.access(file.path, os.W_OK):
        raise HostFileError("the file is read-only", path=str(file.path), next_step=f"Make {file.path} writable first.")
    if file.path.read_bytes() != file.text.encode():
        raise _meanwhile(file)
    if os.path.lexists(kept) and not stat.S_ISREG(kept.lstat().st_mode):
        raise HostFileError("its backup is no plain file", path=str(kept), next_step=f"Remove {kept}, then run again.")
    if text is None:
        file.path.unlink()
    if text is None or keep == text:
        # A deleted file held only our entry, and a restored file equals its backup: neither needs a copy.
        if text is not None:
            _write(file.path, text, kind)
        kept.unlink(missing_ok=True)
        return None
    _write(kept, keep, kind)
    _write(file.path, text, kind)
    return kept


class MadeFolders:
    """The folders that are made for a new file. They are recorded in a file of ours before they are made.

    A host's folder is also the sign that the host is installed: an empty one must not be left behind. An empty folder
    that was there before must not be removed.

    Args:
        record: The file. It exists only while it has content.
    """

    def __init__(self, record: Path) -> None:
        self._record = record

    def for_file(self, path: Path) -> None:
        """Record the folders that are about to be made for a file. If that fails, they will not be removed later."""
        with suppress(OSError, HostFileError):
            if missing := _missing(path):
                missing += _missing(self._record)
                self._record.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
                self._write([*self._read(), *missing])

    def clear(self, path: Path) -> None:
        """Remove the folders of a deleted file, upwards, as long as they are recorded and empty."""
        with suppress(OSError, HostFileError):
            made = self._read()
            _remove(path, made)
            left = [folder for folder in made if Path(folder).is_dir()]
            if set(left) - {str(folder) for folder in self._record.parents}:
                self._write(left)
            elif made:
                self._record.unlink()
                _remove(self._record, left)

    def _read(self) -> list[str]:
        return (read(self._record).text or "").splitlines()

    def _write(self, folders: list[str]) -> None:
        _write(self._record, "".join(f"{folder}\n" for folder in dict.fromkeys(folders)), None)


def _missing(path: Path) -> list[str]:
    """The missing folders above a file, the deepest first."""
    return [str(folder) for folder in path.parents if not is_there(folder)]


def _remove(path: Path, made: list[str]) -> None:
    """Remove the empty folders above a path, up to the first that is not empty or not recorded."""
    with suppress(OSError):
        for folder in path.parents:
            if str(folder) not in made:
                return
            if is_there(folder):  # some are missing if one could not be made
                folder.rmdir()


def _meanwhile(file: File) -> HostFileError:
    return HostFileError("another program has just changed the file", path=str(file.path), next_step="Run it again.")


def _write(path: Path, text: str, like: os.stat_result | None) -> None:
    """Write a file whole or not at all, with the owner and the mode of the file that it replaces."""
    if like is None:
        write_atomically(path, text.encode())
    else:
        mode = stat.S_IMODE(like.st_mode)
        write_atomically(path, text.encode(), mode=mode, prepare=lambda new: _keep_owner(new, like, path))


def _keep_owner(new: Path, like: os.stat_result, path: Path) -> None:
    if hasattr(os, "chown"):
        ours = new.stat()
        if (ours.st_uid, ours.st_gid) != (like.st_uid, like.st_gid):
            try:
                os.chown(new, like.st_uid, like.st_gid)
            except PermissionError as exc:
                raise HostFileError(
                    "the file belongs to another user or group", path=str(path), next_step="Run it as that user."
                ) from exc


def _refused(exc: OSError, path: Path) -> HostFileError:
    return HostFileError(
        f"the system refused: {exc.strerror or type(exc).__name__}",
        path=str(path),
        next_step=f"See that you may read and write {path} and its folder, then run again.",
    )
