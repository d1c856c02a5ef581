"""Switches that keep a host from starting an entry, in other files than that of the entry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from flux2_mcp.errors import HostFileError
from flux2_mcp.hosts import entry, files, places
from flux2_mcp.hosts.editors.json_edit import JsonEditor
from flux2_mcp.hosts.editors.jsonc import Object
from flux2_mcp.hosts.files import File
from flux2_mcp.hosts.plan import Machine
from flux2_mcp.hosts.table import SCOPES, Host, Scope, Switch

_EDITOR = JsonEditor(strict=False)


def elsewhere(
    machine: Machine, host: Host, scope: Scope, file: File, name: str, standing: Object
) -> list[tuple[str, Path]]:
    """The switches that are off, each with its file. A file that can't be read counts as switching nothing off.

    Args:
        machine: The machine with the files.
        host: The host's row.
        scope: The entry's scope.
        file: The file with the entry.
        name: The entry's name.
        standing: The entry.
    """
    found: list[tuple[str, Path]] = []
    for path, nearer in _others(machine, host, scope, file):
        with suppress(HostFileError):
            off = entry.off_by(host, files.read(path).text or "", name, standing, file.text or "", nearer=nearer)
            found += [(what, path) for what in off]
    for switch in host.switches:
        for path in _files(machine, switch) if scope in switch.scopes else ():
            with suppress(HostFileError):
                text = files.read(path).text or ""
                found += [(what, path) for what in _off(switch, text, name, _folders(machine.workspace))]
    return found


def _others(machine: Machine, host: Host, scope: Scope, file: File) -> Iterator[tuple[Path, bool]]:
    """The files of the other scope, and whether they take precedence."""
    for other in SCOPES:
        if other != scope and (other == "user" or (host.project and machine.workspace)):
            for path in machine.files(host, other):
                if path.resolve() != file.path:  # if the project is the home folder, both may be the same file
                    yield path, other == "project"


def _files(machine: Machine, switch: Switch) -> list[Path]:
    found = [Path(machine.workspace) / switch.project] if switch.project and machine.workspace else []
    return found + [Path(path) for path in places.paths(switch.user or {}, machine.system, machine.env)]


def _folders(workspace: str | None) -> list[str]:
    """The paths that a host may use for a project: its folder, and that of the repository around it."""
    if workspace is None:
        return []
    folder = Path(workspace).resolve()
    root = next((each for each in (folder, *folder.parents) if files.is_there(each / ".git")), folder)
    return list(dict.fromkeys([folder.as_posix(), root.as_posix(), workspace]))


def _off(switch: Switch, text: str, name: str, folders: list[str]) -> Iterator[str]:
    """The places in a file that switch off a server."""
    for folder in folders if "{folder}" in switch.keys else [""]:
        keys = [{"{folder}": folder, "{name}": name}.get(key, key) for key in switch.keys]
        held = _EDITOR.at(text, keys)
        if held is False or (isinstance(held, list) and name in held):
            yield ".".join(keys)
