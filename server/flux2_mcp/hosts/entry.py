"""A host's entry for this server: its content, whether it is ours, and what an installation changes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PureWindowsPath

from flux2_mcp.errors import HostFileError
from flux2_mcp.hosts.editors.json_edit import JsonEditor
from flux2_mcp.hosts.editors.jsonc import Json, Object
from flux2_mcp.hosts.editors.toml_edit import TomlEditor
from flux2_mcp.hosts.table import Host
from flux2_mcp.system.environment import said

PROGRAM, MODULE = "flux2-mcp", "flux2_mcp"
EDITORS: Mapping[str, JsonEditor | TomlEditor] = {
    "json": JsonEditor(strict=True),
    "jsonc": JsonEditor(strict=False),
    "toml": TomlEditor(),
}
SWITCHES: Object = {"disabled": False, "enabled": True}
"""The values of these members in an entry whose server is started. Hosts have one or the other; both may be missing."""
_COPY = re.compile(rf"(?:[\w .:~-]*[/\\])*{PROGRAM}(?:\.exe)?")
# `${NAME}`, `${NAME:-else}`, `${env:NAME}`, `{env:NAME}`, `$NAME`
_REFERENCE = re.compile(r"(?:\$\{(?:env:)?|\{env:)(\w+)(?::-([^}]*))?\}|\$(\w+)")


def whole(host: Host, command: Sequence[str]) -> Object:
    """The whole entry, for a host that has none yet."""
    return changes(host, command, {})


def changes(host: Host, command: Sequence[str], standing: Object) -> Object:
    """The members that must be set in an entry. Members that the user added stay, and so do higher limits.

    Args:
        host: The host's row.
        command: The command that starts the server, the program first.
        standing: The present entry; empty if there is none.
    """
    run: Object = {"command": list(command)} if host.listed else {"command": command[0], "args": list(command[1:])}
    wanted: Object = dict(host.fixed) | run
    missing = {key: value for key, value in host.unless_set.items() if key not in standing}
    on = {key: value for key, value in SWITCHES.items() if standing.get(key, value) != value}
    low = {key: value for key, value in host.limits.items() if not _at_least(standing.get(key), value)}
    return {key: value for key, value in wanted.items() if standing.get(key, ...) != value} | missing | on | low


def own_values(host: Host, command: Sequence[str], *entries: Object | None) -> frozenset[Json]:
    """The texts and numbers that an installation writes: of an entry, people are shown these and no others.

    The user's own values may be keys, under any name: of variables, headers, URLs or arguments (`docker run -e
    NAME=VALUE flux2-mcp` starts this server, too). Of theirs, raised limits and the path of another copy of our program
    are shown.
    """
    theirs = [entry for entry in entries if entry is not None]
    raised = [entry[key] for entry in theirs for key in host.limits if _at_least(entry.get(key), 0)]
    copies = [program for entry in theirs for program in words(entry)[:1] if _COPY.fullmatch(program)]
    return frozenset((*_leaves(whole(host, command)), *raised, *copies))


def _leaves(value: Json) -> Iterator[str | int | float]:
    """The texts and numbers in a value. Flags are left out: they equal the numbers 0 and 1."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
    elif value is not None and not isinstance(value, bool):
        yield value


def _at_least(value: Json, least: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= least


def ours(entry: Json) -> bool:
    """True if an entry starts this server, from any place."""
    program, *arguments = words(entry) or [""]
    # PureWindowsPath reads the paths of every system. Arguments are compared whole: a path may lead through our folder.
    return PureWindowsPath(program).name.lower().removesuffix(".exe") == PROGRAM or bool(
        {PROGRAM, MODULE} & set(arguments)
    )


def words(entry: Json) -> list[str]:
    """The command of an entry, the program first; empty if it has none."""
    if not isinstance(entry, dict):
        return []
    command, arguments = entry.get("command"), entry.get("args", [])
    parts = command if isinstance(command, list) else [command]
    parts = parts + (arguments if isinstance(arguments, list) else [])
    return [part for part in parts if isinstance(part, str)] if parts[:1] != [None] else []


def environment(host: Host, entry: Object, env: Mapping[str, str]) -> dict[str, str]:
    """The environment that an entry gives its server. References to `env` are replaced; a missing variable gives ""."""
    listed, written = entry.get("env_vars"), entry.get(host.env)
    names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    handed = {name: env[name] for name in names if name in env}
    for name, value in (written if isinstance(written, dict) else {}).items():
        handed[name] = _REFERENCE.sub(lambda found: env.get(found[1] or found[3], found[2] or ""), str(value))
    return handed


def refers(value: str) -> bool:
    """True if a value is a reference, in any host's dialect, or is empty: it holds no value itself."""
    return _REFERENCE.search(value) is not None or said(value) is None


def off(host: Host, text: str, name: str, standing: Object) -> list[str]:
    """The places that keep a host from starting an entry: members of the entry, or lists of servers in the same file.

    Raises:
        HostFileError: The file does not parse.
    """
    found = [key for key, value in SWITCHES.items() if standing.get(key, value) != value]
    return found + _lists_off(host, text, name, (host.allowed, host.excluded))


def off_by(host: Host, other: str, name: str, standing: Object, own: str, *, nearer: bool) -> list[str]:
    """The places in the host's file of the other scope that keep it from starting an entry.

    Args:
        host: The host's row.
        other: The text of the other file.
        name: The entry's name.
        standing: The entry.
        own: The text of the file with the entry.
        nearer: Whether the other file takes precedence: it is the project's, and the entry is the user's.

    Raises:
        HostFileError: One of the files does not parse.
    """
    counts = [path for path in (host.allowed, host.excluded) if nearer or _at(host, own, path) is None]
    found = _lists_off(host, other, name, counts)
    theirs = (EDITORS[host.format].entries(other, host.servers) or {}).get(name) if host.merged else None
    switched = [key for key, value in SWITCHES.items() if isinstance(theirs, dict) and theirs.get(key, value) != value]
    return found + [f"{host.servers}.{name}.{key}" for key in switched if nearer or key not in standing]


def _lists_off(host: Host, text: str, name: str, paths: Iterable[tuple[str, ...]]) -> list[str]:
    """Those of the lists at these paths that keep a server from being started. An empty list keeps none."""
    lists = [(path, names) for path in paths if isinstance(names := _at(host, text, path), list) and names]
    return [".".join(path) for path, names in lists if (name in names) == (path == host.excluded)]


def _at(host: Host, text: str, path: Sequence[str]) -> Json:
    editor = EDITORS[host.format]
    return editor.at(text, path) if path and isinstance(editor, JsonEditor) else None


def _listed(host: Host, text: str, name: str, *, started: bool) -> str:
    """The text with a server's name in the list of allowed servers and not in the excluded ones; or not in the list."""
    editor = EDITORS[host.format]
    if not isinstance(editor, JsonEditor) or not host.allowed:
        return text
    if not started:
        return editor.without_name(text, host.allowed, name)
    return editor.without_name(editor.with_name(text, host.allowed, name), host.excluded, name)


def standing(host: Host, text: str, name: str) -> Object | None:
    """The entry with that name, or None.

    Raises:
        HostFileError: The file does not parse, or the entry is no object.
    """
    editor = EDITORS[host.format]
    entry = (editor.entries(text, host.servers) or {}).get(name)
    if entry is not None and not isinstance(entry, dict):
        raise HostFileError(f"{name} should be an object", line=editor.line(text, host.servers, name))
    return entry


def installed(host: Host, text: str, name: str, command: Sequence[str]) -> str:
    """The text with the right entry, switched on; the same text if nothing has to change.

    Raises:
        HostFileError: The file can't be edited, or the entry with that name is another server's.
    """
    entry = standing(host, text, name)
    if entry and not ours(entry):
        raise _anothers(host, text, name, "Give this one another name with --name, or remove that entry by hand.")
    wanted = changes(host, command, entry or {})
    text = EDITORS[host.format].put(text, host.servers, name, wanted) if wanted else text
    return _listed(host, text, name, started=True)


def removed(host: Host, text: str, name: str, before: str | None) -> str:
    """The text without the entry.

    Args:
        host: The host's row.
        text: The file's text.
        name: The entry's name.
        before: The file's text before the installation, if known. If nothing else has changed since, that text is
            returned, equal to the byte. Otherwise a map that it did not have is removed too, if it is empty now.

    Raises:
        HostFileError: The file can't be edited, or the entry with that name is another server's.
    """
    editor = EDITORS[host.format]
    entry = standing(host, text, name)
    if entry is None:
        return text
    if not ours(entry):
        raise _anothers(host, text, name, "Remove that entry by hand if you want it gone.")
    if before is not None and came_from(host, text, name, before):
        return before
    made = before is not None and _mapless(host, before)
    return _listed(host, editor.take(text, host.servers, name, with_map=made), name, started=False)


def _anothers(host: Host, text: str, name: str, next_step: str) -> HostFileError:
    line = EDITORS[host.format].line(text, host.servers, name)
    return HostFileError(f"{name} is another server there", line=line, next_step=next_step)


def came_from(host: Host, text: str, name: str, before: str) -> bool:
    """True if `text` is `before` with our entry added and no other change."""
    entry = standing(host, text, name)
    try:
        if entry is None or standing(host, before, name) is not None:
            return False
        put = EDITORS[host.format].put(before, host.servers, name, entry)
        return _listed(host, put, name, started=True) == text
    except HostFileError:
        return False


def _mapless(host: Host, before: str) -> bool:
    try:
        return EDITORS[host.format].entries(before, host.servers) is None
    except HostFileError:
        return False
