r"""flux2.lock: which request made which file. Each line names its picture, so that two branches merge line by line.

A line is `"PATH".field = "value"`: valid TOML in any order. Two branches that add pictures at the same place make a conflict
in which both sides are right; this reader takes all lines of both, and leaves out the marks between them. If both have
made the same picture, it has two candidates, and `choose` takes the one whose request and file are there.
No key, no time and no absolute path is in it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from flux2_mcp.domain import paths
from flux2_mcp.domain.account_names import SANDBOX
from flux2_mcp.domain.manifest.digests import PARTS
from flux2_mcp.domain.manifest.entries import LOCK, SUFFIXES, located, quoted
from flux2_mcp.domain.toml_places import Place, long_key
from flux2_mcp.errors import ManifestError, Problem, shortened

VERSION = 1
MAX_BYTES = 16_000_000
"""Bytes of flux2.lock: more than 1,000 pictures with all the copies that they may have."""
MAX_LINES = 200_000
MAX_PICTURES = 4_000
"""Pictures in flux2.lock, those that flux2.toml no longer names among them."""
MAX_FIELDS = 256
"""Fields of one picture: about a dozen, and one for each file made from it."""
MAX_CANDIDATES = 16
"""Branches that have made one picture."""
FILE_SUFFIXES = (*SUFFIXES, ".avif", ".ico")
HEAD = (
    "# Written by flux2-mcp: which request made which file, and what it cost. Commit it; do not edit it.\n"
    f"version = {VERSION}\n"
    "\n"
    "[images]\n"
)
STRANGE = "holds something that flux2-mcp does not write."
_OURS = re.compile(r'"([^"\\]+)"\.(?:(\w+)|files\."([^"\\]+)") = "([^"\\\x00-\x1f\x7f]*)"')
_MARK = re.compile(r"(<{7}|\|{7}|={7}|>{7})( |$)")


class LockedImage(Struct, frozen=True, kw_only=True):
    """One picture as it was made.

    Attributes:
        path: As in flux2.toml.
        request: The digest of its request.
        parts: The first digits of the digests of the request's parts.
        model: The models of its tasks, the last one's last, with `+` between them.
        task: RunAPI's id of the last task; "" if nobody knows it.
        charged_usd: What all its tasks were charged; "" if RunAPI did not say.
        sha256: Of the picture's file.
        size: Width and height in pixels.
        derived: The digest of what was made from it; "" if nothing was.
        files: The SHA-256 of each file made from it, by its path.
        sandbox: Whether the sandbox has drawn it, and FLUX.2 has not made it.
    """

    path: str
    request: str
    parts: Mapping[str, str]
    model: str
    task: str
    charged_usd: str
    sha256: str
    size: tuple[int, int]
    derived: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    sandbox: bool = False

    def lines(self) -> list[str]:
        """Return the lines of the file for this picture."""
        values = {
            "request": self.request,
            **{name: self.parts[name] for name in PARTS},
            "model": self.model,
            "made_by": SANDBOX if self.sandbox else "",
            "task": self.task,
            "charged_usd": self.charged_usd,
            "sha256": self.sha256,
            "size": "x".join(map(str, self.size)),
            "derived": self.derived,
        }
        begin = quoted(self.path)
        lines = [f"{begin}.{name} = {quoted(value)}" for name, value in values.items() if value]
        return lines + [f"{begin}.files.{quoted(path)} = {quoted(self.files[path])}" for path in sorted(self.files)]


Lock = Mapping[str, Sequence[LockedImage]]
"""The candidates for each picture, mostly one; by its path."""


def read(data: bytes, *, name: str = LOCK) -> Lock:
    """Read a lock, also one with the conflicts of a merge in it.

    Raises:
        ManifestError: It is of a later version, too large, or a line can't be read.
    """
    if len(data) > MAX_BYTES:
        raise _error(name, 1, f"has {len(data):,} bytes; at most {MAX_BYTES:,} are read.")
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as exc:
        raise _error(name, data.count(b"\n", 0, exc.start) + 1, "is not UTF-8.") from None
    if text.count("\n") > MAX_LINES:
        raise _error(name, MAX_LINES + 1, f"is one line too many: at most {MAX_LINES:,} are read.")
    found = _ours(text)
    if found is None:
        found = _others(text, name)
    _refuse_strange(found, text, name)
    return {path: _candidates(path, values, text, name) for path, values in found.items()}


def _others(text: str, name: str) -> dict[str, dict[str, list[str]]]:
    """Read a text of which some lines are not as `text` writes them."""
    if (place := long_key(text)) is not None:
        raise _error(name, place.line, STRANGE)
    found: dict[str, dict[str, list[str]]] = {}
    try:
        held = _whole(text, name)
    except tomllib.TOMLDecodeError:  # a merge has left marks or lines twice
        for number, line in enumerate(text.split("\n"), 1):
            for path, values in _line(line, number, name).items():
                _add(found, path, values)
    except (RecursionError, ValueError):
        raise _error(name, 1, STRANGE) from None
    else:
        for path, values in held.items():
            _add(found, path, values)
    return found


def _refuse_strange(found: Mapping[str, Mapping[str, Sequence[str]]], text: str, name: str) -> None:
    """Refuse what flux2-mcp never writes. Files that a lock names are read, moved and removed, and anybody may have written it."""
    if len(found) > MAX_PICTURES:
        raise _error(name, 1, f"has {len(found):,} pictures; at most {MAX_PICTURES:,} are read.")
    for path, values in found.items():
        if len(values) > MAX_FIELDS or max(map(len, values.values()), default=0) > MAX_CANDIDATES:
            raise _error(name, _line_of(path, text), f"has too many lines of {shortened(ascii(path))}.")
        for file in (path, *(key.removeprefix("files ") for key in values if key.startswith("files "))):
            if not file.lower().endswith(FILE_SUFFIXES) or paths.trouble(file, file.split("/")) is not None:
                why = f"names {shortened(ascii(file))}, which is no path of a picture in the project."
                raise _error(name, _line_of(file, text), why)


def _line_of(path: str, text: str) -> int:
    """Return the number of the first line that names a file."""
    at = max(text.find(quoted(path)), 0)
    return text.count("\n", 0, at) + 1


def _ours(text: str) -> dict[str, dict[str, list[str]]] | None:
    """Read a text of which each line is as `text` writes it; None: it has others. tomllib takes five times as long."""
    if not text.startswith(HEAD):
        return None
    found: dict[str, dict[str, list[str]]] = {}
    for line in text[len(HEAD) :].split("\n"):
        if line:
            if (parts := _OURS.fullmatch(line)) is None:
                return None
            path, field, file, value = parts.groups()
            found.setdefault(path, {}).setdefault(field or f"files {file}", []).append(value)
    return found


def _whole(text: str, name: str) -> Mapping[str, Mapping[str, Any]]:
    held = tomllib.loads(text)
    _check(held.get("version", VERSION), name, 1)
    return _images(held.get("images", {}), name, 1)


def _line(line: str, number: int, name: str) -> Mapping[str, Mapping[str, Any]]:
    if _MARK.match(line) or line.strip() in {"", "[images]"}:
        return {}
    try:
        held = tomllib.loads(line)
    except (RecursionError, ValueError) as exc:
        raise _error(name, number, f"can't be read: {exc}.") from None
    _check(held.pop("version", VERSION), name, number)
    return _images(held, name, number)


def _check(version: object, name: str, number: int) -> None:
    if version != VERSION:
        text = f"is of version {shortened(ascii(version))}; this flux2-mcp reads version {VERSION}. A later one wrote it: update flux2-mcp."
        raise _error(name, number, text)


def _images(held: object, name: str, number: int) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(held, dict) or not all(isinstance(values, dict) for values in held.values()):
        raise _error(name, number, STRANGE)
    return held


def _add(found: dict[str, dict[str, list[str]]], path: str, values: Mapping[str, Any]) -> None:
    of_it = found.setdefault(path, {})
    for key, value in values.items():
        pairs = {f"files {file}": each for file, each in value.items()} if isinstance(value, dict) else {key: value}
        for named, text in pairs.items():
            of_it.setdefault(named, []).append(str(text))


def _candidates(path: str, values: Mapping[str, Sequence[str]], text: str, name: str) -> Sequence[LockedImage]:
    """Return what the lines of one picture say: the first candidate has the first of each, the second the second."""
    made = []
    for number in range(max(map(len, values.values()), default=0)):
        one = {key: each[min(number, len(each) - 1)] for key, each in values.items()}
        try:
            wide, _, high = one.get("size", "").partition("x")
            made.append(
                LockedImage(
                    path=path,
                    request=one["request"],
                    parts={part: one[part] for part in PARTS},
                    model=one.get("model", ""),
                    task=one.get("task", ""),
                    charged_usd=one.get("charged_usd", ""),
                    sha256=one["sha256"],
                    size=(int(wide), int(high)),
                    derived=one.get("derived", ""),
                    sandbox=one.get("made_by") == SANDBOX,
                    files={key.removeprefix("files "): each for key, each in one.items() if key.startswith("files ")},
                )
            )
        except (KeyError, ValueError):
            why = f"lacks a line of {path}, or one can't be read. Take the lines of one branch, or remove all of this picture."
            raise _error(name, _line_of(path, text), why) from None
    return made


def choose(candidates: Sequence[LockedImage], request: str | None, sha256: str | None) -> LockedImage | None:
    """Return the candidate that fits best: by its request, then by its file; None if there are none."""
    ranked = sorted(candidates, key=lambda each: (each.request != request, each.sha256 != sha256))
    return next(iter(ranked), None)


def text(images: Iterable[LockedImage]) -> str:
    """Return the file for these pictures: the same text for the same pictures, whatever their order."""
    blocks = ["\n".join(each.lines()) for each in sorted(images, key=lambda each: each.path)]
    return HEAD + "\n\n".join(blocks) + ("\n" if blocks else "")


def _error(name: str, line: int, why: str) -> ManifestError:
    return ManifestError(Problem(located(name, Place(line, 1)), why))
