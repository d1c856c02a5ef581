"""The command that starts this server from a host without a shell's PATH. Pure: the caller gives the places."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from flux2_mcp.errors import HostFileError
from flux2_mcp.hosts.entry import MODULE, PROGRAM

PUBLISHED = False
"""True after the first release on the package index. Then even a copy that uv made for one run can install: hosts start
the program by its name, through uvx."""
_PASSING = re.compile(r"[\\/](?:archive|builds|environments)-v\d+[\\/]")


def words(scripts: Sequence[Path], interpreter: str, uvx: str | None, *, published: bool = PUBLISHED) -> list[str]:
    """The command, the program first, absolute.

    Args:
        scripts: Folders where this installation's programs may be, best first.
        interpreter: The Python that runs this, absolute.
        uvx: Where uvx is, if it is.
        published: Whether uvx finds the package on the index.

    Raises:
        HostFileError: This copy is in uv's cache, which gets cleaned, and there is no other command.
    """
    if _PASSING.search(interpreter):
        if published and uvx is not None:
            return [uvx, PROGRAM]
        raise HostFileError(
            "this copy runs from uv's cache, and would be gone one day",
            next_step="Install it first, from the checkout: uv tool install . ; then flux2-mcp install.",
        )
    programs = [folder / name for folder in scripts for name in (PROGRAM, f"{PROGRAM}.exe")]
    program = next((path for path in programs if path.is_file()), None)
    # -P: Python imports nothing from the folder in which a host starts it.
    return [interpreter, "-P", "-m", MODULE] if program is None else [str(program)]
