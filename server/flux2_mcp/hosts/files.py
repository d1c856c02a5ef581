"""Configuration files on disk: read with a limit, written whole or not at all, with what stood before beside them.

A link is followed, so that the file it leads to is edited and the link stays one. The mode stays, and so does the owner: a file
that would change hands by being replaced is refused.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from flux2_mcp.errors import HostFileError
from flux2_mcp.system.files import write_atomically

MAX_FILE_BYTES = 16 * 1024 * 1024
"""Bytes. The largest that hosts keep are a few MB."""
BACKUP_SUFFIX = ".flux2-backup"
FOLDER_MODE = 0o700


@dataclass(frozen=True, slots=True)
class File:
    """A file as it was read: `path` is where links lead to, `text` None where there is none yet."""

    path: Path
    text: str | None


def first(paths: tuple[PurePath, ...]) -> tuple[Path, ...]:
    """Those of the paths that are there, in order; where none is, the one to make. A `*` is matched against folders."""
    found = [match for path in paths for match in _matches(Path(path))]
    return tuple(path for path in found if os.path.lexists(path)) or tuple(found[:1])


def _matches(path: Path) -> list[Path]:
    """The paths that a pattern stands for; only folders are matched, so that a file in one may be new."""
    wild = next((part for part in path.parts if "*" in part), None)
    if wild is None:
        return [path]
    at = path.parts.index(wild)
    root, rest = Path(*path.parts[:at]), path.parts[at + 1 :]
    folders = root.glob(wild) if is_there(root) else ()
    return sorted(folder.joinpath(*rest) for folder in folders if is_there(folder.joinpath(*rest[:-1])))


def is_there(path: Path) -> bool:
    """Whether there is something at a path that can be looked at."""
    return os.path.exists(path)  # noqa: PTH110  # pathlib's raises where the system refuses to look


def read(path: Path) -> File:
    """A file's text, line ends and byte order mark included.

    Raises:
        HostFileError: It can't be read, is too large, no plain file, or not UTF-8.
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
    """Whether a word may stand in a file that `read` refuses: it does, in some encoding, or nobody can look."""
    try:
        if not path.is_file():
            return False
        content = b"" if path.stat().st_size > MAX_FILE_BYTES else path.read_bytes()
    except OSError:
        return True
    return not content or any(word.encode(code) in content for code in ("utf-8", "utf-16-le", "utf-16-be"))


def replace(file: File, text: str | None, *, keep: str | None = None) -> Path | None:
    """Give a file its new text, or take it away where that is None. Gives its backup, if it has one.

    Args:
        file: As it was read.
        text: Its new text.
        keep: What the backup is to hold where not what stands in the file now. Where that is the new text, there is none.

    Raises:
        HostFileError: It is read-only, somebody else's, was changed meanwhile, or the system refused. It stands as it did.
    """
    try:
        return _replace(file, text, file.text if keep is None else keep)
    except OSError as exc:
        raise _refused(exc, file.path) from exc


def backup(file: File) -> Path:
    """Where what stood in a file before is kept."""
    return file.path.with_name(file.path.name + BACKUP_SUFFIX)


def before(file: File) -> str | None:
    """What the backup holds; None where there is none that can be read."""
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
        # What is taken away was all ours; what is brought back needs no copy.
        if text is not None:
            _write(file.path, text, kind)
        kept.unlink(missing_ok=True)
        return None
    _write(kept, keep, kind)
    _write(file.path, text, kind)
    return kept


class MadeFolders:
    """The folders that are made for a new file, written down in a file of ours before they are.

    A host's folder is also the sign that the host is there: one that is left behind empty would be taken for it. And an empty one
    that was there before is not ours to remove.

    Args:
        record: The file. It is there only while there is something in it.
    """

    def __init__(self, record: Path) -> None:
        self._record = record

    def for_file(self, path: Path) -> None:
        """Write down the folders that are about to be made for a file. What can't be written down stays behind empty some day."""
        with suppress(OSError, HostFileError):
            if missing := _missing(path):
                missing += _missing(self._record)
                self._record.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
                self._write([*self._read(), *missing])

    def clear(self, path: Path) -> None:
        """Remove the folders of a file that is gone, as far up as they were made for it and are empty."""
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
    """The folders that a file needs and that are not there, the deepest first."""
    return [str(folder) for folder in path.parents if not is_there(folder)]


def _remove(path: Path, made: list[str]) -> None:
    """Remove the folders above a path that are empty, up to the first that is not, or was not made."""
    with suppress(OSError):
        for folder in path.parents:
            if str(folder) not in made:
                return
            if is_there(folder):  # not all of them are there where one could not be made
                folder.rmdir()


def _meanwhile(file: File) -> HostFileError:
    return HostFileError("another program has just changed the file", path=str(file.path), next_step="Run it again.")


def _write(path: Path, text: str, like: os.stat_result | None) -> None:
    """Write it whole or not at all, for the same owner and with the same rights as what it takes the place of."""
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
