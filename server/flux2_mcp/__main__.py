"""The entry point: without arguments an MCP server on stdio, with arguments a command.

Only this module reads argv and the environment.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

from flux2_mcp.system.environment import said

TYPE_CHECKING = False  # typing and pathlib are not imported here: a host waits for every import
if TYPE_CHECKING:
    from flux2_mcp.errors import SettingsError
    from flux2_mcp.runapi.key_file import ConfigText
    from flux2_mcp.server.transports.early import EarlyAnswers
    from flux2_mcp.settings import Settings

TAB = "_FLUX2_MCP_COMPLETE"
"""A shell sets this variable for Tab completion, and then calls without arguments (`cli.completion`)."""
TYPED = (
    "flux2-mcp without a command is a server that an agent host starts.\n"
    "It waits for the host's JSON here; Ctrl-C ends it. What to run instead:\n"
    "  flux2-mcp install                            puts it into your agent hosts\n"
    '  flux2-mcp generate "A lighthouse at dusk"    makes an image right away\n'
    "  flux2-mcp --help                             shows all commands\n"
)
LOOK_FOR_GARBAGE = 30_000
"""New objects after which a command looks for garbage. What it loads is none, and at Python's own 700 to look costs more than the load of a library."""
NO_JSON_TEXT = "That line is no JSON, so the server has ended. Run one of the commands above.\n"
CLOSED = "flux2-mcp serves MCP on standard input and output, and one of them is closed.\n"
UNUSABLE = 4


def main() -> None:
    """Run the server or the command, and exit with its code."""
    # The import of the SDK builds thousands of models, and none of them is garbage.
    gc.disable()
    try:
        sys.exit(_command(sys.argv[1:]) if len(sys.argv) > 1 or TAB in os.environ else _serve())
    except KeyboardInterrupt:
        # It came during an import: a running command handles Ctrl-C itself.
        sys.exit(128 + signal.SIGINT)


def _command(argv: list[str]) -> int:
    from flux2_mcp.cli.main import run

    gc.set_threshold(LOOK_FOR_GARBAGE)
    gc.enable()
    code = run(argv, os.environ, _config_text(), _workspace())
    gc.freeze()  # at its end the interpreter would look three times through all that was loaded
    return code


def _serve() -> int:
    # Before the server runs, nothing is open that has to be closed.
    for number in (signal.SIGTERM, signal.SIGINT):
        # An exception that is raised while a module loads may be taken for an error of that module.
        signal.signal(number, lambda signum, _: os._exit(128 + signum))
    try:
        source, sink = _claimed()
    except OSError:
        sys.stderr.write(CLOSED)
        return UNUSABLE
    if typed := os.isatty(source):
        sys.stderr.write(TYPED)
    early = None if typed else _early(source, sink)

    from flux2_mcp.errors import SettingsError
    from flux2_mcp.settings import Settings
    from flux2_mcp.system.logs import hide, to_stderr

    settings = _settings()
    usable = settings if isinstance(settings, Settings) else None
    # If the server ended now, the host could not know why. So it runs on, and its answers contain the error.
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

    from flux2_mcp.server.transports.stdio import NO_JSON, StdioTransport

    gc.freeze()
    gc.enable()
    unread, unsent, answered = early.hand_over() if early else (b"", b"", {})
    server.shaping.answered = {ident for ident, method in answered.items() if method == "tools/list"}
    transport = StdioTransport(source, sink, unread, unsent, answered, typed=typed)
    code = transport.serve(partial(sdk.run_over, server))
    if code == NO_JSON:
        sys.stderr.write(NO_JSON_TEXT)
    return code


def _early(source: int, sink: int) -> EarlyAnswers | None:
    """Answer what needs no server, and return when the server is needed; without early answers, at once."""
    if sys.platform == "win32" or said(os.environ.get("FLUX2_EARLY")) == "0":
        return None
    from flux2_mcp.server.transports.early import EarlyAnswers, Snapshot

    if (snapshot := Snapshot.read()) is None:
        return None
    early = EarlyAnswers(snapshot, source, sink)
    if said(os.environ.get("FLUX2_SLEEP")) != "0":
        from flux2_mcp.server.transports.sleep import sleep

        sleep(early, os.environ, _settings)
    return early


def _settings() -> Settings | SettingsError:
    from flux2_mcp.settings import serving

    return serving(os.environ, _config_text(), workspace=project())


def _claimed() -> tuple[int, int]:
    """Take standard input and output for the protocol only: other prints to stdout then go to stderr.

    Raises:
        OSError: One of the two is closed.
    """
    if sys.platform == "win32":  # on Windows the SDK does this
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
        return None  # the folder was deleted meanwhile; images can still be made


def project() -> str | None:
    """Return the working directory, or None if it is /, the home or the plugin's folder.

    Many hosts start their servers in one of these, without a choice of the user.
    """
    from pathlib import Path

    folder = _workspace()
    others = map(os.environ.get, ("HOME", "USERPROFILE", "PLUGIN_ROOT"))  # PLUGIN_ROOT: Agent Plugins 1.0
    nowhere = {Path(folder).anchor, *others} if folder else set()
    return None if folder in nowhere else folder


def _config_text() -> ConfigText:
    from flux2_mcp.runapi.key_file import config_file, read

    return read(config_file(os.environ))


if __name__ == "__main__":
    main()
