"""`flux2-mcp wait`: the tool `check_task` with task ids, as a command."""

from __future__ import annotations

import click

from flux2_mcp.cli import output, task_output
from flux2_mcp.cli.completion import complete_ids
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.cli.task_output import NO_CANCEL
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.waiting import Outcome, Progress
from flux2_mcp.settings import MAX_WAIT_SECONDS

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
    "--timeout", "seconds", type=click.FloatRange(0, MAX_WAIT_SECONDS), default=MAX_WAIT_SECONDS, metavar="SECONDS",
    help=f"Then return; the tasks run on. Default {MAX_WAIT_SECONDS:g}.",
)  # fmt: skip
@task_output.verbose_option
@task_output.no_picture_option
@output.as_json_option
@click.pass_obj
def wait(
    invocation: Invocation, *, ids: tuple[str, ...], seconds: float, verbose: bool, no_picture: bool, as_json: bool
) -> int:
    """Wait for tasks and print their files. Costs nothing. ID is a task's id, as `flux2-mcp tasks` shows it."""
    settings = invocation()

    async def work() -> Outcome:
        line = task_output.WaitLine()
        with output.progress() as show:

            async def on_progress(progress: Progress) -> None:
                show(line(progress))

            async with Service.opened(settings) as service:
                return await service.check(ids, wait_seconds=seconds, on_progress=on_progress)

    outcome = output.run(work, stopped=f"{NO_CANCEL}\n{task_output.waiting_on(*ids)}")
    return task_output.tell(outcome, None, as_json=as_json, verbose=verbose, env=None if no_picture else invocation.env)
