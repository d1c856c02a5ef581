"""What is to do so that the pictures on disk are those of flux2.toml. Pure: what is on disk is handed in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct, field

from flux2_mcp.domain.account_names import SANDBOX
from flux2_mcp.domain.manifest import digests, lock, reading
from flux2_mcp.domain.manifest.digests import PARTS
from flux2_mcp.domain.manifest.entries import Entry, Manifest, is_remote
from flux2_mcp.domain.manifest.lock import Lock, LockedImage
from flux2_mcp.domain.toml_places import TomlPath
from flux2_mcp.errors import ManifestError, Problem


class Standing(StrEnum):
    """How a picture stands.

    NEW: it was never made. CHANGED: its request is another than that of its file. MISSING: its file is not there.
    EDITED: its file is another than the one that was made. MOVED: it was made under another name. DERIVE: files made
    from it are missing or of another kind. UNNAMED: it is in flux2.lock alone. CURRENT: nothing is to do.
    """

    NEW = "new"
    CHANGED = "changed"
    MISSING = "missing"
    EDITED = "edited"
    MOVED = "moved"
    DERIVE = "derive"
    UNNAMED = "unnamed"
    CURRENT = "current"


MAKES = frozenset({Standing.NEW, Standing.CHANGED})
"""The standings of pictures whose request has to be made; what is only missing mostly comes back for nothing."""


class PlannedImage(Struct, frozen=True, kw_only=True):
    """One picture, and what is to do about it.

    Attributes:
        path: As in flux2.toml; of one that is unnamed, as in flux2.lock.
        standing: See `Standing`.
        changed: What changed of the request: some of `digests.PARTS`; or that the sandbox has drawn it.
        edited: A file is there that is not the one in flux2.lock. It is only replaced if the user says so.
        request: The digest of the request; None: a source has to be made first.
        parts: The digests of the request's parts, if it is known.
        number: Its place among the entries that ask for the same, from 1: each of them gets a picture of its own.
        moved_from: Where it stood before.
        waits_for: The entries whose pictures are sources of this one, and have to be made first.
        derive: The files that have to be made from the picture.
        edited_files: The files made from it that are others than those in flux2.lock; see `edited`.
        locked: What flux2.lock says of it.
    """

    path: str
    standing: Standing
    changed: tuple[str, ...] = ()
    edited: bool = False
    request: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    number: int = 1
    moved_from: str | None = None
    waits_for: tuple[str, ...] = ()
    derive: tuple[str, ...] = ()
    edited_files: tuple[str, ...] = ()
    locked: LockedImage | None = None


class Plan(Struct, frozen=True, kw_only=True):
    """What is to do about each picture: those of flux2.toml in its order, then those of flux2.lock alone."""

    manifest: Manifest
    images: tuple[PlannedImage, ...]

    @property
    def done(self) -> bool:
        """Whether nothing is to do."""
        return all(image.standing is Standing.CURRENT for image in self.images)

    def counts(self) -> Mapping[Standing, int]:
        """Return how many pictures stand how, in the order of `Standing`."""
        found = [image.standing for image in self.images]
        return {standing: found.count(standing) for standing in Standing if standing in found}


def plan(
    made: Manifest,
    locked: Lock,
    disk: Mapping[str, str],
    *,
    derive: reading.Derive = reading.nothing,
    live: bool = False,
) -> Plan:
    """Compare what flux2.toml says, what flux2.lock says, and what is on disk.

    Args:
        made: What flux2.toml says.
        locked: What flux2.lock says.
        disk: The SHA-256 of each file that is there, of those that `looked_at` names.
        derive: As for `reading.read`.
        live: Whether pictures that the sandbox has drawn have to be made.

    Raises:
        ManifestError: A source is not there, or a width is above that of its original.
    """
    planner = _Planner(made, locked, disk, derive, live=live)
    images = tuple(planner.images())
    planner.refuse()
    return Plan(manifest=made, images=images)


def looked_at(made: Manifest, locked: Lock) -> Collection[str]:
    """Return the files whose content decides about a plan, relative to the project."""
    sources = (source for entry in made.entries.values() for source in made.sources(entry) if not is_remote(source))
    in_lock = (file for each in locked.values() for one in each for file in (one.path, *one.files))
    return {*made.outputs, *sources, *in_lock}


class _Planner:
    def __init__(
        self, made: Manifest, locked: Lock, disk: Mapping[str, str], derive: reading.Derive, *, live: bool
    ) -> None:
        self._made = made
        self._locked = locked
        self._disk = disk
        self._derive = derive
        self._live = live
        self._planned: dict[str, PlannedImage] = {}
        self._problems: dict[str, Problem] = {}
        self._left = {path: each for path, each in locked.items() if path not in made.entries}
        self._numbers = _numbers(made)

    def images(self) -> Iterator[PlannedImage]:
        """Return all pictures; those that others need are planned before them."""
        for path in sorted(self._made.entries):
            self._reach(path)
        moved = {image.moved_from for image in self._planned.values()}
        yield from (self._planned[path] for path in self._made.entries)
        for path in sorted(self._left.keys() - moved):
            [one, *_] = self._left[path]
            yield PlannedImage(path=path, standing=Standing.UNNAMED, locked=one)

    def refuse(self) -> None:
        if self._problems:
            raise ManifestError(*self._problems.values())

    def _reach(self, path: str) -> None:
        """Plan an entry after those that it needs; a manifest has no circles."""
        stack = [path]
        while stack:
            here = stack[-1]
            needed = [each for each in reading.needs(self._made, self._made.entries[here]) if each not in self._planned]
            if needed and here not in self._planned:
                stack += needed
            else:
                stack.pop()
                if here not in self._planned:
                    self._planned[here] = self._one(self._made.entries[here])

    def _one(self, entry: Entry) -> PlannedImage:
        contents, waits_for = self._contents(entry)
        parts = {} if waits_for else digests.parts(self._made, entry, contents)
        request = digests.request(parts) if parts else None
        there = self._disk.get(entry.path)
        locked = lock.choose(self._locked.get(entry.path, ()), request, there)
        moved_from = self._moved_from(request) if locked is None else None
        if moved_from is not None:
            locked = lock.choose(self._left[moved_from], request, None)
        drawn = locked is not None and locked.sandbox and self._live
        same = locked is not None and locked.request == request and not drawn
        edited = there is not None and (locked is None or there != locked.sha256)
        if locked is None:
            standing = Standing.NEW
        elif not same:
            standing = Standing.CHANGED
        elif moved_from is not None and locked.sha256 in {there, self._disk.get(moved_from)}:
            standing = Standing.MOVED
        elif there is None or moved_from is not None:
            standing = Standing.MISSING
        else:
            standing = Standing.EDITED if edited else Standing.CURRENT
        kept = locked if same else None
        self._check_widths(entry, kept)
        wanted: Sequence[str] = self._derive(entry) if entry.derives else ()
        lacking = self._lacking(entry, wanted, kept)
        strange = self._edited_files(wanted, locked)
        if standing is Standing.CURRENT and (lacking or (locked is not None and not set(locked.files) <= set(wanted))):
            standing = Standing.DERIVE
        elif standing is Standing.CURRENT and strange:
            standing = Standing.EDITED
        changed = () if locked is None or same else self._changed(locked, contents, entry)
        if drawn and not changed:
            changed = (SANDBOX,)
        return PlannedImage(
            path=entry.path,
            standing=standing,
            changed=changed,
            edited=edited,
            request=request,
            parts=parts,
            number=self._numbers[entry.path],
            moved_from=moved_from,
            waits_for=waits_for,
            derive=lacking,
            edited_files=strange,
            locked=locked,
        )

    def _contents(self, entry: Entry) -> tuple[Mapping[str, str], tuple[str, ...]]:
        """Return what identifies each source; and the entries that have to be made before that is known."""
        contents: dict[str, str] = {}
        waits_for: dict[str, None] = {}
        for source, path in self._named_sources(entry):
            whose = self._made.outputs.get(source)
            planned = None if whose is None else self._planned[whose]
            if is_remote(source):
                contents[source] = source
            elif whose is not None and planned is not None and planned.standing in MAKES:
                waits_for[whose] = None
            elif (found := self._content(source, planned)) is not None:
                contents[source] = f"sha256:{found}"
            elif whose is not None:
                waits_for[whose] = None
            else:
                text = "is not there: a source is a file in the project, of another entry, or an https URL."
                field = self._made.at(path, value=True)
                self._problems.setdefault(field, Problem(field, text))
                contents[source] = ""
        return contents, tuple(waits_for)

    def _content(self, source: str, planned: PlannedImage | None) -> str | None:
        """Return the SHA-256 of a source: of the file that is there, else of the one that will be back."""
        there = self._disk.get(source)
        if planned is None or planned.locked is None:
            return there
        if source == planned.path:
            return there or planned.locked.sha256
        before = _renamed(source, planned.path, planned.moved_from or planned.path)
        return there or planned.locked.files.get(before)

    def _named_sources(self, entry: Entry) -> Iterator[tuple[str, TomlPath]]:
        for number, source in enumerate(entry.sources):
            yield source, (*entry.toml, "sources", number)
        if (style := self._made.styled(entry)) is not None:
            for number, source in enumerate(style.sources):
                yield source, ("style", "sources", number)

    def _moved_from(self, request: str | None) -> str | None:
        """Return the picture of flux2.lock alone that has this request and is not taken by another entry."""
        taken = {image.moved_from for image in self._planned.values()}
        return next(
            (
                path
                for path in sorted(self._left.keys() - taken)
                if any(each.request == request for each in self._left[path])
            ),
            None,
        )

    def _changed(self, locked: LockedImage, contents: Mapping[str, str], entry: Entry) -> tuple[str, ...]:
        """Return which parts of a request changed; one with a source that has to be made first did."""

        def same(name: str) -> bool:
            try:
                return digests.part(name, self._made, entry, contents)[: digests.PART_DIGITS] == locked.parts[name]
            except KeyError:
                return False

        return tuple(name for name in PARTS if not same(name))

    def _check_widths(self, entry: Entry, locked: LockedImage | None) -> None:
        """Note the widths that are above the width that the original has."""
        if locked is None:
            return
        for number, why in reading.too_wide(entry, locked.size[0]):
            field = self._made.at((*entry.toml, "widths", number), value=True)
            self._problems[field] = Problem(field, why)

    def _lacking(self, entry: Entry, wanted: Sequence[str], locked: LockedImage | None) -> tuple[str, ...]:
        """Return the files that have to be made from a picture: those that are missing, or all if anything else is new."""
        if locked is None or (wanted and locked.derived != digests.derivation(self._made, entry)):
            return tuple(wanted)
        return tuple(path for path in wanted if path not in self._disk or path not in locked.files)

    def _edited_files(self, wanted: Sequence[str], locked: LockedImage | None) -> tuple[str, ...]:
        """Return the files that are to be made from a picture where another file is than the one that was made."""
        files: Mapping[str, str] = {} if locked is None else locked.files
        return tuple(path for path in wanted if path in self._disk and self._disk[path] != files.get(path))


def _renamed(copy: str, path: str, other: str) -> str:
    """Return the name that a picture's copy would have if the picture had another."""
    stem = path.rpartition(".")[0]
    return other.rpartition(".")[0] + copy.removeprefix(stem) if copy.startswith(stem) else copy


def _numbers(made: Manifest) -> Mapping[str, int]:
    """Return each entry's number among those that ask for the same, by its path. What is on disk does not change it."""
    counts: dict[str, int] = {}
    numbers = {}
    for path in sorted(made.entries):
        entry = made.entries[path]
        shape = repr((entry.prompt, entry.sources, entry.style, sorted(entry.settings.items())))
        counts[shape] = numbers[path] = counts.get(shape, 0) + 1
    return numbers


def contents_of(made: Manifest, entry: Entry, disk: Mapping[str, str]) -> Mapping[str, str] | None:
    """Return what identifies each source of an entry, if all of them are on disk now; otherwise None."""
    found = {
        source: source if is_remote(source) else f"sha256:{disk[source]}"
        for source in made.sources(entry)
        if is_remote(source) or source in disk
    }
    return found if len(found) == len({*made.sources(entry)}) else None
