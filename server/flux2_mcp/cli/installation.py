"""This machine and this installation, for the commands that speak of hosts. The only reader of `sys` and `sysconfig` for them."""

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
    """Where hosts are looked for. What is none of the three systems has its files where Linux has them."""
    name = platform.system()
    fallback: System = "Linux"
    system = next((known for known in SYSTEMS if known == name), fallback)
    try:
        made = MadeFolders(Path(places.own_folder(system, invocation.env)) / FOLDERS_FILE)
    except HostFileError:
        made = None  # there is no home to write them down in
    return Machine(system=system, env=invocation.env, workspace=invocation.workspace, made=made)


def server(invocation: Invocation) -> list[str]:
    """What starts this very installation as a server, the program first, absolute.

    Raises:
        HostFileError: It won't last, so nothing may point at it.
    """
    schemes = [sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user")]
    scripts = [Path(sysconfig.get_path("scripts", scheme)) for scheme in schemes]
    if sys.prefix != sys.base_prefix:
        scripts = scripts[:1]  # what stands in the user's own folder is another installation
    return command.words(scripts, sys.executable, shutil.which("uvx", path=invocation.env.get("PATH", "")))
