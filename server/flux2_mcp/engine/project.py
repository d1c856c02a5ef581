"""A project with a flux2.toml: its files, read and written. Sync; call from a thread.

Nothing outside the project's folder is read or written, whatever names it.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from flux2_mcp.domain.manifest import digests, lock, reading
from flux2_mcp.domain.manifest.entries import LOCK, MANIFEST, Entry, Manifest
from flux2_mcp.domain.manifest.lock import LockedImage
from flux2_mcp.domain.manifest.plan import Plan, looked_at, plan
from flux2_mcp.domain.manifest.reading import MAX_ENTRIES
from flux2_mcp.domain.models import StoredImage
from flux2_mcp.errors import InvalidRequestError, ManifestError, Problem, StorageError
from flux2_mcp.images import workspace
from flux2_mcp.system import files
from flux2_mcp.system.known_contents import KnownContents

if TYPE_CHECKING:
    from flux2_mcp.images.derive import DerivedFile

NONE_HERE = (
    'is not in {folder}. It says which pictures the project has: [images."public/hero.png"] with a prompt.'
    " flux2-mcp schema prints what it may hold."
)
FILE_MODE = 0o644
UNFINISHED_SECONDS = 60.0
"""A file that is written for longer belongs to a process that was killed."""
_PART = re.compile(r"\.(.+)\.[0-9a-f]{12}(?:\.flux2-part)?")
"""The names of files that are being written: pictures, and the lock (`system.files`)."""
NOT_THE_ORIGINAL = (
    "its file is not the one that was made, so nothing is made from it. flux2-mcp adopt takes it as it is."
)
CONTENTS = "contents"
"""The folder in FLUX2_HOME with the notes on which files of a project were read."""
HASHERS = 4
"""Threads that read files. Python lets other threads run while one is hashed."""


class Project:
    """A folder with a manifest.

    Args:
        folder: The folder; all paths of the manifest are relative to it.
        name: The manifest's name in it.
        live: Whether FLUX.2 makes the pictures. Those that the sandbox has drawn count as not made then.
        home: FLUX2_HOME, where it is noted which files were read; None: all are read each time.
    """

    def __init__(self, folder: Path, name: str = MANIFEST, *, live: bool = False, home: Path | None = None) -> None:
        self.folder = folder
        self.name = name
        self.live = live
        self._home = home
        self._writing = threading.Lock()
        self._written: tuple[bytes, dict[str, LockedImage]] | None = None

    @cached_property
    def real(self) -> str:
        """The folder with every link in its path followed."""
        return os.path.realpath(self.folder)

    def plan(self) -> Plan:
        """Compare the manifest, the lock and the disk.

        Raises:
            ManifestError: The manifest or the lock can't be used; it names each wrong line.
        """
        made = self.manifest()
        locked = lock.read(self._read(LOCK) or b"")
        known = KnownContents(None if self._home is None else self._home / CONTENTS / f"{self._mark()}.json")
        disk = self.contents(made, looked_at(made, locked), known=known)
        known.keep()
        return plan(made, locked, disk, derive=derived, live=self.live)

    def manifest(self) -> Manifest:
        """Read the manifest. Raises as `plan`."""
        data = self._read(self.name)
        if data is None:
            raise ManifestError(Problem(self.name, NONE_HERE.format(folder=self.folder)))
        return reading.read(data, name=self.name, derive=derived)

    def text(self) -> str:
        """Return the manifest's text as it is, with its own line ends; "" if there is none.

        Raises:
            ManifestError: It is not UTF-8, or can't be read.
        """
        data = self._read(self.name) or b""
        try:
            return data.decode()
        except UnicodeDecodeError:
            reading.read(data, name=self.name)  # it says where
            raise

    def write(self, text: str) -> None:
        """Write the manifest.

        Raises:
            StorageError: It can't be written.
        """
        try:
            files.write_atomically(self.folder / self.name, text.encode(), mode=FILE_MODE, follow=True)
        except OSError as exc:
            raise StorageError(f"{self.name} can't be written: {exc.strerror}.") from exc

    def locked(self, path: str) -> LockedImage | None:
        """Return what the lock says of a picture."""
        candidates = lock.read(self._read(LOCK) or b"").get(path)
        return None if candidates is None else self._chosen(candidates)

    def contents(
        self, made: Manifest, paths: Collection[str], *, known: KnownContents | None = None
    ) -> Mapping[str, str]:
        """Return the SHA-256 of each of these files that is there.

        Args:
            made: The manifest.
            paths: The files.
            known: What earlier plans have read; without it, each file is read.

        Raises:
            ManifestError: One is a link, a folder or a device, or leads outside the project.
        """
        problems: list[Problem] = []
        folders: dict[str, Path | None] = {}

        def one(path: str) -> str | None:
            try:
                return workspace.content(
                    self.folder, path, links=path not in made.outputs, folders=folders, known=known
                )
            except OSError as exc:
                problems.append(Problem(_where(made, path), _unusable(path, exc)))
                return None

        def some(part: Sequence[str]) -> dict[str, str | None]:
            return {path: one(path) for path in part}

        ordered = [*paths]
        found: dict[str, str | None] = {}
        with ThreadPoolExecutor(HASHERS) as pool:  # one job a thread: a job a file takes longer than most files
            for each in pool.map(some, [ordered[number::HASHERS] for number in range(HASHERS)]):
                found |= each
        if problems:
            raise ManifestError(*sorted(problems, key=lambda each: each.field))
        return {path: sha256 for path in ordered if (sha256 := found[path]) is not None}

    def put(self, path: str, source: bytes | StoredImage, *, replaces: Collection[str] | None) -> str:
        """Write a picture under exactly this name; see `workspace.put`.

        Raises:
            FileExistsError: Another file is there.
            StorageError: It can't be written.
        """
        try:
            return workspace.put(self.folder, path, source, replaces=replaces)
        except FileExistsError:
            raise
        except OSError as exc:
            raise StorageError(f"{path} can't be written: {exc.strerror or 'the system refused'}.") from exc

    def derive(self, made: Manifest, entry: Entry, locked: LockedImage, *, overwrite: bool) -> LockedImage | None:
        """Make the files that are made from a picture on this machine. A file that was edited by hand stays.

        Args:
            made: The manifest.
            entry: The picture's entry.
            locked: What the lock says of it.
            overwrite: Replace files that were edited by hand.

        Returns:
            What the lock is to say now; None: the same.

        Raises:
            ManifestError: The picture is too small, or is not the one that was made; or Pillow lacks a format.
            StorageError: A file can't be written.
        """
        if not entry.derives:
            return replace(locked, derived="", files={}) if locked.files else None
        from flux2_mcp.images import derive

        data = self.bytes_of(entry.path)
        if data is None or hashlib.sha256(data).hexdigest() != locked.sha256:
            raise ManifestError(Problem(made.at(entry.toml), NOT_THE_ORIGINAL))
        prompt = made.prompt(entry) if made.style.embed_prompt else None
        try:
            files_made = derive.derive(data, _files(entry), prompt=prompt)
        except InvalidRequestError as exc:
            raise _at_entry(made, entry, exc) from exc
        noted = {}
        for path, content in files_made.items():
            ours = locked.files.get(path)
            try:
                noted[path] = self.put(path, content, replaces=None if overwrite else [ours] if ours else [])
            except FileExistsError:
                noted[path] = hashlib.sha256(content).hexdigest()  # so that a plan knows that another one is there
        return replace(locked, derived=digests.derivation(made, entry), files=noted)

    @staticmethod
    def require_writers(made: Manifest, paths: Iterable[str]) -> None:
        """Check that the files of these pictures can be made on this machine, before anything is paid.

        Raises:
            ManifestError: Pillow lacks a format.
        """
        for path in paths:
            entry = made.entries.get(path)
            if entry is not None and entry.derives:
                from flux2_mcp.images import derive

                try:
                    derive.require_writers(_files(entry))
                except InvalidRequestError as exc:
                    raise _at_entry(made, entry, exc) from exc

    def bytes_of(self, path: str) -> bytes | None:
        """Return a picture's bytes; None if it is not there, or is no plain file in the project."""
        place = workspace.below(self.folder, path)
        try:
            if place is None:
                return None
            with files.open_plain(place) as file:
                return file.read()
        except OSError:
            return None

    def move(self, old: str, new: str, sha256: str, *, overwrite: bool = False) -> bool:
        """Give a picture another name, if it is the one with this SHA-256. Return whether it has that name now.

        Args:
            old: Its name.
            new: Its new name, which must be free.
            sha256: As hex digits.
            overwrite: Replace a file that has the new name.
        """
        before, after = (workspace.below(self.folder, path) for path in (old, new))
        try:
            if before is None or after is None:
                return False
            if workspace.content(self.folder, new) == sha256:
                return True
            if workspace.content(self.folder, old) != sha256 or (os.path.lexists(after) and not overwrite):
                return False
            after.parent.mkdir(parents=True, exist_ok=True)
            before.replace(after)
        except OSError:
            return False
        return True

    def remove(self, path: str, sha256: str) -> None:
        """Remove a file that we made and nobody changed since."""
        place = workspace.below(self.folder, path)
        try:
            if place is not None and workspace.content(self.folder, path) == sha256:
                place.unlink()
        except OSError:
            return  # it is in nobody's way

    def note(self, *images: LockedImage, without: Iterable[str] = ()) -> None:
        """Write pictures into the lock, and take others out. What else is in it stays.

        Raises:
            ManifestError: The lock can't be read.
            StorageError: The lock can't be written.
        """
        with self._writing:
            try:
                with files.alone(self.folder):  # another run may write it, too
                    self._noted(images, without)
            except OSError as exc:
                raise StorageError(f"{LOCK} can't be written: {exc.strerror}.") from exc

    def _noted(self, images: Iterable[LockedImage], without: Iterable[str]) -> None:
        data = self._read(LOCK) or b""
        if self._written is None or self._written[0] != data:
            held = {path: self._chosen(each) for path, each in lock.read(data).items()}
        else:
            held = self._written[1]
        held |= {image.path: image for image in images}
        for path in without:
            held.pop(path, None)
        text = lock.text(held.values()).encode()
        if text != data:
            files.write_atomically(self.folder / LOCK, text, mode=FILE_MODE)
        self._written = (text, held)

    def settle(self) -> None:
        """Take the lines of the other branch out of the lock, where two have made one picture. Raises as `note`."""
        if any(len(candidates) > 1 for candidates in lock.read(self._read(LOCK) or b"").values()):
            self.note()

    def clear(self, made: Manifest) -> None:
        """Remove the unfinished files that killed runs have left beside the files of this project."""
        names = {path.rpartition("/")[2] for path in made.outputs} | {LOCK}
        for above in {path.rpartition("/")[0] for path in (*made.outputs, LOCK)}:
            inside = workspace.below(self.folder, f"{above}/x" if above else "x")
            if inside is None:
                continue
            try:
                left = [path for path in inside.parent.iterdir() if (m := _PART.fullmatch(path.name)) and m[1] in names]
                for path in left:
                    if time.time() - path.stat().st_mtime > UNFINISHED_SECONDS:
                        path.unlink()
            except OSError:
                continue  # the folder is not there yet, or another run was first

    def _chosen(self, candidates: Sequence[LockedImage]) -> LockedImage:
        """Return the one of several candidates whose file is there; see `lock`."""
        first = candidates[0]
        if len(candidates) == 1:
            return first
        try:
            there = workspace.content(self.folder, first.path)
        except OSError:
            there = None
        return lock.choose(candidates, None, there) or first

    def _mark(self) -> str:
        """Return a name for this project that no other one has."""
        return hashlib.sha256(self.real.encode(errors="surrogateescape")).hexdigest()[:16]

    def _read(self, name: str) -> bytes | None:
        """Return a file of the project; None if it is not there."""
        place = workspace.below(self.folder, name)
        if place is None:
            raise ManifestError(Problem(name, workspace.OUTSIDE))
        try:
            with files.open_plain(place) as file:
                return file.read(lock.MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise ManifestError(Problem(name, _unusable(name, exc))) from exc


def project_at(text: str, folders: Sequence[Path], *, live: bool, home: Path | None = None) -> Project:
    """Return the project of a manifest that a caller has named.

    Args:
        text: The manifest's path, or its folder's: absolute, or relative to the first of the folders.
        folders: What the caller works in, the workspace first.
        live: See `Project`.
        home: See `Project`.

    Raises:
        InvalidRequestError: There is no workspace, or the path is outside it.
    """
    if not folders:
        raise InvalidRequestError(Problem("manifest", workspace.NO_WORKSPACE))
    try:
        path = Path(os.path.realpath(folders[0] / Path(text).expanduser()))
        inside = any(path.is_relative_to(os.path.realpath(folder)) for folder in folders)
    except (OSError, ValueError, RuntimeError):  # no system takes a null byte, and `~nobody` has no home
        path, inside = folders[0], False
    if not inside:
        raise InvalidRequestError(Problem("manifest", f"must be a path in the workspace, such as {MANIFEST}."))
    folder, name = (path, MANIFEST) if path.is_dir() else (path.parent, path.name)
    return Project(folder, name, live=live, home=home)


def derived(entry: Entry) -> tuple[str, ...]:
    """Return the paths of the files that are made from an entry's picture.

    Raises:
        InvalidRequestError: Two of them would have one name.
    """
    return tuple(file.name for file in _files(entry)) if entry.derives else ()


def _files(entry: Entry) -> tuple[DerivedFile, ...]:
    return _wanted(entry.path, entry.widths, entry.formats, entry.icons)


@lru_cache(MAX_ENTRIES)
def _wanted(path: str, widths: tuple[int, ...], formats: tuple[str, ...], icons: bool) -> tuple[DerivedFile, ...]:  # noqa: FBT001  # as the cache wants it
    from flux2_mcp.images import derive  # it is needed by few projects, and a plan is asked for often

    return derive.wanted(path, widths=widths, formats=formats, icons=icons)


def _at_entry(made: Manifest, entry: Entry, exc: InvalidRequestError) -> ManifestError:
    """Return an error about an entry's files with its place in the manifest."""
    return ManifestError(*(Problem(made.at((*entry.toml, each.field), value=True), each.text) for each in exc.problems))


def _where(made: Manifest, path: str) -> str:
    """Return where the manifest names a file."""
    if path in made.outputs:
        return made.at(made.entries[made.outputs[path]].toml)
    for entry in made.entries.values():
        if path in entry.sources:
            return made.at((*entry.toml, "sources", entry.sources.index(path)), value=True)
    if path in made.style.sources:
        return made.at(("style", "sources", made.style.sources.index(path)), value=True)
    return f"{LOCK}: {path}"


def _unusable(path: str, exc: OSError) -> str:
    if isinstance(exc, files.NoPlainFileError) or exc.errno:
        return f"{path} can't be used: a link, a folder or a device is there, or the system refused ({exc.strerror})."
    return f"{path} can't be used: {exc.strerror}."
