"""Sets and removes entries of a TOML file, with the fewest changed characters. Pure, text to text.

tomllib reads the file, and its result decides whether an edit was right. This module finds only where statements begin
and end. tomlkit is not used: it refuses a byte order mark, writes LF into a file of CRLF, and leaves blank lines where
a table was removed.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import cast

from msgspec import Struct

from flux2_mcp.errors import HostFileError
from flux2_mcp.hosts.editors.jsonc import BOM, HIDDEN, Json, Object, line_of, masked

_PIECE = re.compile(
    r"""
      (?P<text>\"{3}(?:[^\\]|\\.)*?\"{3,5} | '{3}.*?'{3,5} | "(?:[^"\\\n]|\\.)*" | '[^'\n]*')
    | (?P<comment>\#[^\n]*)
    | (?P<open>[\[{]) | (?P<close>[\]}]) | (?P<end>\n) | (?P<other>[^"'\#\[\]{}\n]+)
    """,
    re.VERBOSE | re.DOTALL,
)
_FLAGS = {"true", "false"}
_LINE = re.compile(r"\(at line (\d+)")


class _Statement(Struct, frozen=True):
    """A header, or a key with its value: `text[start:end]` without comment and line end. Only a header has a `path`."""

    start: int
    end: int
    source: str
    path: tuple[str, ...] | None


class _TomlMember(Struct, frozen=True):
    """A key with its value in a table or an inline table: `text[start:end]`; the value begins at `value`."""

    keys: tuple[str, ...]
    start: int
    value: int
    end: int


class TomlEditor:
    """An editor. An entry is a table `[servers.name]` and the tables below it, or an inline table if the map is one."""

    def entries(self, text: str, servers: str) -> Object | None:
        """The tables of the servers' table, or None if there is no such table.

        Raises:
            HostFileError: The file does not parse, or the map is no table.
        """
        held = _read(text).get(servers)
        if held is not None and not isinstance(held, dict):
            raise HostFileError(f"{servers} should be a table", line=_line_of_key(text, servers))
        return held

    def line(self, text: str, servers: str, name: str) -> int:
        """The number of the line on which an entry begins."""
        own = _own(text, (servers, name))
        return _line_of_key(text, name) if own is None else line_of(text, own[0].start)

    def put(self, text: str, servers: str, name: str, values: Mapping[str, Json]) -> str:
        """The text with these keys set in the table of `name`, which is made if it is missing.

        Raises:
            HostFileError: As `entries`, or the entry has another form than a table of its own or an inline table.
        """
        held = self.entries(text, servers) or {}
        newline = "\r\n" if "\r\n" in text else "\n"
        lines = {key: f"{key} = {_value(value)}" for key, value in values.items()}
        old = held.get(name)
        before = old if isinstance(old, dict) else {}
        wanted = {key: line for key, line in lines.items() if before.get(key, ...) != values[key]}
        if name not in held and (inline := _inline(text, (servers,))) is not None:
            after = _put_inline(text, inline, (servers, name), f"{{ {', '.join(lines.values())} }}")
        elif name not in held:
            after = _appended(text, newline.join([f"[{servers}.{name}]", *lines.values()]), newline)
        elif (keys := _own(text, (servers, name))) is not None:
            after = _updated(text, keys, wanted, newline)
        elif _inline(text, (servers, name)) is not None:
            after = text
            for key in wanted:
                if (inline := _inline(after, (servers, name))) is not None:
                    after = _put_inline(after, inline, (servers, name, key), _value(values[key]))
        else:
            raise HostFileError(
                f"{name} stands here in another form than [{servers}.{name}]", line=_line_of_key(text, name)
            )
        entry = before | dict(values)
        return _proved(after, _read(text) | {servers: held | {name: entry}}, _line_of_key(text, servers))

    def take(self, text: str, servers: str, name: str, *, with_map: bool = False) -> str:  # noqa: ARG002  # as `JsonEditor`
        """The text without the table of `name` and the tables below it. A table without a header vanishes with them.

        Raises:
            HostFileError: As `put`.
        """
        held = self.entries(text, servers) or {}
        if name not in held:
            return text
        after = text
        while (block := _block(after, (servers, name))) is not None:
            start, end = block
            after = after[:start] + after[end:]
        after = _without(after, (servers, name))
        left = {key: value for key, value in held.items() if key != name}
        meant = _read(text) | {servers: left}
        if not left and servers not in _read(after):
            del meant[servers]
        return _proved(after, meant, _line_of_key(text, name))

    def veiled(self, text: str, servers: str, name: str, plain: Collection[Json]) -> str:
        """The text for people: of all values only those of `plain` stay, and they only in the entry `name`."""
        veils = []
        for number, table in enumerate(_tables(text)):
            header = table[0].path or () if number else ()
            for statement in table[1 if number else 0 :]:
                own = _member(text, statement.start, statement.end, header)
                for member in (own, *(inner for inner, _ in _below(text, own))):
                    source = text[member.value : member.end]
                    if source[0] == "{" or source in _FLAGS:  # an inline table's members have their own veils
                        continue
                    value: Json = tomllib.loads(f"value = {source}")["value"]
                    veil = masked(value, plain if member.keys[:2] == (servers, name) else ())
                    if veil != value:
                        veils.append((member.value, member.end, _value(veil)))
        for piece in _PIECE.finditer(text):
            if piece.lastgroup == "comment" and not any(start <= piece.start() < end for start, end, _ in veils):
                veils.append((*piece.span(), f"# {HIDDEN}"))
        for start, end, veil in sorted(veils, reverse=True):
            text = text[:start] + veil + text[end:]
        return text

    def shown(self, servers: str, name: str, entry: Mapping[str, Json]) -> str:
        """An entry in this format, as people read it."""
        return "\n".join([f"[{servers}.{name}]", *(f"{key} = {_value(value)}" for key, value in entry.items())])


@lru_cache(maxsize=4)
def _read(text: str) -> Object:
    """The values of a whole text. The caller must not change them: they are cached."""
    try:
        # Numbers stay text, since nan does not equal nan. Dates become objects, which are only compared.
        return cast("Object", tomllib.loads(text.removeprefix(BOM), parse_float=str))
    except (ValueError, RecursionError) as exc:  # also a number of thousands of digits, which Python refuses
        found = _LINE.search(str(exc))
        line = int(found[1]) if found else line_of(text, len(text))
        raise HostFileError("this is not TOML", line=line) from exc


def _proved(text: str, meant: Object, line: int) -> str:
    try:
        right = _read(text) == meant
    except HostFileError:
        right = False
    if not right:
        raise HostFileError("this stands in a form that can't be edited safely", line=line)
    return text


def _statements(text: str) -> Iterator[_Statement]:
    """All statements of a valid text."""
    position = len(BOM) if text.startswith(BOM) else 0
    start: int | None = None
    end = depth = 0
    while position < len(text):
        piece = _PIECE.match(text, position)
        kind = str(piece.lastgroup) if piece else "other"
        after = piece.end() if piece else position + 1
        source = text[position:after]
        depth += {"open": 1, "close": -1}.get(kind, 0)
        if kind == "end" and not depth and start is not None:
            yield _statement(text, start, end)
            start = None
        elif kind not in {"end", "comment"} and source.strip():
            if start is None:
                start = position + len(source) - len(source.lstrip())
            end = position + len(source.rstrip())
        position = after
    if start is not None:
        yield _statement(text, start, end)


def _statement(text: str, start: int, end: int) -> _Statement:
    source = text[start:end]
    path: list[str] = []
    if source.startswith("["):
        level: Json = cast("Object", tomllib.loads(source))
        while isinstance(level, dict) and level:
            [(key, level)] = level.items()
            path.append(key)
    return _Statement(start, end, source, tuple(path) if path else None)


@lru_cache(maxsize=4)
def _tables(text: str) -> list[list[_Statement]]:
    """The statements by table: each header with the keys below it. The first list has no header."""
    tables: list[list[_Statement]] = [[]]
    for statement in _statements(text):
        if statement.path is not None:
            tables.append([])
        tables[-1].append(statement)
    return tables


def _own(text: str, path: tuple[str, ...]) -> list[_Statement] | None:
    """The header of a table and the keys below it; None if it has no header of its own."""
    return next((table for table in _tables(text)[1:] if table[0].path == path), None)


def _block(text: str, path: tuple[str, ...]) -> tuple[int, int] | None:
    """Start and end of the first table at or below a path, with one blank line before it, if there is one."""
    for table in _tables(text)[1:]:
        if (table[0].path or ())[: len(path)] == path:
            start, end = table[0].start, table[-1].end
            start = max(text.rfind("\n", 0, start) + 1, len(BOM) if text.startswith(BOM) else 0)
            rest = text.find("\n", end)
            if rest < 0:  # the file ends without a line end, and it shall end so without the table
                kept = len(text[:start].removesuffix("\n").removesuffix("\r"))
                return len(text[:kept].removesuffix("\n").removesuffix("\r")), len(text)
            if not text[:start].removeprefix(BOM):  # the table is first in the file: the blank line after it goes too
                return start, rest + 1 + len(text[rest + 1 :]) - len(
                    text[rest + 1 :].removeprefix("\r").removeprefix("\n")
                )
            blank = text[:start].endswith(("\n\n", "\n\r\n"))
            return len(text[:start].removesuffix("\n").removesuffix("\r")) if blank else start, rest + 1
    return None


def _members(text: str, path: tuple[str, ...]) -> Iterator[tuple[_TomlMember, tuple[int, int] | None]]:
    """The keys at, below and above a path, each with the span of the inline table around it, if any."""
    for number, table in enumerate(_tables(text)):
        header = table[0].path or () if number else ()
        if header == path[: len(header)]:
            for statement in table[1 if number else 0 :]:
                own = _member(text, statement.start, statement.end, header)
                yield own, None
                yield from _below(text, own)


def _below(text: str, outer: _TomlMember) -> Iterator[tuple[_TomlMember, tuple[int, int]]]:
    """The members of an inline table, and those of inline tables in it."""
    if text[outer.value] != "{":
        return
    start, depth = outer.value + 1, 0
    cuts = []
    for piece in _PIECE.finditer(text, start, outer.end - 1):
        depth += {"open": 1, "close": -1}.get(str(piece.lastgroup), 0)
        if piece.lastgroup == "other" and not depth:
            cuts += [piece.start() + found.start() for found in re.finditer(",", piece[0])]
    for first, last in zip([start, *(cut + 1 for cut in cuts)], [*cuts, outer.end - 1], strict=True):
        source = text[first:last]
        if source.strip():
            begin = first + len(source) - len(source.lstrip())
            member = _member(text, begin, first + len(source.rstrip()), outer.keys)
            yield member, (outer.value, outer.end)
            yield from _below(text, member)


def _member(text: str, start: int, end: int, above: tuple[str, ...]) -> _TomlMember:
    pieces = (piece for piece in _PIECE.finditer(text, start, end) if piece.lastgroup == "other" and "=" in piece[0])
    piece = next(pieces)
    equals = piece.start() + piece[0].index("=")
    level: Json = cast("Object", tomllib.loads(f"{text[start:equals]}= 0"))
    keys: list[str] = []
    while isinstance(level, dict):
        [(key, level)] = level.items()
        keys.append(key)
    after = text[equals + 1 : end]
    return _TomlMember((*above, *keys), start, equals + 1 + len(after) - len(after.lstrip()), end)


def _inline(text: str, path: tuple[str, ...]) -> tuple[int, int] | None:
    """Start and end of the inline table at a path, or None."""
    found = (member for member, _ in _members(text, path) if member.keys == path and text[member.value] == "{")
    return next(((member.value, member.end) for member in found), None)


def _put_inline(text: str, table: tuple[int, int], path: tuple[str, ...], value: str) -> str:
    """The text with the key at a path, in this inline table, set to a value."""
    inside = [member for member, around in _members(text, path) if around == table]
    found = next((member for member in inside if member.keys == path), None)
    if found is not None:
        return text[: found.value] + value + text[found.end :]
    if inside:
        last = inside[-1].end
        return f"{text[:last]}, {path[-1]} = {value}{text[last:]}"
    return f"{text[: table[0]]}{{ {path[-1]} = {value} }}{text[table[1] :]}"


def _without(text: str, path: tuple[str, ...]) -> str:
    """The text without the key at a path, on a line of its own or in an inline table."""
    found = next(((member, around) for member, around in _members(text, path) if member.keys == path), None)
    if found is None:
        return text
    member, around = found
    if around is None:
        start, end = text.rfind("\n", 0, member.start) + 1, text.find("\n", member.end)
        return text[: max(start, len(BOM) if text.startswith(BOM) else 0)] + (text[end + 1 :] if end >= 0 else "")
    inside = [other for other, there in _members(text, path) if there == around]
    at = inside.index(member)
    if len(inside) == 1:
        return f"{text[: around[0]]}{{}}{text[around[1] :]}"
    if at + 1 < len(inside):
        return text[: member.start] + text[inside[at + 1].start :]
    return text[: inside[at - 1].end] + text[member.end :]


def _appended(text: str, table: str, newline: str) -> str:
    if not text.removeprefix(BOM):
        return f"{text}{table}{newline}"
    if text.endswith("\n"):
        return f"{text}{newline}{table}{newline}"
    return f"{text}{newline}{newline}{table}"


def _updated(text: str, table: list[_Statement], lines: Mapping[str, str], newline: str) -> str:
    """The text with some keys of a table replaced by these lines, or added."""
    edits: list[tuple[int, int, str]] = []
    missing = dict(lines)
    for statement in table[1:]:
        key = next(iter(tomllib.loads(statement.source)))
        if key in missing:
            edits.append((statement.start, statement.end, missing.pop(key)))
    if missing:
        end = text.find("\n", table[-1].end)
        end = len(text) if end < 0 else end - text[:end].endswith("\r")
        edits.append((end, end, "".join(f"{newline}{line}" for line in missing.values())))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _value(value: Json) -> str:
    """A value on one line. Ours are strings, numbers, booleans and lists of them; a user's date is only shown."""
    return json.dumps(value, ensure_ascii=False, default=str).replace("\x7f", "\\u007f")


def _line_of_key(text: str, key: str) -> int:
    """The first line that holds a key, for error messages."""
    found = re.search(rf"(?m)^[^#\n]*\b{re.escape(key)}\b", text)
    return line_of(text, found.start()) if found else 1
