"""Where a host's files are on a system, from the table's templates. Pure: system and environment are given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath, PurePosixPath, PureWindowsPath

from flux2_mcp.errors import HostFileError
from flux2_mcp.hosts.table import Host, Paths, System
from flux2_mcp.system.environment import said_path

_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def user_files(host: Host, system: System, env: Mapping[str, str]) -> tuple[PurePath, ...]:
    """The files of its user scope, best first. A `*` in one stands for a folder that the system named.

    Raises:
        HostFileError: There is no home.
    """
    return paths(host.user, system, env)


def marks(host: Host, system: System, env: Mapping[str, str]) -> tuple[PurePath, ...]:
    """What is there where the host was ever started.

    Raises:
        HostFileError: There is no home.
    """
    return paths(host.marks, system, env)


_DATA: Paths = {
    "Linux": ("${XDG_DATA_HOME:-~/.local/share}/flux2-mcp",),
    "Darwin": ("~/Library/Application Support/flux2-mcp",),
    "Windows": ("${LOCALAPPDATA:-~/AppData/Local}/flux2-mcp",),
}


def own_folder(system: System, env: Mapping[str, str]) -> PurePath:
    """FLUX2_HOME, as the server finds it.

    Raises:
        HostFileError: There is no home.
    """
    kind = PureWindowsPath if system == "Windows" else PurePosixPath
    told = said_path(env.get("FLUX2_HOME"), env)
    return kind(told) if told is not None and kind(told).is_absolute() else paths(_DATA, system, env)[0]


def paths(templates: Paths, system: System, env: Mapping[str, str]) -> tuple[PurePath, ...]:
    """The paths that templates of the table stand for on a system.

    Raises:
        HostFileError: There is no home.
    """
    kind = PureWindowsPath if system == "Windows" else PurePosixPath
    return tuple(kind(_expanded(template, system, env)) for template in templates.get(system, ()))


def _expanded(template: str, system: System, env: Mapping[str, str]) -> str:
    """Relative values are left out, as the hosts and the XDG specification do: they would mean another folder each time."""
    kind = PureWindowsPath if system == "Windows" else PurePosixPath

    def value(found: re.Match[str]) -> str:
        told = env.get(found[1], "").strip()
        return told if kind(told).is_absolute() else found[2]

    path = _VARIABLE.sub(value, template)
    if not path.startswith("~"):
        return path
    names = ("USERPROFILE", "HOME") if system == "Windows" else ("HOME",)
    home = next((env[name] for name in names if env.get(name, "").strip()), None)
    if home is None:
        raise HostFileError(
            f"there is no home folder: {names[0]} is not set", next_step=f"Set {names[0]}, then run again."
        )
    return home + path[1:]
