"""Sets and removes entries of a JSON or JSONC file, with the fewest changed characters. Pure, text to text.

New text follows the file's style: its indentation, its line ends, one line if the file is one line, a trailing comma if
the file has them. Each result is scanned again and compared with the intended value, so that no edit can break a file.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any

from msgspec import Struct

from flux2_mcp.errors import HostFileError
from flux2_mcp.hosts.editors.jsonc import (
    BOM,
    Json,
    JsonMember,
    JsonNode,
    Object,
    ends_in_line_comment,
    line_of,
    scan,
    veiled,
)

SPACE = " \t\r\n"
INDENT = "  "
Edit = tuple[int, int, str]
"""`text[start:end]` becomes the string."""


class JsonEditor(Struct, frozen=True):
    """An editor. `strict`: the host reads neither comments nor trailing commas."""

    strict: bool

    def entries(self, text: str, servers: str) -> Object | None:
        """The members of the servers' map; None if there is no map, or `null` in its place.

        Raises:
            HostFileError: The file does not parse, or the root or the map is no object.
        """
        root = self._root(text)
        member = None if root is None else root.member(servers, text)
        return None if member is None or member.node.value is None else _object(member.node, text)

    def line(self, text: str, servers: str, name: str) -> int:
        """The number of the line on which an entry begins."""
        root = self._root(text)
        held = None if root is None else root.member(servers, text)
        entry = None if held is None else held.node.member(name, text)
        return 1 if entry is None else line_of(text, entry.start)

    def put(self, text: str, servers: str, name: str, values: Mapping[str, Json]) -> str:
        """The text with these members set in the entry `name`. A map or entry that is missing or `null` is made.

        Raises:
            HostFileError: As `entries`, or the file's form can't be edited safely.
        """
        root = self._root(text)
        style = _Style(text, root)
        if root is None:
            return f"{text}{style.rendered({servers: {name: dict(values)}}, '')}{style.newline}"
        held = root.member(servers, text)
        map_before = {} if held is None or held.node.value is None else _object(held.node, text)
        entry = None if held is None else held.node.member(name, text)
        before = {} if entry is None or entry.node.value is None else _object(entry.node, text)
        if held is None or held.node.value is None:
            edits = style.updated(root, {servers: {name: dict(values)}})
        elif entry is None or entry.node.value is None:
            edits = style.updated(held.node, {name: dict(values)})
        else:
            edits = style.updated(entry.node, {key: new for key, new in values.items() if before.get(key, ...) != new})
        meant = _object(root, text) | {servers: map_before | {name: before | dict(values)}}
        return self._proved(_applied(text, edits), meant, line_of(text, root.start if held is None else held.start))

    def take(self, text: str, servers: str, name: str, *, with_map: bool = False) -> str:
        """The text without the entry `name`; with `with_map` also without the map, if that is empty then.

        Raises:
            HostFileError: As `put`.
        """
        root = self._root(text)
        held = None if root is None else root.member(servers, text)
        left = {} if held is None or held.node.value is None else dict(_object(held.node, text))
        entry = None if held is None else held.node.member(name, text)
        if root is None or held is None or entry is None:
            return text
        del left[name]
        meant = _object(root, text) | {servers: left}
        if with_map and not left:
            del meant[servers]
            edits = _removed(text, root, held)
        else:
            edits = _removed(text, held.node, entry)
        return self._proved(_applied(text, edits), meant, line_of(text, entry.start))

    def names(self, text: str, path: Sequence[str]) -> list[Json]:
        """The list at a path of keys; empty if there is none.

        Raises:
            HostFileError: The file does not parse.
        """
        found = self.at(text, path)
        return found if isinstance(found, list) else []

    def at(self, text: str, path: Sequence[str]) -> Json:
        """The value at a path of keys, or None.

        Raises:
            HostFileError: The file does not parse.
        """
        node = self._at(text, path)
        return None if node is None else node.value

    def with_name(self, text: str, path: Sequence[str], name: str) -> str:
        """The text with a name added to the list at a path; the same text if the list has the name or is empty.

        Raises:
            HostFileError: As `put`.
        """
        node = self._at(text, path)
        if node is None or not node.items or name in self.names(text, path):
            return text
        last = node.items[-1]
        line = _line_before(text, last.start)
        gap = " " if line.strip(SPACE) else f"{_Style(text, None).newline}{line}"
        after = _applied(text, [(last.end, last.end, f",{gap}{json.dumps(name)}")])
        return self._proved_list(text, after, path, [*self.names(text, path), name])

    def without_name(self, text: str, path: Sequence[str], name: str) -> str:
        """The text without a name in the list at a path.

        Raises:
            HostFileError: As `put`.
        """
        node = self._at(text, path)
        items = [] if node is None else node.items or []
        index = next((number for number, item in enumerate(items) if item.value == name), None)
        if index is None:
            return text
        item, before, after = items[index], items[:index], items[index + 1 :]
        if after:  # a comment after the item is removed with it
            edits: list[Edit] = [(item.start, after[0].start, "")]
        elif before and (comma := text.find(",", before[-1].end, item.start)) >= 0:
            edits = [(comma, comma + 1, ""), (max(comma + 1, _back(text, item.start)), item.end, "")]
        else:
            edits = [(item.start, item.end, "")]
        left = [one.value for one in (*before, *after)]
        return self._proved_list(text, _applied(text, edits), path, left)

    def _at(self, text: str, path: Sequence[str]) -> JsonNode | None:
        node = self._root(text)
        for key in path:
            member = None if node is None else node.member(key, text)
            node = None if member is None else member.node
        return node

    def _proved_list(self, before: str, after: str, path: Sequence[str], names: list[Json]) -> str:
        root, node = self._root(before), self._at(before, path)
        meant: Any = None if root is None else deepcopy(root.value)
        outer = meant
        for key in path[:-1]:
            outer = outer[key]
        outer[path[-1]] = names
        return self._proved(after, meant, 1 if node is None else line_of(before, node.start))

    def veiled(self, text: str, servers: str, name: str, plain: Collection[Json]) -> str:
        """The text for people: of all values only those of `plain` stay, and they only in the entry `name`."""
        root = self._root(text)
        held = None if root is None else root.member(servers, text)
        entry = None if held is None else held.node.member(name, text)
        return veiled(text, (0, 0) if entry is None else (entry.node.start, entry.node.end), plain, name)

    def shown(self, servers: str, name: str, entry: Mapping[str, Json]) -> str:
        """An entry in this format, as people read it."""
        return json.dumps({servers: {name: dict(entry)}}, indent=2, ensure_ascii=False)

    def _root(self, text: str) -> JsonNode | None:
        root = scan(text, strict=self.strict)
        if root is not None:
            _object(root, text)
        return root

    def _proved(self, text: str, meant: Object, line: int) -> str:
        try:
            root = self._root(text)
        except HostFileError:
            root = None
        if root is None or root.value != meant:
            raise HostFileError("this stands in a form that can't be edited safely", line=line)
        return text


class _Style:
    """The layout of a file: its line ends, indentation and spaces."""

    def __init__(self, text: str, root: JsonNode | None) -> None:
        self._text = text
        self.newline = "\r\n" if "\r\n" in text else "\n"
        first = root.members[0] if root is not None and root.members else None
        self._flat = root is not None and first is not None and "\n" not in text[root.start : root.end]
        self._unit = INDENT if first is None else _indent(text, first) or INDENT
        after = "" if first is None else text[first.start : first.node.start].rpartition(":")[2]
        self._gap = " " if after or first is None else ""

    def rendered(self, value: Json, prefix: str) -> str:
        """A value over several lines. Each line but the first begins with `prefix`."""
        lines = json.dumps(value, indent=self._unit, ensure_ascii=False)
        return lines.replace("\n", f"{self.newline}{prefix}")

    def _flatly(self, value: Json) -> str:
        return json.dumps(value, separators=(f",{self._gap}", f":{self._gap}"), ensure_ascii=False)

    def added(self, node: JsonNode, members: Object) -> list[Edit]:
        """The edits that add members at the end of an object."""
        last = node.members[-1] if node.members else None
        prefix = _line_indent(self._text, node.start) + self._unit if last is None else _indent(self._text, last)
        if self._flat or prefix is None:
            return self._added_flatly(node, last, members)
        inside = _back(self._text, node.end - 1)
        new = "".join(
            f"{self.newline}{prefix}{json.dumps(key, ensure_ascii=False)}: {self.rendered(value, prefix)},"
            for key, value in members.items()
        )
        if last is None:
            rest = self._text[inside : node.end - 1]
            closing = "" if "\n" in rest else f"{self.newline}{_line_indent(self._text, node.start)}"
            return [(inside, inside, new[:-1] + closing)]
        if last.comma is not None:
            return [(inside, inside, new)]
        return [(last.node.end, last.node.end, ","), (inside, inside, new[:-1])]

    def _added_flatly(self, node: JsonNode, last: JsonMember | None, members: Object) -> list[Edit]:
        new = self._flatly(members)[1:-1]
        if last is None:
            return [(node.start + 1, node.start + 1, new)]
        if last.comma is not None:
            return [(last.comma + 1, last.comma + 1, f"{self._gap}{new},")]
        return [(last.node.end, last.node.end, f",{self._gap}{new}")]

    def updated(self, node: JsonNode, values: Object) -> list[Edit]:
        """The edits that set members of an object, or add them."""
        edits: list[Edit] = []
        for member in node.members or []:
            if member.key in values:
                prefix, value = _indent(self._text, member), values[member.key]
                new = self._flatly(value) if prefix is None else self.rendered(value, prefix)
                edits.append((member.node.start, member.node.end, new))
        known = {member.key for member in node.members or []}
        missing = {key: value for key, value in values.items() if key not in known}
        return edits + (self.added(node, missing) if missing else [])


def _removed(text: str, node: JsonNode, member: JsonMember) -> list[Edit]:
    """The edits that remove a member from an object, with the space before it and its comma."""
    members = node.members or []
    index = members.index(member)
    end = member.node.end if member.comma is None else member.comma + 1
    start = _back(text, member.start)
    if start == node.start + 1 and not text[end : node.end - 1].strip(SPACE):
        return [(start, node.end - 1, "")]
    rest = text[end:].partition("\n")[0]
    commented = ends_in_line_comment(text, members[index - 1].node.end if index else node.start + 1, start)
    followed = rest.strip(SPACE) and (commented or rest.lstrip(SPACE)[0] != "}")
    if followed and (index == 0 or "\n" in text[start : member.start]):
        # The rest of the member's line keeps its place.
        start, end = member.start, end + len(rest) - len(rest.lstrip(SPACE))
    edits: list[Edit] = [(start, end, "")]
    if member.comma is None and index and (comma := members[index - 1].comma) is not None:
        edits.append((comma, comma + 1, ""))
    return edits


def _applied(text: str, edits: list[Edit]) -> str:
    pieces, position = [], 0
    for start, end, new in sorted(edits, key=lambda edit: edit[0]):
        pieces += [text[position:start], new]
        position = end
    return "".join([*pieces, text[position:]])


def _object(node: JsonNode, text: str) -> Object:
    if not isinstance(node.value, dict):
        raise HostFileError("an object should begin here", line=line_of(text, node.start))
    return node.value


def _back(text: str, position: int) -> int:
    """The end of the text before a position, without its trailing space."""
    return len(text[:position].rstrip(SPACE))


def _line_indent(text: str, position: int) -> str:
    """The white space at the beginning of a position's line."""
    line = text[text.rfind("\n", 0, position) + 1 : position].removeprefix(BOM)
    return line[: len(line) - len(line.lstrip(" \t"))]


def _indent(text: str, member: JsonMember) -> str | None:
    """The white space before a member; None if there is other text before it on its line."""
    line = _line_before(text, member.start)
    return None if line.strip(" \t") else line


def _line_before(text: str, position: int) -> str:
    """The part of a line before a position."""
    return text[text.rfind("\n", 0, position) + 1 : position].removeprefix(BOM)
