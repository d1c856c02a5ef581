"""This machine and this installation, for the commands about hosts. They read `sys` and `sysconfig` only here."""

from __future__ import annotations

import platform
import shutil
import sys
import sysconfig
from pathlib import Path

from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.errors import HostFileError
from flux2_mcp.hosts import command, places
from flux2_mcp.hosts.files import MadeFolders
from flux2_mcp.hosts.plan import FOLDERS_FILE, Machine
from flux2_mcp.hosts.table import SYSTEMS, System


def machine(invocation: Invocation) -> Machine:
    """Return the machine in which hosts are searched. An unknown system counts as Linux."""
    name = platform.system()
    fallback: System = "Linux"
    system = next((known for known in SYSTEMS if known == name), fallback)
    try:
        made = MadeFolders(Path(places.own_folder(system, invocation.env)) / FOLDERS_FILE)
    except HostFileError:
        made = None  # without a home folder they can't be recorded
    return Machine(system=system, env=invocation.env, workspace=invocation.workspace, made=made)


def server(invocation: Invocation) -> list[str]:
    """Return the command that starts this installation as a server; its first word is an absolute path.

    Raises:
        HostFileError: The installation is temporary, so no entry may point to it.
    """
    schemes = [sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user")]
    scripts = [Path(sysconfig.get_path("scripts", scheme)) for scheme in schemes]
    if sys.prefix != sys.base_prefix:
        scripts = scripts[:1]  # a script in the user's own folder belongs to another installation
    return command.words(scripts, sys.executable, shutil.which("uvx", path=invocation.env.get("PATH", "")))
