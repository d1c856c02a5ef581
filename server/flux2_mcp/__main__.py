"""The entry: without arguments an MCP server on stdio, with them a command. The only reader of argv and the environment."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flux2_mcp.settings import ConfigText

TAB = "_FLUX2_MCP_COMPLETE"
"""Set when a shell asks how a command line goes on: it calls without arguments (`commands.completion`)."""
TYPED = (
    "flux2-mcp without a command serves MCP on standard input and output, for agent hosts. Ctrl-C ends it.\n"
    'For people: flux2-mcp --help, or right away flux2-mcp generate "A lighthouse at dusk".\n'
)


def main() -> None:
    """Run what the arguments say and exit with its code."""
    # The SDK builds thousands of models while it is imported, and none of them is garbage.
    gc.disable()
    try:
        if len(sys.argv) > 1 or TAB in os.environ:
            sys.exit(_command(sys.argv[1:]))
        _serve()
    except KeyboardInterrupt:
        # It came while modules were loading: once a command runs, it answers for itself.
        sys.exit(128 + signal.SIGINT)


def _command(argv: list[str]) -> int:
    from flux2_mcp.commands.cli import run

    gc.enable()
    return run(argv, os.environ, _config_text(), _workspace())


def _serve() -> None:
    from flux2_mcp.errors import Flux2Error
    from flux2_mcp.logs import to_stderr
    from flux2_mcp.settings import from_env

    if sys.stdin is not None and sys.stdin.isatty():
        # Reading a terminal can't be interrupted by Python's own handler; the journal bears any end.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        sys.stderr.write(TYPED)
    try:
        settings = from_env(os.environ, _config_text(), workspace=_project())
    except Flux2Error as exc:
        sys.stderr.write(f"{exc.message}\n{exc.next_step}\n")
        sys.exit(exc.exit_code)
    to_stderr(settings.log_level)
    from flux2_mcp.app import build

    server = build(settings)
    gc.freeze()
    gc.enable()
    server.run("stdio")


def _workspace() -> str | None:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return None  # the folder was deleted under us: nothing is wrong with making images


def _project() -> str | None:
    """The working directory, where a host has chosen it: many start their servers in / or at home."""
    folder = _workspace()
    nowhere = {Path(folder).anchor, os.environ.get("HOME"), os.environ.get("USERPROFILE")} if folder else set()
    return None if folder in nowhere else folder


def _config_text() -> ConfigText:
    from flux2_mcp import keyfile
    from flux2_mcp.settings import config_file

    return keyfile.read(config_file(os.environ))


if __name__ == "__main__":
    main()
