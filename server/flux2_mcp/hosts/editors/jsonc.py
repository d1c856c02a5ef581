"""Scans JSON with comments for the positions of its members. Pure: text in, positions out.

No well-maintained library on the package index edits JSONC in place: they print the whole file anew, or need Node. An
edit needs little: where each member begins and ends, and which comma follows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from functools import lru_cache
from typing import TypeAlias

from msgspec import Struct

from flux2_mcp.errors import HostFileError

Json: TypeAlias = str | int | float | bool | list["Json"] | dict[str, "Json"] | None
Object: TypeAlias = dict[str, Json]

MAX_DEPTH = 256
"""Nested containers. No real settings are deeper, and the comparison of values must not run out of stack."""
BOM = "\ufeff"
HIDDEN = "(not shown)"
"""What stands in the place of a value that may be a secret, where a file is shown."""

_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\n]+)
    | (?P<comment>//[^\r\n]*|/\*.*?\*/)
    | (?P<string>"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*")
    | (?P<scalar>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null)
    | (?P<mark>[{}\[\]:,])
    """,
    re.VERBOSE | re.DOTALL,
)


class JsonNode(Struct):
    """One value: `text[start:end]`. An object has `members`, a list has `items`, in order; otherwise they are None."""

    start: int
    end: int
    value: Json
    members: list[JsonMember] | None = None
    items: list[JsonNode] | None = None

    def member(self, key: str, text: str) -> JsonMember | None:
        """The member with that key.

        Raises:
            HostFileError: There are several: a host may read another one than we would edit.
        """
        found = [one for one in self.members or () if one.key == key]
        if len(found) > 1:
            raise HostFileError(f'"{key}" stands here a second time', line=line_of(text, found[1].start))
        return found[0] if found else None


class JsonMember(Struct):
    """One `"key": value` of an object. `start` is the position of the key, `comma` that of the comma after, if any."""

    key: str
    start: int
    node: JsonNode
    comma: int | None = None


class _OpenBracket(Struct):
    """A container that is still open; in an object, with the key that waits for its value."""

    node: JsonNode
    closer: str
    key: tuple[str, int] | None = None


def ends_in_line_comment(text: str, start: int, end: int) -> bool:
    """True if the last text between two positions, apart from space, is a `//` comment."""
    found = [lexeme[0] for lexeme in _TOKEN.finditer(text, start, end) if lexeme.lastgroup != "space"]
    return bool(found) and found[-1].startswith("//")


def masked(value: Json, plain: Collection[Json]) -> Json:
    """Replace each text and number of a value, at any depth, that is not one of `plain`."""
    if isinstance(value, dict):
        return {key: masked(inner, plain) for key, inner in value.items()}
    if isinstance(value, list):
        return [masked(inner, plain) for inner in value]
    return value if value is None or isinstance(value, bool) or value in plain else HIDDEN


def veiled(text: str, entry: tuple[int, int], plain: Collection[Json], word: str) -> str:
    """Replace each value and each comment of a valid text, for a diff that people read.

    Args:
        text: The text.
        entry: Start and end of the entry.
        plain: The values that stay in the entry.
        word: A value that stays everywhere.
    """
    lexemes = [lexeme for lexeme in _TOKEN.finditer(text) if lexeme.lastgroup != "space"]
    following = [*(lexeme[0] for lexeme in lexemes if lexeme.lastgroup != "comment"), ""][1:]
    pieces, position, number = [], 0, -1
    for lexeme in lexemes:
        start, end = lexeme.span()
        number += lexeme.lastgroup != "comment"
        if lexeme.lastgroup == "comment":
            veil = f"// {HIDDEN}" if lexeme[0].startswith("//") else f"/* {HIDDEN} */"
        elif (
            lexeme.lastgroup == "mark"
            or following[number] == ":"
            or (value := _plain(lexeme[0])) == masked(value, plain if entry[0] <= start < entry[1] else [word])
        ):
            continue
        else:
            veil = json.dumps(HIDDEN)
        pieces += [text[position:start], veil]
        position = end
    return "".join([*pieces, text[position:]])


def line_of(text: str, position: int) -> int:
    """The number of a position's line, from 1."""
    return text.count("\n", 0, position) + 1


@lru_cache(maxsize=4)  # an edit scans the same text several times, and some hosts' files have megabytes
def scan(text: str, *, strict: bool = False) -> JsonNode | None:
    """The root value; None if the text has only space and comments. The caller must not change it: it is cached.

    Args:
        text: A whole file, a byte order mark included.
        strict: Refuse comments and trailing commas, as hosts do that read plain JSON.

    Raises:
        HostFileError: The text does not parse; the error names the line.
    """
    return _Scanner(text, strict=strict).run()


class _Scanner:
    """A loop over tokens and a stack of open containers: depth costs memory, never stack."""

    def __init__(self, text: str, *, strict: bool) -> None:
        self._text = text
        self._strict = strict
        self._stack: list[_OpenBracket] = []
        self._root: JsonNode | None = None
        # The token that may come next: "value", "key", "colon", "comma", "end"; if `_closable`, also a closing bracket.
        self._next = "value"
        self._closable = False
        self._comma: int | None = None

    def run(self) -> JsonNode | None:
        position = len(BOM) if self._text.startswith(BOM) else 0
        while position < len(self._text):
            lexeme = _TOKEN.match(self._text, position)
            if lexeme is None:
                raise self._error(_unread(self._text, position), position)
            kind = str(lexeme.lastgroup)
            if kind == "comment" and self._strict:
                raise self._error("a comment, and this host reads none", position)
            if kind not in {"space", "comment"}:
                self._take(kind, lexeme[0], position)
            position = lexeme.end()
        if self._stack:
            raise self._error(
                f"the file ends before {self._stack[-1].closer!r} closes what begins here", self._stack[-1].node.start
            )
        return self._root

    def _take(self, kind: str, lexeme: str, position: int) -> None:
        if kind == "mark" and lexeme in "}]":
            self._close(lexeme, position)
        elif kind == "mark" and lexeme in ":,":
            self._separator(lexeme, position)
        elif self._next == "key" and kind == "string":
            self._stack[-1].key = (json.loads(lexeme), position)
            self._next, self._closable = "colon", False
        elif self._next == "value":
            self._value(lexeme, position)
        else:
            raise self._misplaced(repr(lexeme) if kind == "mark" else f"a {kind}", position)

    def _separator(self, lexeme: str, position: int) -> None:
        if self._next != ("colon" if lexeme == ":" else "comma"):
            raise self._misplaced(repr(lexeme), position)
        self._next = "value"
        if lexeme == ",":
            self._comma, self._closable = position, True
            if (members := self._stack[-1].node.members) is not None:
                members[-1].comma = position
                self._next = "key"

    def _value(self, lexeme: str, position: int) -> None:
        opens = lexeme in {"{", "["}
        value: Json = ({} if lexeme == "{" else []) if opens else _plain(lexeme)
        node = JsonNode(position, position + len(lexeme), value)
        node.members, node.items = [] if lexeme == "{" else None, [] if lexeme == "[" else None
        self._place(node)
        if not opens:
            self._done()
            return
        if len(self._stack) >= MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} levels inside each other", position)
        self._stack.append(_OpenBracket(node, "}" if lexeme == "{" else "]"))
        self._next, self._closable, self._comma = ("key" if lexeme == "{" else "value"), True, None

    def _place(self, node: JsonNode) -> None:
        if not self._stack:
            self._root = node
            return
        outer = self._stack[-1]
        if outer.key is not None and outer.node.members is not None and isinstance(outer.node.value, dict):
            key, start = outer.key
            outer.node.members.append(JsonMember(key, start, node))
            outer.node.value[key] = node.value
            outer.key = None
        elif outer.node.items is not None and isinstance(outer.node.value, list):
            outer.node.items.append(node)
            outer.node.value.append(node.value)

    def _close(self, lexeme: str, position: int) -> None:
        if not self._stack or lexeme != self._stack[-1].closer or not self._closable:
            raise self._misplaced(repr(lexeme), position)
        if self._strict and self._comma is not None:
            raise self._error("a comma with nothing after it, and this host reads none", self._comma)
        self._stack.pop().node.end = position + 1
        self._done()

    def _done(self) -> None:
        self._next, self._closable, self._comma = ("comma" if self._stack else "end"), bool(self._stack), None

    def _misplaced(self, what: str, position: int) -> HostFileError:
        return self._error(f"{what} where {_WANTED[self._next]} should stand", position)

    def _error(self, why: str, position: int) -> HostFileError:
        return HostFileError(why, line=line_of(self._text, position))


_WANTED = {
    "value": "a value",
    "key": "a key in double quotes",
    "colon": "':'",
    "comma": "',' or the end of the container",
    "end": "nothing more",
}


def _unread(text: str, position: int) -> str:
    """The error where no token fits. It shows at most one character of the text, which may be a secret."""
    if text.startswith("/*", position):
        return "a comment that never ends"
    if text[position] == '"':
        return "a string that does not end on its line, or holds an escape that JSON has not"
    return f"{text[position]!r} begins nothing that JSON has"


def _plain(lexeme: str) -> Json:
    try:
        value: Json = json.loads(lexeme)
    except ValueError:  # a number with more digits than Python reads
        return lexeme
    return value
