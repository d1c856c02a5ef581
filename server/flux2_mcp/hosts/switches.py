"""What keeps a host from starting an entry and stands in another file than the entry."""

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
    """The switches that are off, each with its file. A file that can't be read is its host's business, and switches nothing.

    Args:
        machine: Where its files are.
        host: Its row.
        scope: The entry's.
        file: The one that the entry stands in.
        name: The entry's.
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
    """The files of the other scope, and whether they go before."""
    for other in SCOPES:
        if other != scope and (other == "user" or (host.project and machine.workspace)):
            for path in machine.files(host, other):
                if path.resolve() != file.path:  # in the home folder itself they may be one
                    yield path, other == "project"


def _files(machine: Machine, switch: Switch) -> list[Path]:
    found = [Path(machine.workspace) / switch.project] if switch.project and machine.workspace else []
    return found + [Path(path) for path in places.paths(switch.user or {}, machine.system, machine.env)]


def _folders(workspace: str | None) -> list[str]:
    """The names that a host may know a project by: its folder's, and that of the repository around it."""
    if workspace is None:
        return []
    folder = Path(workspace).resolve()
    root = next((each for each in (folder, *folder.parents) if files.is_there(each / ".git")), folder)
    return list(dict.fromkeys([folder.as_posix(), root.as_posix(), workspace]))


def _off(switch: Switch, text: str, name: str, folders: list[str]) -> Iterator[str]:
    """The places in a file that switch a server off."""
    for folder in folders if "{folder}" in switch.keys else [""]:
        keys = [{"{folder}": folder, "{name}": name}.get(key, key) for key in switch.keys]
        held = _EDITOR.at(text, keys)
        if held is False or (isinstance(held, list) and name in held):
            yield ".".join(keys)
