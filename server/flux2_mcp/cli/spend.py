"""`flux2-mcp spend`: the quoted and the charged amounts, from the journal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from functools import partial

import click

from flux2_mcp.cli import output
from flux2_mcp.cli.output import own_words, usd
from flux2_mcp.domain.budget import DAILY_VARIABLE, SpendingBy, dollars
from flux2_mcp.engine.account import Account
from flux2_mcp.server.results import account as account_results
from flux2_mcp.server.results.account import SpendingResult, SpendResult
from flux2_mcp.settings import Settings

EPILOG = """
\b
Examples:
  flux2-mcp spend
  flux2-mcp spend --by workspace --since 7d
  flux2-mcp spend --by variant --since 2026-11-01 --json | jq .total.charged_usd
  flux2-mcp spend --lost 0.35

From this machine's journal, for the key in use. RunAPI's own account of it: flux2-mcp balance.
"""


@click.command(epilog=EPILOG)
@click.option(
    "--by", type=click.Choice([by.value for by in SpendingBy]), default=SpendingBy.DAY.value, help="Default: day."
)
@click.option(
    "--since", default="30d", metavar="WHEN", callback=output.moment, help="30m, 24h, 7d, or ISO 8601. Default 30d."
)
@click.option(
    "--lost", "missing_usd", metavar="USD", callback=output.amount,
    help="After a journal was lost: count so much of the last 24 hours that is missing here. Opens the day's cap.",
)  # fmt: skip
@output.as_json_option
@click.pass_obj
def spend(
    read_settings: Callable[[], Settings], *, by: str, since: datetime, missing_usd: Decimal | None, as_json: bool
) -> None:
    """Show what was spent: quoted beside charged, by day, variant, workspace or person. Asks nobody and costs nothing."""
    settings = read_settings()

    async def work() -> SpendResult:
        async with Account.opened(settings) as accounts:
            if missing_usd is not None:
                await accounts.settle(missing_usd)
            found, day = await accounts.spending(SpendingBy(by), since), await accounts.day()
            return account_results.spend(found, day, settings, by=SpendingBy(by), since=since, notice=accounts.notice)

    words = partial(_words, cap_usd=settings.caps.daily_usd)
    output.tell(output.run(work, stopped="Stopped."), words, as_json=as_json)


def _words(result: SpendResult, cap_usd: Decimal | None) -> str:
    notice = [own_words(result.notice)] if result.notice else []
    if cap_usd is not None:
        counted = f"{usd(result.counted_usd)} of {dollars(cap_usd)} counted in the last 24 hours, over all keys."
        notice = [f"{DAILY_VARIABLE}: {counted}", *notice]
    if not result.groups:
        return "\n".join([f"Nothing was asked for since {result.since}.", *notice])
    charged = "WOULD CHARGE" if result.sandbox else "CHARGED"
    rows: list[tuple[str, ...]] = [(result.by.upper(), "TASKS", "FAILED", "QUOTED", charged)]
    rows += [_row(group, group.name or "none") for group in result.groups]
    rows.append(_row(result.total, "total"))
    head, *lines, last = output.columns(rows, right={1, 2, 3, 4})
    notes = {
        f"Of {result.total.open} the charge is not known: they run, or RunAPI never told.": result.total.open,
        f"Of {result.total.unquoted} no price was known before; only their charge is counted.": result.total.unquoted,
    }
    return "\n".join(
        [
            output.style(head, bold=True),
            *lines,
            output.style(last, bold=True),
            *(note for note, count in notes.items() if count),
            *notice,
        ]
    )


def _row(group: SpendingResult, name: str) -> tuple[str, ...]:
    return name, str(group.tasks), str(group.failed), usd(group.quoted_usd), usd(group.charged_usd)
