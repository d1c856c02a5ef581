"""`flux2-mcp completion`: Tab completion in shells. click writes and serves the script; ids come from the journal."""

from __future__ import annotations

from contextlib import suppress

import anyio
import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete

from flux2_mcp.cli.output import PROGRAM, echo
from flux2_mcp.domain.lifecycle import STATUSES
from flux2_mcp.engine.backend import account_name
from flux2_mcp.errors import Flux2Error
from flux2_mcp.journal import open_journal
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.settings import Settings
from flux2_mcp.system.terminal import plain

VARIABLE = f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE"
"""The variable that click's script sets when the user presses Tab; `__main__` has this name too."""
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
    echo(SHELLS[shell](context.find_root().command, {}, PROGRAM, VARIABLE).source())


def complete_ids(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a task id from the newest tasks in the journal. Errors are not shown during completion."""
    records: tuple[TaskRecord, ...] = ()
    with suppress(Flux2Error):
        records = anyio.run(_newest, context.obj())
    named = [(record.task_id or record.key, STATUSES[record.state], record.request.prompt) for record in records]
    return [
        CompletionItem(plain(ident), help=plain(f"{status}: {' '.join(prompt.split())[:40]}"))
        for ident, status, prompt in named
        if ident.startswith(incomplete)
    ]


async def _newest(settings: Settings) -> tuple[TaskRecord, ...]:
    journal = open_journal(settings.home, account_name(settings), settings.journal_url)
    try:
        return await journal.tasks.recent(limit=MAX_IDS) if journal.exists else ()
    finally:
        await journal.close()
