"""Where the keys and values of a TOML text stand. Pure. tomllib says what the text means; it does not say where.

The text must be one that tomllib has read: this module finds where things begin and end, and refuses nothing.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator
from typing import TypeAlias

from msgspec import Struct, field

TomlPath: TypeAlias = tuple[str | int, ...]
"""The keys and the numbers of list items that lead to a value."""

MAX_KEY_PARTS = 32
"""Parts of a dotted key. tomllib takes minutes for one of 100,000."""

_TEXT = r"\"{3}(?:[^\\]|\\.)*?\"{3,5}|'{3}.*?'{3,5}|\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'"
_STRING = re.compile(_TEXT, re.DOTALL)
_TOKEN = re.compile(
    rf"(?P<part>{_TEXT}|[A-Za-z0-9_-]+)|(?P<dot>\.)|(?P<space>[ \t]+)|(?P<quote>[\"'])|#[^\n]*|[^\w\-.\"'# \t]+|.",
    re.DOTALL,
)
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\[\]{}#\n]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")


class Place(Struct, frozen=True, order=True):
    """A line and a column of a text, counted from 1. A column is a character."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


class Places(Struct, frozen=True):
    """The place of each key, and of the value after it; an item of a list has a value's place only."""

    keys: dict[TomlPath, Place] = field(default_factory=dict)
    values: dict[TomlPath, Place] = field(default_factory=dict)

    def of(self, path: TomlPath) -> Place:
        """Return the place of a key, or of a list's item; of a path that is not there, that of the nearest one above."""
        for end in range(len(path), 0, -1):
            found = self.keys.get(path[:end]) or self.values.get(path[:end])
            if found is not None:
                return found
        return Place(1, 1)

    def of_value(self, path: TomlPath) -> Place:
        """Return the place of a value; see `of`."""
        return self.values.get(path) or self.of(path)


def places(text: str) -> Places:
    """Return the places of all keys and values of a text that tomllib has read.

    Raises:
        RecursionError: Lists or tables stand in each other too deeply.
    """
    return _Scanner(text).scan()


def long_key(text: str) -> Place | None:
    """Return where a dotted key has its part after the last that is allowed; None if no key has so many.

    The text may be anything: it is looked at before tomllib reads it.
    """
    if all(line.count(".") < MAX_KEY_PARTS for line in text.split("\n")):
        return None  # a key stands on one line, and to look closer takes as long as to read the text
    dots = 0
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "dot":
            dots += 1
            if dots >= MAX_KEY_PARTS:
                return Place(text.count("\n", 0, token.start()) + 1, token.start() - text.rfind("\n", 0, token.start()))
        elif kind == "quote":  # a string without an end: tomllib reads no further, either
            return None
        elif kind is None:
            dots = 0
    return None


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines = [0, *(found.end() for found in re.finditer("\n", text))]
        self._found = Places()
        self._lists: dict[TomlPath, int] = {}

    def scan(self) -> Places:
        table: TomlPath = ()
        while (self._skip(_BLANK)) < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
        return self._found

    def _header(self) -> TomlPath:
        double = self._text.startswith("[[", self._at)
        self._at += 2 if double else 1
        path: TomlPath = ()
        for key, place in self._keys():
            path = (*self._inner(path), key)
            self._found.keys.setdefault(path, place)
        self._at += 2 if double else 1
        if double:
            self._lists[path] = self._lists.get(path, -1) + 1
            place = self._found.keys[path]
            path = self._inner(path)
            self._found.keys.setdefault(path, place)
        return path

    def _inner(self, path: TomlPath) -> TomlPath:
        """Return the path; of a list of tables, that of the last table."""
        return (*path, self._lists[path]) if path in self._lists else path

    def _pair(self, table: TomlPath) -> None:
        path = table
        for key, place in self._keys():
            path = (*path, key)
            self._found.keys.setdefault(path, place)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _keys(self) -> Iterator[tuple[str, Place]]:
        """Read a dotted key up to what ends it: an equals sign or a bracket."""
        while True:
            self._skip(_SPACE)
            begin = self._at
            quoted = self._text[begin] in "\"'"
            found = (_STRING if quoted else _BARE).match(self._text, begin)
            if found is None:  # no text that tomllib reads
                raise ValueError(begin)
            self._at = found.end()
            yield _unquoted(found[0]) if quoted else found[0], self._place(begin)
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return
            self._at += 1

    def _value(self, path: TomlPath) -> None:
        self._found.values.setdefault(path, self._place(self._at))
        first = self._text[self._at]
        if first == "[":
            self._items(path)
        elif first == "{":
            self._members(path)
        else:
            found = (_STRING if first in "\"'" else _SCALAR).match(self._text, self._at)
            self._at = found.end() if found else self._at + 1

    def _items(self, path: TomlPath) -> None:
        self._at += 1
        number = 0
        while self._text[self._skip(_BLANK)] != "]":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._value((*path, number))
            number += 1
        self._at += 1

    def _members(self, path: TomlPath) -> None:
        self._at += 1
        while self._text[self._skip(_BLANK)] != "}":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._pair(path)
        self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._at

    def _place(self, at: int) -> Place:
        line = bisect_right(self._lines, at)
        return Place(line, at - self._lines[line - 1] + 1)


def _unquoted(key: str) -> str:
    if "\\" not in key:
        return key[1:-1]
    return str(tomllib.loads(f"key = {key}")["key"])
