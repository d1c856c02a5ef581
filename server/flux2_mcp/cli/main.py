"""The group of commands, and their exit codes (the vendor's CLI uses the same: `api/runapi.md`)."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

import click

from flux2_mcp import __version__
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.cli.output import INTERRUPTED, PROGRAM, WIDTH_COLUMNS, complain, echo
from flux2_mcp.errors import Flux2Error, InvalidRequestError, SettingsError
from flux2_mcp.runapi.key_file import ConfigText
from flux2_mcp.system.logs import hide, to_stderr

log = logging.getLogger("flux2_mcp.cli")

EPILOG = """
\b
Examples:
  flux2-mcp generate "A lighthouse at dusk" --aspect-ratio 16:9
  flux2-mcp remix "Make it night" lighthouse.png --variant flex
  flux2-mcp login

Without a key a sandbox on this machine draws the images, and no money moves. Without a command, flux2-mcp serves MCP
over stdio: that is what agent hosts start.

Exit codes: 0 success, 2 authentication, 3 insufficient credits, 4 validation or not found, 5 timeout or network,
6 rate limit, 7 the task failed, 8 plan found something to do, 130 stopped with Ctrl-C.
"""


COMMANDS: Mapping[str, str] = {
    "generate": "generate.generate",
    "remix": "remix.remix",
    "plan": "plan.plan",
    "apply": "apply.apply",
    "derive": "derive.derive",
    "adopt": "adopt.adopt",
    "schema": "schema.schema",
    "wait": "wait.wait",
    "tasks": "tasks.tasks",
    "open": "tasks.open_image",
    "gallery": "gallery.gallery",
    "prune": "tasks.prune",
    "variants": "variants.variants",
    "pricing": "pricing.pricing",
    "balance": "balance.balance",
    "spend": "spend.spend",
    "install": "install.install",
    "doctor": "doctor.doctor",
    "login": "login.login",
    "logout": "logout.logout",
    "whoami": "whoami.whoami",
    "serve": "serve.serve",
    "team": "team.team",
    "completion": "completion.completion",
    "sandbox": "sandbox.sandbox",
}
"""The module of each command and its name there. The most used come first, also in the help."""


class Commands(click.Group):
    """Imports a command only when it is used: to import all of them takes 0.1 s at each start."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of the help."""
        del ctx
        return [*COMMANDS, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name, or None."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, name = COMMANDS[cmd_name].partition(".")
        command: click.Command = getattr(import_module(f"flux2_mcp.cli.{module}"), name)
        return command


@click.group(
    cls=Commands,
    epilog=EPILOG,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH_COLUMNS},
)
@click.version_option(__version__, "-V", "--version", message="%(version)s", help="Show the version and exit.")
def flux2() -> None:
    """FLUX.2 images from a prompt: no paid task is lost, every image lands on disk."""


@flux2.command()
def version() -> None:
    """Show the version."""
    echo(__version__)


def run(argv: Sequence[str], env: Mapping[str, str], config_text: ConfigText, workspace: str | None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: The arguments without the program's name.
        env: The environment.
        config_text: The content of RunAPI's config file, if there is one.
        workspace: The folder in which the process was started, if it still exists.
    """
    invocation = Invocation(env, config_text, workspace)
    read = invocation.read
    hide(None if isinstance(read, SettingsError) else read.api_key)
    to_stderr("warning" if isinstance(read, SettingsError) else read.log_level, people=True)
    color = False if env.get("NO_COLOR") or env.get("TERM") == "dumb" else None
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path that the terminal's encoding can't show is shown with escapes.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = flux2.main(list(argv), prog_name=PROGRAM, standalone_mode=False, obj=invocation, color=color)
    except click.Abort:
        return INTERRUPTED
    except click.UsageError as exc:
        command = exc.ctx.command_path if exc.ctx else PROGRAM
        complain(exc.format_message(), "", f"{command} --help shows what it takes.", color=color)
        return InvalidRequestError.exit_code
    except Exception as exc:  # noqa: BLE001  # the outermost handler: people get a message, never a stack trace
        error = exc if isinstance(exc, Flux2Error) else _unexpected(exc)
        complain(error.message, error.cost, error.next_step, color=color)
        return error.exit_code
    return code if isinstance(code, int) else 0


def _unexpected(exc: Exception) -> Flux2Error:
    log.debug("unexpected error", exc_info=exc)
    message = f"Unexpected error: {type(exc).__name__}."
    if isinstance(exc, OSError) and sys.stdout is not None:
        # Mostly an error of the output: the interpreter must not try to write the rest again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        message = f"The system refused to go on: {exc.strerror}."
    return Flux2Error(
        message,
        cost="What RunAPI took, if anything, is in the journal and not lost.",
        next_step="Look closer with FLUX2_LOG=debug.",
    )
