"""`flux2-mcp completion`: the shell's Tab. click writes the script and answers it; ids come from the journal."""

from __future__ import annotations

from contextlib import suppress

import anyio
import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete

from flux2_mcp.cli.output import PROGRAM
from flux2_mcp.engine.backend import account_name
from flux2_mcp.errors import Flux2Error
from flux2_mcp.journal import open_journal
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.server.results.tasks import STATUSES
from flux2_mcp.settings import Settings

VARIABLE = f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE"
"""click's own name for what the shell's script sets when Tab is pressed; `__main__` knows it too."""
SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
MAX_IDS = 50
EPILOG = """
\b
Examples:
  echo 'eval "$(flux2-mcp completion bash)"' >> ~/.bashrc
  echo 'eval "$(flux2-mcp completion zsh)"' >> ~/.zshrc
  flux2-mcp completion fish > ~/.config/fish/completions/flux2-mcp.fish
"""


@click.command(epilog=EPILOG)
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """Print the script that completes commands, options and task ids in your shell."""
    click.echo(SHELLS[shell](context.find_root().command, {}, PROGRAM, VARIABLE).source())


def complete_ids(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The newest tasks of the journal whose id begins so. Whatever is wrong, Tab says nothing of it."""
    found: tuple[TaskRecord, ...] = ()
    with suppress(Flux2Error):
        found = anyio.run(_newest, context.obj())
    named = [(record.task_id or record.key, STATUSES[record.state], record.request.prompt) for record in found]
    return [
        CompletionItem(ident, help=f"{status}: {' '.join(prompt.split())[:40]}")
        for ident, status, prompt in named
        if ident.startswith(incomplete)
    ]


async def _newest(settings: Settings) -> tuple[TaskRecord, ...]:
    journal = open_journal(settings.home, account_name(settings))
    try:
        return await journal.tasks.recent(limit=MAX_IDS) if journal.exists else ()
    finally:
        await journal.close()
