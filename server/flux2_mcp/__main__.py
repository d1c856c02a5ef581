"""The entry: without arguments an MCP server on stdio, with them a command. The only reader of argv and the environment."""

from __future__ import annotations

import gc
import os
import signal
import sys

from flux2_mcp.runapi import key_file
from flux2_mcp.system.environment import said

TYPE_CHECKING = (
    False  # typing.TYPE_CHECKING without typing, and pathlib further down: a host waits for what is imported
)
if TYPE_CHECKING:
    from flux2_mcp.runapi.key_file import ConfigText

TAB = "_FLUX2_MCP_COMPLETE"
"""Set when a shell asks how a command line goes on: it calls without arguments (`commands.completion`)."""
TYPED = (
    "flux2-mcp without a command serves MCP on standard input and output, for agent hosts. Ctrl-C ends it.\n"
    'For people: flux2-mcp --help, or right away flux2-mcp generate "A lighthouse at dusk".\n'
)
CLOSED = "flux2-mcp serves MCP on standard input and output, and one of them is closed.\n"
UNUSABLE = 4


def main() -> None:
    """Run what the arguments say and exit with its code."""
    # The SDK builds thousands of models while it is imported, and none of them is garbage.
    gc.disable()
    try:
        sys.exit(_command(sys.argv[1:]) if len(sys.argv) > 1 or TAB in os.environ else _serve())
    except KeyboardInterrupt:
        # It came while modules were loading: once a command runs, it answers for itself.
        sys.exit(128 + signal.SIGINT)


def _command(argv: list[str]) -> int:
    from flux2_mcp.cli.main import run

    gc.enable()
    return run(argv, os.environ, _config_text(), _workspace())


def _serve() -> int:
    # Until serving begins nothing is open, so that stopping is all there is to do.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, _: sys.exit(128 + signum))
    try:
        source, sink = _claimed()
    except OSError:
        sys.stderr.write(CLOSED)
        return UNUSABLE
    early = None
    if typed := os.isatty(source):
        sys.stderr.write(TYPED)
    elif sys.platform != "win32" and said(os.environ.get("FLUX2_EARLY")) != "0":
        from flux2_mcp.server.transports.early import EarlyAnswers, Snapshot

        early = (snapshot := Snapshot.read()) and EarlyAnswers(snapshot, source, sink)

    from flux2_mcp.errors import SettingsError
    from flux2_mcp.settings import Settings, serving
    from flux2_mcp.system.logs import hide, to_stderr

    settings = serving(os.environ, _config_text(), workspace=project())
    usable = settings if isinstance(settings, Settings) else None
    # A server that ends after a host was answered is dead to it, and nobody knows why: the answers say it.
    errors = (settings,) if isinstance(settings, SettingsError) else settings.unusable
    for error in errors:
        sys.stderr.write(f"{error.message}\n{error.next_step}\n")
    if errors and typed:
        return errors[0].exit_code
    hide(usable.api_key if usable else None)
    to_stderr(usable.log_level if usable else "warning")
    if early:
        early.may_end()
    from flux2_mcp.server import sdk
    from flux2_mcp.server.app import build

    server = build(settings)
    if sys.platform == "win32":
        gc.freeze()
        gc.enable()
        server.run("stdio")
        return 0
    from functools import partial

    from flux2_mcp.server.transports.stdio import StdioTransport

    gc.freeze()
    gc.enable()
    unread, unsent, given = early.hand_over() if early else (b"", b"", {})
    server.shaping.answered = {ident for ident, method in given.items() if method == "tools/list"}
    return StdioTransport(source, sink, unread, unsent, given).serve(partial(sdk.run_over, server))


def _claimed() -> tuple[int, int]:
    """Where the host writes and reads, taken for the protocol alone: whoever else prints to stdout writes to stderr.

    Raises:
        OSError: One of the two is closed.
    """
    if sys.platform == "win32":  # the SDK does it there
        return 0, 1
    import fcntl

    source, sink = (fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3) for descriptor in (0, 1))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    try:
        os.dup2(2, 1)
    except OSError:
        os.dup2(nothing, 1)
    os.close(nothing)
    return source, sink


def _workspace() -> str | None:
    from pathlib import Path

    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return None  # the folder was deleted under us: nothing is wrong with making images


def project() -> str | None:
    """The working directory, where a host has chosen it: many start their servers in /, at home or in the plugin's folder."""
    from pathlib import Path

    folder = _workspace()
    others = map(os.environ.get, ("HOME", "USERPROFILE", "PLUGIN_ROOT"))  # the last by Agent Plugins 1.0
    nowhere = {Path(folder).anchor, *others} if folder else set()
    return None if folder in nowhere else folder


def _config_text() -> ConfigText:
    from flux2_mcp.runapi.key_file import config_file

    return key_file.read(config_file(os.environ))


if __name__ == "__main__":
    main()
