"""`flux2-mcp plan`: what is to do so that a project's pictures are those of its flux2.toml."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flux2_mcp.cli import output, project
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.cli.output import own_words, usd
from flux2_mcp.cli.project import SOMETHING_TO_DO
from flux2_mcp.domain.manifest.plan import Plan
from flux2_mcp.engine.project import Project
from flux2_mcp.server.results import plan as results
from flux2_mcp.server.results.plan import PlanResult
from flux2_mcp.settings import Settings

if TYPE_CHECKING:  # with --check, nothing of it is loaded
    from flux2_mcp.engine.manifest_quotes import ManifestQuote

EPILOG = """
\b
Examples:
  flux2-mcp plan
  flux2-mcp plan --check    # in CI: no key, no network
  flux2-mcp plan --json | jq -r '.images[].path'

Exit codes: 0 nothing to do, 8 something; 4 flux2.toml can't be used.
"""
REPLACE = f"Next: nothing, or {output.PROGRAM} apply --overwrite, which replaces what was edited by hand."


@click.command(epilog=EPILOG)
@click.option("--check", is_flag=True, help="Ask nobody for prices: needs no key and no network. For CI.")
@output.as_json_option
@click.pass_obj
def plan(invocation: Invocation, /, *, check: bool, as_json: bool) -> int:
    """Show what apply would do: which pictures are new, changed, missing or edited, and what it would cost. Free."""
    settings = None if check else invocation()
    found = project.find(invocation, live=settings is not None and settings.mode == "live")
    planned = found.plan()
    result = results.plan(planned if settings is None or planned.done else _quote(settings, found, planned))
    if as_json:
        output.as_values(result)
    else:
        output.echo(_words(result))
    return SOMETHING_TO_DO if result.images else 0


def _quote(settings: Settings, found: Project, planned: Plan) -> ManifestQuote:
    from flux2_mcp.engine import manifest_quotes

    async def work() -> ManifestQuote:
        async with manifest_quotes.quoting(settings) as quotes:
            return await quotes.quote(found, planned, balance=True)

    return output.run(work, stopped="Stopped. Nothing was made.")


def _words(result: PlanResult) -> str:
    if not result.images:
        count = f"{result.current} {'picture is' if result.current == 1 else 'pictures are'}"
        return f"{output.style('Nothing to do', fg='green')}: {count} as {result.manifest} says."
    lines = [*project.table(result.images), "", _sum(result)]
    if result.balance_usd is not None:
        lines.append(f"Balance: {usd(result.balance_usd)}")
    lines += [f"Left of {cap.name}: {usd(cap.left_usd)}" for cap in result.caps or ()]
    lines += [own_words(result.notice)] if result.notice else []
    left = all(image.kept or image.blocked for image in result.images)
    return "\n".join([*lines, REPLACE if left else f"Next: {output.PROGRAM} apply"])


def _sum(result: PlanResult) -> str:
    counts = output.style(results.counted(result.counts), bold=True)
    rest = f", {result.current} current" if result.current else ""
    asked = any(image.usd is not None for image in result.images)
    return f"{counts}{rest}{f': {results.price(result)}' if asked else ''}."
