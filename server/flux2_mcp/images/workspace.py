"""The user's own folders: what may be read from them, and how an image is saved in them. Sync; call from a thread.

Deny by default: nothing outside the workspace (or an allowed folder) is read or written, whatever names it: an absolute
path, `..`, a link, a device file. Only the user can change these folders between a check and its use, and is trusted.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from msgspec import Struct
from msgspec.structs import replace

from flux2_mcp.domain.models import NameOwner, Save, StoredImage
from flux2_mcp.domain.sources import MAX_SOURCE_BYTES, UnreadableError
from flux2_mcp.errors import InvalidRequestError, Problem, Wording
from flux2_mcp.images.decode import KINDS, PictureError, encoded, normal
from flux2_mcp.images.names import SUFFIXES
from flux2_mcp.system import files
from flux2_mcp.system.known_contents import KnownContents

MAX_NUMBER = 1000
PART, CLAIM = ".flux2-part", ".flux2-claim"
"""Suffixes of files that are being written, and of files that reserve a name while a file gets it."""
STALE_SECONDS = 86_400.0
"""Files with these suffixes that are older belong to processes that have ended."""
MAX_PATH_CHARS = 4096
"""Characters. Linux takes this many; other systems take less, except Windows."""
COPY_BYTES = 2**20
"""Bytes that are copied at once."""
QUALITY = 92
"""Quality of a JPEG or WebP to which an image is converted."""

_BINARY: int = getattr(os, "O_BINARY", 0)
GONE = "the workspace is not there any more."
OUTSIDE = "a link on the way leads outside the workspace, or in circles."
NO_WORKSPACE = (
    "there is no workspace: the host names none, and the server was not started in a project's folder."
    " Set FLUX2_WORKSPACE to the folder, or `cwd` in the host's entry for this server."
)


def inside(root: Path, save_to: str) -> str:
    """A path in the workspace, made relative to it. The workspace may be named with or without links in its path.

    A relative path is returned unchanged.

    Raises:
        InvalidRequestError: The path is outside, or is the workspace itself.
    """
    try:
        path = Path(save_to).expanduser()
        if not path.is_absolute():
            return save_to
        # Links are followed, except in the last part. Where `..` leads is known only after that.
        real, base = _real(path) if path.name == ".." else _real(path.parent) / path.name, _real(root)
        ways = ((real, base),) if ".." in path.parts else ((path, root), (path, base), (real, base))
        found = next((way.relative_to(above) for way, above in ways if way.is_relative_to(above)), None)
    except (OSError, ValueError, RuntimeError):  # a link in circles, a path that no system takes, no such user
        found = None
    if found is None or not found.parts:
        where = "stands outside the workspace" if found is None else "is the workspace"
        example = root / "public" / "hero.png"
        raise InvalidRequestError(Problem("save_to", f"{where} {root}; give a place in it, such as {example}."))
    folder = "/" if save_to.endswith(("/", os.sep)) else ""
    return f"{'/'.join(found.parts)}{folder}"


def check(root: Path, save: Save) -> None:
    """Check that an image could be saved there now. Nothing is made.

    Raises:
        InvalidRequestError: A file is there already, or something is in the way, or the path leads outside.
    """
    try:
        trouble = _trouble(root, save)
    except OSError as exc:
        trouble = f"{save.target} can't be used: {exc.strerror}."
    if trouble is not None:
        raise InvalidRequestError(Problem("save_to", trouble))


def _trouble(root: Path, save: Save) -> str | None:
    name, folder = save.target.rstrip("/"), save.target.endswith("/")
    if not root.is_dir():
        return GONE
    if (wanted := below(root, f"{name}/image" if folder else name)) is None:
        return OUTSIDE
    wanted = root / name if folder else wanted
    there = wanted.exists()
    above = wanted if folder and there else next(place for place in wanted.parents if place.exists())
    troubles = (
        (folder and (there or wanted.is_symlink()) and not wanted.is_dir(), f"{name} is a file, not a folder."),
        (
            not folder and (wanted.is_symlink() or (there and not wanted.is_file())),
            f"{name} is a link, a folder or a device: it is never written over.",
        ),
        (
            not folder and there and not save.overwrite,
            Wording("{file} exists; give another name, or {name:overwrite: true} to replace it.", file=name),
        ),
        (not above.is_dir(), f"a part of {name} is a file, not a folder."),
        (not os.access(above, os.W_OK), "its folder can't be written to."),
    )
    return next((text for wrong, text in troubles if wrong), None)


Take = Callable[[Path], NameOwner]
"""Claims a file name for a task; see `contract.Tasks.claim_name`."""


def place(
    root: Path,
    save: Save,
    image: StoredImage,
    index: int,
    *,
    task: str = "",
    take: Take = lambda _: NameOwner.FREE,
) -> StoredImage:
    """Save a copy of a stored image in the workspace. If that fails, the image's `note` says why.

    The name decides the type: an image of another type is converted. If another file has appeared there meanwhile, the
    next free number is used. A second call after a crash finds the first copy and makes no other.

    Args:
        root: The workspace.
        save: Where in it.
        image: A checked image.
        index: The number of the image in its task, from 0.
        task: Identifies the task, in letters and digits: files that a killed process left of it are deleted.
        take: Called right before a file gets its name. If it raises, no file is left behind.
    """
    try:
        return _placed(root, save, image, index, task, take)
    except PictureError as exc:
        reason = exc.message
    except OSError as exc:
        reason = f"{exc.strerror}." if exc.strerror else "the system refused."
    trouble = f"Not saved to {save.target}: {reason} The image itself is safe in its path."
    return replace(image, note=" ".join(filter(None, [image.note, trouble])))


def _placed(root: Path, save: Save, image: StoredImage, index: int, task: str, take: Take) -> StoredImage:
    if not root.is_dir():
        raise OSError(0, GONE.rstrip("."))
    copy, note = _converted(image, save.target)
    target = save.target + Path(image.path).name if save.target.endswith("/") else save.target
    if (wanted := below(root, target)) is None:
        raise OSError(0, OUTSIDE.rstrip("."))
    wanted.parent.mkdir(parents=True, exist_ok=True)
    if index and not save.target.endswith("/"):
        wanted = wanted.with_stem(f"{wanted.stem}-{index + 1}")
    saved = _written(wanted, copy, overwrite=save.overwrite, task=task, take=take)
    if saved != wanted:
        moved = f"{wanted.name} had come to exist meanwhile, so this is {saved.name}."
        note = " ".join(filter(None, [moved, note]))
    note = " ".join(filter(None, [image.note, note])) or None
    changed = None if copy.sha256 == image.sha256 else copy.sha256
    return replace(image, saved=str(saved), saved_sha256=changed, note=note)


def read(
    text: str, folders: Sequence[Path], allowed: Sequence[Path] = (), *, max_bytes: int = MAX_SOURCE_BYTES
) -> bytes:
    """The bytes of a source image.

    Args:
        text: A path, absolute or relative to the first of the folders.
        folders: What the caller works in, the workspace first.
        allowed: What may be read beside them.
        max_bytes: A larger file is refused.

    Raises:
        UnreadableError: The file can't or must not be read. For a path outside, it does not reveal whether a file
            exists.
    """
    try:
        path = Path(text).expanduser()
        if not path.is_absolute() and not folders:
            raise UnreadableError(f"is a relative path, and {NO_WORKSPACE}")
        real = _real(Path(*folders[:1]) / path)  # an absolute path stays what it is
        if not any(real.is_relative_to(_real(folder)) for folder in (*folders, *allowed)):
            raise UnreadableError(
                "stands outside the workspace; move it there, or name its folder in FLUX2_ALLOWED_DIRS."
            )
        try:
            opened = files.open_plain(real)  # a link that was made meanwhile is refused
        except files.NoPlainFileError as exc:
            raise UnreadableError("is no plain file.") from exc
        except FileNotFoundError as exc:
            raise UnreadableError(f"can't be read: there is no such file in {real.parent}.") from exc
        with opened as file:
            if os.fstat(file.fileno()).st_size > max_bytes:
                raise UnreadableError(f"is larger than {max_bytes // 2**20} MB.")
            return file.read(max_bytes + 1)
    except (OSError, ValueError, RuntimeError) as exc:  # no system takes a null byte, and `~nobody` has no home
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "no usable path"
        raise UnreadableError(f"can't be read: {reason}.") from exc


def put(root: Path, target: str, source: bytes | StoredImage, *, replaces: Collection[str] | None) -> str:
    """Write a file under exactly this name, and return its SHA-256 as hex digits. A reader sees the old file or the new one.

    Args:
        root: The folder that the file must be in.
        target: Relative to it, with `/`. Its suffix decides the type of an image.
        source: The file's bytes, or an image to copy.
        replaces: The SHA-256 of the files that may be replaced; None: any plain file may be.

    Raises:
        FileExistsError: Another file is there, or a link, a folder or a device.
        OSError: The system refused, or the path leads outside.
        PictureError: The image can't be converted.
    """
    if (place := below(root, target)) is None:
        raise OSError(0, OUTSIDE.rstrip("."))
    copy = _Copy.of(source) if isinstance(source, bytes) else _converted(source, target)[0]
    if copy.is_at(place):
        return copy.sha256
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.{secrets.token_hex(6)}{PART}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666), "wb") as file:
            copy.write(file)
            file.flush()
            os.fsync(file.fileno())
        if not _replaced(part, place, replaces) and not copy.is_at(place):  # another process may have written the same
            raise FileExistsError(0, "another file is there")
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    return copy.sha256


def _replaced(part: Path, place: Path, replaces: Collection[str] | None) -> bool:
    """Give a complete file its name; False if a file has that name that may not be replaced. See `put`."""
    if not os.path.lexists(place):
        try:
            _name(part, place)
        except FileExistsError:
            return False
        return True
    if place.is_symlink() or not place.is_file() or (replaces is not None and _sha256(place) not in replaces):
        return False
    part.replace(place)
    return True


def _sha256(place: Path) -> str:
    digest = hashlib.sha256()
    with files.open_plain(place) as file:
        while piece := file.read(COPY_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def content(
    root: Path,
    relative: str,
    *,
    links: bool = False,
    folders: dict[str, Path | None] | None = None,
    known: KnownContents | None = None,
) -> str | None:
    """Return the SHA-256 of a file below a folder, as hex digits; None if nothing is there.

    Args:
        root: The folder.
        relative: The path in it, with `/`.
        links: Whether the file itself may be a link to one in the folder.
        folders: Where the folders of earlier calls lead. To follow each link again for each file takes as long as its bytes.
        known: What earlier runs have read; without it, the file is read.

    Raises:
        OSError: It is a link, a folder or a device, or the path leads outside, or the system refused.
    """
    above, _, name = relative.rpartition("/")
    led = {} if folders is None else folders
    if above not in led:
        inside = below(root, relative)
        led[above] = None if inside is None else inside.parent
    folder = led[above]
    place = None if folder is None else folder / name
    if place is not None and links and place.is_symlink():
        real = _real(place)
        place = real if real.is_relative_to(_real(root)) else None
    if place is None:
        raise OSError(0, OUTSIDE.rstrip("."))
    try:
        if known is None:
            return _sha256(place)
        with files.open_plain(place) as file:
            return known.sha256(file)
    except (FileNotFoundError, NotADirectoryError):
        return None


def below(root: Path, relative: str) -> Path | None:
    """The path with every link followed, except in its last part; None if it leads outside or in circles."""
    real = _real(root)
    wanted = real / relative
    try:
        folder = _real(wanted.parent)
    except OSError:
        return None
    return folder / wanted.name if folder.is_relative_to(real) else None


def _real(path: Path) -> Path:
    """The path with every link in it followed.

    `Path.resolve` raises RuntimeError on a loop of links up to Python 3.12; from 3.13 on it returns the loop unchanged.

    Raises:
        OSError: Links lead in circles, or the path is too long: each part of it would be read from disk.
    """
    if len(os.fspath(path)) > MAX_PATH_CHARS:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    real = Path(os.path.realpath(path))
    if any(map(os.path.islink, (real, *real.parents))):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return real


class _Copy(Struct, frozen=True):
    """What is to be saved: bytes, or a file, which may be too large to be in memory; its size in bytes and its SHA-256."""

    source: bytes | Path
    size: int
    sha256: str

    @classmethod
    def of(cls, source: bytes | Path) -> _Copy:
        if isinstance(source, bytes):
            return cls(source, len(source), hashlib.sha256(source).hexdigest())
        with source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(source, file.tell(), sha256)

    def write(self, target: BinaryIO) -> None:
        if isinstance(self.source, bytes):
            target.write(self.source)
        else:
            with self.source.open("rb") as file:
                shutil.copyfileobj(file, target, COPY_BYTES)

    def is_at(self, place: Path) -> bool:
        """Whether a plain file with exactly these bytes is there."""
        if not place.is_file() or place.is_symlink() or place.stat().st_size != self.size:
            return False
        with place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


def _converted(image: StoredImage, target: str) -> tuple[_Copy, str | None]:
    path = Path(image.path)
    wanted = None if target.endswith("/") else SUFFIXES[PurePosixPath(target).suffix.lower()]
    if wanted is None or KINDS[wanted][0] == image.mime_type:
        return _Copy.of(path), None
    with normal(path, target=wanted) as (_, picture):
        data = encoded(picture, wanted, quality=QUALITY)
        clear = picture.mode == "RGBA" and picture.getchannel("A").getextrema() != (255, 255)
    note = f"Converted from {image.mime_type} to {KINDS[wanted][0]}, as its name asks for"
    return _Copy.of(data), f"{note}; what was transparent is white." if clear and wanted == "JPEG" else f"{note}."


def _written(wanted: Path, copy: _Copy, *, overwrite: bool, task: str, take: Take) -> Path:
    """Write a whole file or none, under the wanted name or that name with the next free number."""
    _clear(wanted, task)
    # A random name: no other thread or process writes to it.
    part = wanted.with_name(f".{wanted.name}.{task}-{secrets.token_hex(6)}{PART}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666), "wb") as file:
            copy.write(file)
            file.flush()
            os.fsync(file.fileno())
        for number in range(1, MAX_NUMBER):
            place = wanted if number == 1 else wanted.with_stem(f"{wanted.stem}-{number}")
            if _put(part, place, copy, take, overwrite=overwrite and number == 1):
                return place
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    raise FileExistsError(0, f"{MAX_NUMBER} files of that name are there already")


def _put(part: Path, place: Path, copy: _Copy, take: Take, *, overwrite: bool) -> bool:
    """Give a complete file its name. False if a file with other bytes has that name."""
    plain, same = not place.is_symlink() and (place.is_file() or not place.exists()), copy.is_at(place)
    if os.path.lexists(place) and not (same or (overwrite and plain)):
        return False
    whose = take(place)  # even if the same bytes are there: another task could claim the name and overwrite it
    if same or whose is NameOwner.TAKEN:
        return copy.is_at(place)  # another process may have written it before the claim
    if overwrite and plain and whose is NameOwner.FREE:
        part.replace(place)
        return True
    try:
        _name(part, place)
    except FileExistsError:
        return False
    return True


def _name(part: Path, place: Path) -> None:
    """Rename a file to a name that must be free.

    Raises:
        FileExistsError: The name is taken.
    """
    if hasattr(os, "link"):
        try:
            os.link(part, place)
        except FileExistsError:
            raise
        except OSError:
            pass  # a disk without hard links
        else:
            return
    # A rename would replace a file made since the check. So the check and the rename are guarded by a claim file.
    claim = place.with_name(f".{place.name}{CLAIM}")
    os.close(os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    try:
        if os.path.lexists(place):
            raise FileExistsError
        part.rename(place)
    finally:
        claim.unlink()


def _clear(wanted: Path, task: str) -> None:
    """Delete unfinished files of killed processes: those of this task, which no other process holds, and old ones."""
    for path in wanted.parent.iterdir():
        if path.name.startswith(".") and path.name.endswith((PART, CLAIM)):
            with suppress(OSError):
                ours = (task and f".{task}-" in path.name) or path.name == f".{wanted.name}{PART}"
                if ours or time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()
