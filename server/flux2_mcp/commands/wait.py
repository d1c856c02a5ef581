"""`flux2-mcp wait`: the tool `check_task` for tasks that are known by their ids, for people."""

from __future__ import annotations

import click

from flux2_mcp.commands import outcomes, output
from flux2_mcp.commands.completion import complete_ids
from flux2_mcp.commands.invocation import Invocation
from flux2_mcp.commands.outcomes import NO_CANCEL
from flux2_mcp.service import Service
from flux2_mcp.settings import LONGEST_WAIT
from flux2_mcp.waiting import Outcome, Progress

EPILOG = """
\b
Examples:
  flux2-mcp wait 0193a5f0-7c1e-7d3a-9b21-4f60aa17c2de
  flux2-mcp wait 0193a5f0-7c1e-7d3a-9b21-4f60aa17c2de --timeout 60 --json | jq .status

Exit code 0: every image is on disk. 5: the time is over, the tasks run on. 7: a task failed, and was not charged.
"""


@click.command(epilog=EPILOG)
@click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=complete_ids)
@click.option(
    "--timeout", "seconds", type=click.FloatRange(0, LONGEST_WAIT), default=LONGEST_WAIT, metavar="SECONDS",
    help=f"Then return; the tasks run on. Default {LONGEST_WAIT:g}.",
)  # fmt: skip
@outcomes.no_picture_option
@output.as_json_option
@click.pass_obj
def wait(invocation: Invocation, *, ids: tuple[str, ...], seconds: float, no_picture: bool, as_json: bool) -> int:
    """Wait for tasks and print their files. Costs nothing. ID is a task's id, as `flux2-mcp tasks` shows it."""
    settings = invocation()

    async def work() -> Outcome:
        line = outcomes.Line()
        with output.progress() as show:

            async def on_progress(progress: Progress) -> None:
                show(line(progress))

            async with Service.opened(settings) as service:
                return await service.check(ids, wait_seconds=seconds, on_progress=on_progress)

    outcome = output.run(work, stopped=f"{NO_CANCEL}\n{outcomes.waiting_on(*ids)}")
    return outcomes.tell(outcome, None, as_json=as_json, env=None if no_picture else invocation.env)
