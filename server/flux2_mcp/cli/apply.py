"""`flux2-mcp apply`: makes what `plan` says."""

from __future__ import annotations

import math
from decimal import Decimal
from functools import partial

import click

from flux2_mcp.cli import output, project, task_output
from flux2_mcp.cli.generate import ask
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.cli.output import own_words, usd
from flux2_mcp.cli.project import SOMETHING_TO_DO
from flux2_mcp.engine.applied import PATIENCE_SECONDS, Applied
from flux2_mcp.engine.applied import Result as Became
from flux2_mcp.engine.manifest_quotes import ManifestQuote
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.waiting import Progress
from flux2_mcp.errors import ServiceError
from flux2_mcp.server.results import apply as results
from flux2_mcp.server.results.apply import ApplyResult
from flux2_mcp.system import memory

EPILOG = """
\b
Examples:
  flux2-mcp apply
  flux2-mcp apply public/hero.png --max-cost 0.20
  flux2-mcp apply --yes --json

It may be stopped at any time: the same command goes on, and pays nothing twice.
Exit codes: 0 all is as flux2.toml says, 8 files that were edited by hand were left, 7 a picture failed.
"""
WAIT_SECONDS = 3600.0
AGAIN = f"{output.PROGRAM} apply goes on with it, and pays nothing twice."
COLORS = {
    Became.MADE: "green",
    Became.RESTORED: "green",
    Became.MOVED: "cyan",
    Became.DERIVED: "cyan",
    Became.FORGOTTEN: "bright_black",
    Became.KEPT: "magenta",
    Became.WAITING: "yellow",
    Became.OPEN: "yellow",
    Became.FAILED: "red",
}


def _seconds(_: click.Context, __: click.Parameter, value: float) -> float:
    if math.isnan(value):
        raise click.BadParameter("that is not a number.")
    return value


@click.command(epilog=EPILOG)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option(
    "--max-cost", "max_cost_usd", metavar="USD", callback=output.amount, help="Refuse if all would cost more."
)
@click.option("--yes", is_flag=True, help="Don't ask, whatever it costs; --max-cost asks neither.")
@click.option("--overwrite", is_flag=True, help="Replace files that were edited by hand.")
@click.option(
    "--wait", "wait_seconds", type=click.FloatRange(0, PATIENCE_SECONDS), default=WAIT_SECONDS, metavar="SECONDS",
    callback=_seconds, help=f"Then return; the tasks run on. Default {WAIT_SECONDS:.0f}.",
)  # fmt: skip
@output.as_json_option
@click.pass_obj
def apply(
    invocation: Invocation,
    /,
    *,
    paths: tuple[str, ...],
    max_cost_usd: Decimal | None,
    yes: bool,
    overwrite: bool,
    wait_seconds: float,
    as_json: bool,
) -> int:
    """Make the pictures of flux2.toml that are new, changed or missing: all, or these. Costs what plan says."""
    settings = invocation()
    memory.one_arena()
    found = project.find(invocation, live=settings.mode == "live")
    chosen = project.named(invocation, found, paths)

    async def quote() -> ManifestQuote:
        async with Service.opened(settings, keep=False) as service:
            return await service.manifests.quote(found, paths=chosen, overwrite=overwrite, stated_usd=max_cost_usd)

    async def make(quoted: ManifestQuote) -> Applied:
        line = task_output.WaitLine()
        with output.progress() as show:
            show("starting")

            async def on_progress(progress: Progress) -> None:
                show(line(progress) if progress.states else "")

            async with Service.opened(settings) as service:
                return await service.manifests.apply(
                    quoted,
                    approved=True,
                    wait_seconds=wait_seconds,
                    client=output.PROGRAM,
                    on_progress=on_progress,
                )

    quoted = output.run(quote, stopped="Stopped. Nothing was made.")
    if (needed := quoted.to_ask) is not None and not yes:
        ask(needed)
    done = output.run(partial(make, quoted), stopped=f"{task_output.NO_CANCEL}\n{AGAIN}")
    if as_json:
        output.as_values(results.applied(done))
    else:
        output.echo(_words(results.applied(done)))
    return _exit_code(done)


def _exit_code(done: Applied) -> int:
    """Return 0 if all is there, or else the code of the first error, of a time-out, or of what was left."""
    errors = [each.error for each in done.images if each.result is Became.FAILED and each.error is not None]
    if errors:
        return errors[0].exit_code
    left = {each.result for each in done.images}
    if Became.OPEN in left:
        return ServiceError.exit_code
    return SOMETHING_TO_DO if left & {Became.KEPT, Became.WAITING} else 0


def _words(result: ApplyResult) -> str:
    if not result.images:
        return f"{output.style('Nothing to do', fg='green')}: {result.current} pictures are as {result.manifest} says."
    widths = max(len(each.result) for each in result.images), max(len(each.path) for each in result.images)
    lines = []
    for each in result.images:
        mark = output.style(each.result.ljust(widths[0]), fg=COLORS.get(each.result))
        cost = "" if each.charged_usd is None else usd(each.charged_usd)
        lines.append(f"  {mark}  {each.path.ljust(widths[1])}  {cost}".rstrip())
        if each.error:
            lines.append(f"{' ' * (widths[0] + 4)}{own_words(each.error)}")
        elif each.result is Became.KEPT:
            lines.append(f"{' ' * (widths[0] + 4)}edited by hand, so it was left as it is")
    verb = "would charge" if result.sandbox else "charged"
    charged = f"{verb} {usd(result.charged_usd)}" if result.charged_usd is not None else "nothing was paid"
    left = f"{result.left} left to do" if result.left else f"all is as {result.manifest} says"
    lines += ["", f"{output.style(left, fg='yellow' if result.left else 'green')}; {charged}."]
    lines += [f"Next: {own_words(result.next_step)}"] if result.next_step else []
    drawn = result.sandbox and any(each.result is Became.MADE for each in result.images)
    return "\n".join([*lines, *([task_output.DRAWN_NOTICE] if drawn else [])])
