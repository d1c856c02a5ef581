"""The paths of a host's files, from the table's templates. Pure: the caller gives system and environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath, PurePosixPath, PureWindowsPath

from flux2_mcp.errors import HostFileError
from flux2_mcp.hosts.table import Host, Paths, System
from flux2_mcp.system.environment import said_path

_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def user_files(host: Host, system: System, env: Mapping[str, str]) -> tuple[PurePath, ...]:
    """The host's files of the user scope, best first. A `*` stands for a folder whose name the system chose.

    Raises:
        HostFileError: There is no home.
    """
    return paths(host.user, system, env)


def marks(host: Host, system: System, env: Mapping[str, str]) -> tuple[PurePath, ...]:
    """The paths that exist after the host was first started.

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
    """FLUX2_HOME, found in the same way as the server does.

    Raises:
        HostFileError: There is no home.
    """
    kind = PureWindowsPath if system == "Windows" else PurePosixPath
    home = said_path(env.get("FLUX2_HOME"), env)
    return kind(home) if home is not None and kind(home).is_absolute() else paths(_DATA, system, env)[0]


def paths(templates: Paths, system: System, env: Mapping[str, str]) -> tuple[PurePath, ...]:
    """The paths of the table's templates on a system.

    Raises:
        HostFileError: There is no home.
    """
    kind = PureWindowsPath if system == "Windows" else PurePosixPath
    return tuple(kind(_expanded(template, system, env)) for template in templates.get(system, ()))


def _expanded(template: str, system: System, env: Mapping[str, str]) -> str:
    """The template with its variables replaced.

    Relative values are ignored, as by the hosts and the XDG specification: in each working directory they would mean
    another folder.
    """
    kind = PureWindowsPath if system == "Windows" else PurePosixPath

    def value(found: re.Match[str]) -> str:
        folder = env.get(found[1], "").strip()
        return folder if kind(folder).is_absolute() else found[2]

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
