"""Reads flux2.toml. Whatever is wrong in it is refused with its line and column, before anything is sent."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf, isqrt
from typing import Any

from msgspec import Struct

from flux2_mcp.domain import catalog, finishing, paths
from flux2_mcp.domain.manifest.entries import (
    FORMATS,
    MANIFEST,
    SUFFIXES,
    Entry,
    Manifest,
    Style,
    is_remote,
    located,
)
from flux2_mcp.domain.toml_places import MAX_KEY_PARTS, Place, Places, TomlPath, long_key, places
from flux2_mcp.errors import InvalidRequestError, ManifestError, Problem, meant, reworded, shortened

MAX_BYTES = 1_000_000
"""Bytes of flux2.toml."""
MAX_ENTRIES = 1000
MAX_WIDTHS = 32
"""Copies of one picture."""
MAX_FOUND = 200
"""Wrong places that are looked for; a message names fewer."""
MAX_CIRCLE = 8
"""Pictures of a circle that a message names."""
MAX_WIDTH_PX = 16_383
"""The widest WebP."""
NAMES = {"source_images": "sources"}
"""What the manifest calls the arguments of `generate`, where it has other names."""

Derive = Callable[[Entry], Sequence[str]]
"""Returns the paths of the files that are made from an entry's picture; it decodes nothing."""

_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_KINDS = {bool: "true or false", str: "a string", int: "a whole number", list: "a list", dict: "a table"}


def nothing(_: Entry) -> Sequence[str]:
    """Derive nothing."""
    return ()


def read(data: bytes, *, name: str = MANIFEST, derive: Derive = nothing) -> Manifest:
    """Read and check a manifest.

    Args:
        data: The file.
        name: What messages call it.
        derive: See `Derive`; two entries that write one file are found by it.

    Raises:
        ManifestError: It names each wrong place.
    """
    if len(data) > MAX_BYTES:
        raise _error(name, Place(1, 1), f"has {len(data):,} bytes; at most {MAX_BYTES:,} are read.")
    text = _decoded(data, name)
    if (place := long_key(text)) is not None:
        raise _error(name, place, f"is in a key of more than {MAX_KEY_PARTS} parts.")
    try:
        held = tomllib.loads(text)
        found = places(text)
    except tomllib.TOMLDecodeError as exc:
        raise _syntax(name, text, str(exc)) from None
    except (RecursionError, ValueError) as exc:  # an integer of 5,000 digits is a ValueError
        why = "tables or lists stand in each other too deeply." if isinstance(exc, RecursionError) else f"{exc}."
        raise _error(name, Place(1, 1), why) from None
    return _Reader(name, found).manifest(held, derive)


def _decoded(data: bytes, name: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        before = data[: exc.start].decode("utf-8", "replace")
        place = Place(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
        raise _error(name, place, "is not UTF-8; save the file as UTF-8.") from None
    return text.replace("\r\n", "\n")


def _syntax(name: str, text: str, said: str) -> ManifestError:
    found = _AT.search(said)
    if found is None or found[1] is None:
        lines = text.split("\n")
        place = Place(len(lines), len(lines[-1]) + 1)
    else:
        place = Place(int(found[1]), int(found[2]))
    return _error(name, place, f"is no TOML: {_AT.sub('', said)}.")


def _error(name: str, place: Place, text: str) -> ManifestError:
    return ManifestError(Problem(located(name, place), text))


class _Rule(Struct, frozen=True):
    """What a key takes: a type, and for a list that of its items."""

    kind: type
    items: type | None = None

    @property
    def wanted(self) -> str:
        return _KINDS[self.kind] if self.items is None else f"a list of {_KINDS[self.items].removeprefix('a ')}s"

    def wrong(self, value: object) -> TomlPath | None:
        """Return where below the value something has another type, () for itself; None if nothing has."""
        if type(value) is not self.kind:
            return ()
        items = value if self.items is not None and isinstance(value, list) else ()
        return next(((number,) for number, item in enumerate(items) if type(item) is not self.items), None)


TEXT, FLAG, NUMBER = _Rule(str), _Rule(bool), _Rule(int)
TEXTS, NUMBERS = _Rule(list, str), _Rule(list, int)
STYLE: Mapping[str, _Rule] = {"prompt": TEXT, "sources": TEXTS, "embed_prompt": FLAG}
IMAGE: Mapping[str, _Rule] = {
    "prompt": TEXT,
    "sources": TEXTS,
    "style": FLAG,
    "variant": TEXT,
    "aspect_ratio": TEXT,
    "output_resolution": TEXT,
    "background": TEXT,
    "upscale": NUMBER,
    "enable_safety_checker": FLAG,
    "widths": NUMBERS,
    "formats": TEXTS,
    "icons": FLAG,
}
TOP: Mapping[str, _Rule] = {"style": _Rule(dict), "images": _Rule(dict)}
SETTINGS = tuple(key for key in IMAGE if key not in {"prompt", "sources", "style", "widths", "formats", "icons"})


class _Reader:
    def __init__(self, name: str, found: Places) -> None:
        self._name = name
        self._places = found
        self._problems: list[tuple[Place, Problem]] = []

    def manifest(self, held: Mapping[str, Any], derive: Derive) -> Manifest:
        top = self._table((), held, TOP)
        style = self._style(top.get("style", {}))
        images: Mapping[str, Any] = top.get("images", {})
        if len(images) > MAX_ENTRIES:
            last = [*images][MAX_ENTRIES]
            self._wrong(
                ("images", last), f"is number {MAX_ENTRIES + 1} of {len(images):,}; at most {MAX_ENTRIES:,} are read."
            )
            self._refuse()
        entries: dict[str, Entry] = {}
        for path, given in images.items():
            if not isinstance(given, dict):
                self._wrong(("images", path), f'needs a table: [images."{shortened(path)}"].')
                continue
            entries[path] = self._entry(path, self._table(("images", path), given, IMAGE))
        self._refuse()  # what follows asks what the entries mean, so they must be right alone
        made = Manifest(
            style=style, entries=entries, outputs=self._outputs(entries, derive), places=self._places, name=self._name
        )
        for entry in entries.values():
            self._request(made, entry)
            self._widths(made, entry)
        self._cycles(made)
        self._refuse()
        return made

    def _style(self, given: Mapping[str, Any]) -> Style:
        style = self._table(("style",), given, STYLE)
        if "prompt" in style and not style["prompt"].strip():
            self._wrong(("style", "prompt"), "is empty; leave it out.", value=True)
        self._sources(("style", "sources"), style.get("sources", ()))
        return Style(
            prompt=style.get("prompt"),
            sources=tuple(style.get("sources", ())),
            embed_prompt=style.get("embed_prompt", False),
        )

    def _entry(self, path: str, given: Mapping[str, Any]) -> Entry:
        here: TomlPath = ("images", path)
        if (why := _unfit(path)) is not None:
            self._wrong(here, why)
        elif not path.lower().endswith(SUFFIXES):
            self._wrong(here, f"is no picture's name; a picture is saved as {', '.join(SUFFIXES)}.")
        self._sources((*here, "sources"), given.get("sources", ()))
        for key, allowed in (("formats", FORMATS), ("widths", None)):
            self._copies((*here, key), given.get(key, ()), allowed)
        return Entry(
            path=path,
            prompt=given.get("prompt"),
            sources=tuple(given.get("sources", ())),
            style=given.get("style", True),
            settings={key: given[key] for key in SETTINGS if key in given},
            widths=tuple(given.get("widths", ())),
            formats=tuple(given.get("formats", ())),
            icons=given.get("icons", False),
        )

    def _table(self, path: TomlPath, given: Mapping[str, Any], rules: Mapping[str, _Rule]) -> Mapping[str, Any]:
        """Return what is right in a table, and note what is not."""
        right = {}
        for key, value in given.items():
            rule = rules.get(key)
            if rule is None:
                near = meant(key, rules)
                self._wrong((*path, key), f"is no key here{near}; allowed: {', '.join(rules)}.")
            elif (below := rule.wrong(value)) is not None:
                self._wrong((*path, key, *below), f"needs {rule.wanted}; got {_shown(value, below)}.", value=True)
            else:
                right[key] = value
        return right

    def _sources(self, path: TomlPath, given: Sequence[str]) -> None:
        for number, source in enumerate(given):
            if is_remote(source):
                continue
            if "://" in source or source.startswith(("data:", "task:", "file:")):
                why: str | None = (
                    "must be a file in the project or an https URL: others have to be able to make the picture, too."
                )
            else:
                why = _unfit(source)
            if why is not None:
                self._wrong((*path, number), why, value=True)

    def _copies(self, path: TomlPath, given: Sequence[str | int], allowed: Sequence[str] | None) -> None:
        """Check widths, or formats where `allowed` says which there are."""
        if len(given) > MAX_WIDTHS:
            self._wrong(
                (*path, MAX_WIDTHS), f"is one too many: at most {MAX_WIDTHS} copies of one picture.", value=True
            )
        for number, value in enumerate(given[:MAX_WIDTHS]):
            here = (*path, number)
            if value in given[:number]:
                self._wrong(here, f"stands twice: {value}.", value=True)
            elif allowed is not None and value not in allowed:
                near = meant(str(value), allowed)
                self._wrong(here, f"got {_shown(value)}{near}; allowed: {', '.join(allowed)}.", value=True)
            elif isinstance(value, int) and not 1 <= value <= MAX_WIDTH_PX:
                self._wrong(here, f"got {_shown(value)}; allowed: 1 to {MAX_WIDTH_PX:,} pixels.", value=True)

    def _outputs(self, entries: Mapping[str, Entry], derive: Derive) -> Mapping[str, str]:
        """Return which entry writes each file, and note files that two write."""
        outputs: dict[str, str] = {}
        known: dict[str, tuple[str, str]] = {}
        folders: dict[str, str] = {}
        for entry in entries.values():
            for path in (entry.path, *self._derived(entry, derive)):
                same = _same(path)
                if same in known and known[same][1] != entry.path:
                    other, whose = known[same]
                    place = self._places.of(entries[whose].toml)
                    self._wrong(entry.toml, f"writes {path}, and so does {whose} ({self._name}:{place}, {other}).")
                elif same in known and path != entry.path:
                    self._wrong(
                        entry.toml, f"writes {path} twice; give its original another suffix, or leave out a format."
                    )
                known.setdefault(same, (path, entry.path))
                outputs.setdefault(path, entry.path)
                parts = same.split("/")
                folders |= {"/".join(parts[:end]): entry.path for end in range(1, len(parts))}
        for same, (path, whose) in known.items():
            if same in folders:
                self._wrong(entries[whose].toml, f"{path} would be a file and a folder: {folders[same]} is in it.")
        return outputs

    def _derived(self, entry: Entry, derive: Derive) -> Sequence[str]:
        """Return the files that are made from an entry's picture, and note what can't be."""
        try:
            return derive(entry) if entry.derives else ()
        except InvalidRequestError as exc:
            for problem in exc.problems:
                self._wrong((*entry.toml, problem.field), problem.text, value=True)
            return ()

    def _request(self, made: Manifest, entry: Entry) -> None:
        """Check an entry as `generate` checks a call."""
        try:
            finishing.steps_of(made.request(entry))
        except InvalidRequestError as exc:
            for problem in exc.problems:
                key = NAMES.get(problem.field, problem.field)
                text = str(reworded(problem.text, NAMES))
                style = made.styled(entry)
                if key == "prompt" and style is not None and style.prompt is not None:
                    text = f"with the prompt of [style], {text}"
                elif key == "sources" and style is not None and style.sources:
                    text = f"with the sources of [style], {text}"
                self._wrong((*entry.toml, key), text, value=True)
        if entry.settings.get("background") is not None and entry.path.lower().endswith((".jpg", ".jpeg")):
            text = "a JPEG has no transparent ground; name the picture .png or .webp."
            self._wrong((*entry.toml, "background"), text, value=True)

    def _widths(self, made: Manifest, entry: Entry) -> None:
        for number, why in too_wide(entry, expected_width(made, entry), "will be about"):
            self._wrong((*entry.toml, "widths", number), why, value=True)

    def _cycles(self, made: Manifest) -> None:
        """Note each entry whose picture would need itself."""
        done: set[str] = set()
        for start in made.entries:
            way: list[str] = []
            stack = [(start, iter(needs(made, made.entries[start])))]
            way.append(start)
            while stack:
                path, rest = stack[-1]
                following = next((each for each in rest if each not in done), None)
                if following is None:
                    stack.pop()
                    done.add(way.pop())
                elif following in way:
                    circle = [*way[way.index(following) :], following]
                    if len(circle) > MAX_CIRCLE:
                        circle[MAX_CIRCLE - 2 : -1] = [f"{len(circle) - MAX_CIRCLE + 1} others"]
                    self._wrong((*made.entries[path].toml, "sources"), f"go in a circle: {' needs '.join(circle)}.")
                    done.add(following)
                else:
                    way.append(following)
                    stack.append((following, iter(needs(made, made.entries[following]))))

    def _wrong(self, path: TomlPath, text: str, *, value: bool = False) -> None:
        place = self._places.of_value(path) if value else self._places.of(path)
        self._problems.append((place, Problem(located(self._name, place, _short(path)), text)))
        if len(self._problems) >= MAX_FOUND:  # to look for values that are near takes long
            self._refuse()

    def _refuse(self) -> None:
        if self._problems:
            found = sorted(self._problems, key=lambda each: each[0])
            raise ManifestError(*(problem for _, problem in found))


def located_error(made: Manifest, entry: Entry, exc: InvalidRequestError) -> ManifestError:
    """Return what a call of `generate` would be refused with, by the places and the names that the manifest has for it."""
    return ManifestError(
        *(
            Problem(
                made.at((*entry.toml, NAMES.get(each.field, each.field)), value=True), str(reworded(each.text, NAMES))
            )
            for each in exc.problems
        )
    )


def needs(made: Manifest, entry: Entry) -> Iterator[str]:
    """Yield the entries whose files are sources of this one."""
    for source in made.sources(entry):
        if (whose := made.outputs.get(source)) is not None:
            yield whose


def expected_width(made: Manifest, entry: Entry) -> int | None:
    """Return about how wide an entry's picture will be, in pixels; None if only its source knows that.

    RunAPI publishes no sizes. 1k is about 1 megapixel, in multiples of 16; 2k is at most 2,048 pixels long, to be sure.
    """
    request = made.request(entry)
    shape = request.aspect_ratio or (catalog.DEFAULT_ASPECT_RATIO if not request.source_images else catalog.AUTO)
    wide, _, high = shape.partition(":")
    if entry.prompt is None or not (wide.isdecimal() and high.isdecimal() and int(high)):
        return None
    width = isqrt(2**20 * int(wide) // int(high))
    if request.output_resolution == "2k":
        width = min(2 * width, 2048, 2048 * int(wide) // int(high))
    return width // 16 * 16 * (request.upscale or 1)


def too_wide(entry: Entry, width: int | None, verb: str = "is") -> Iterator[tuple[int, str]]:
    """Yield the number of each of an entry's widths that is above its original's, and why it is refused."""
    most = inf if width is None else width
    for number, each in enumerate(entry.widths):
        if each > most:
            yield number, f"is {each:,}, and the original {verb} {width:,} pixels wide: a copy is never enlarged."


def _unfit(path: str) -> str | None:
    """Return why a text is no path in the project; None if it is one."""
    if path.startswith(("/", "~")) or not path.strip("/ "):
        return "must be a path in the project, from the folder of this file, such as public/hero.png."
    parts = path.split("/")
    if "." in parts:
        return "has a part '.', which changes nothing; leave it out."
    why = paths.trouble(path, parts)
    return None if why is None else why.replace("the workspace", "the project's folder")


def _same(path: str) -> str:
    """Return a spelling that is equal where a system takes two paths for one."""
    return unicodedata.normalize("NFC", path).casefold()


def _short(path: TomlPath) -> TomlPath:
    return tuple(shortened(part) if isinstance(part, str) else part for part in path)


def _shown(value: object, below: TomlPath = ()) -> str:
    for part in below:
        value = value[part] if isinstance(value, list) and isinstance(part, int) else value
    kind = _KINDS.get(type(value), type(value).__name__)
    if isinstance(value, str | int | float):
        return f"{kind}, {shortened(repr(value))}" if not isinstance(value, bool) else str(value).lower()
    return kind
