"""`flux2-mcp balance`: the balance of the account."""

from __future__ import annotations

from collections.abc import Callable

import click

from flux2_mcp.cli import output
from flux2_mcp.cli.output import usd
from flux2_mcp.domain.models import Balance
from flux2_mcp.engine.account import Account
from flux2_mcp.server.results import account as account_results
from flux2_mcp.server.results.account import BalanceResult
from flux2_mcp.settings import Settings

EPILOG = """
\b
Examples:
  flux2-mcp balance
  flux2-mcp balance --json | jq .balance_usd
"""


@click.command(epilog=EPILOG)
@output.as_json_option
@click.pass_obj
def balance(read_settings: Callable[[], Settings], *, as_json: bool) -> None:
    """Show the account's balance in USD, and what it spent."""
    settings = read_settings()

    async def work() -> Balance:
        async with Account.opened(settings) as accounts:
            return await accounts.balance()

    output.tell(account_results.balance(output.run(work, stopped="Stopped."), settings), _words, as_json=as_json)


def _words(result: BalanceResult) -> str:
    rows = {
        "Balance": result.balance_usd,
        "  paid": result.paid_usd,
        "  bonus": result.bonus_usd,
        "Spent today": result.spent_today_usd,
        "Spent in all": result.spent_total_usd,
    }
    cells = [(name, usd(amount)) for name, amount in rows.items() if amount is not None]
    lines = output.columns(cells, right={1})
    return "\n".join([*lines, result.notice] if result.notice else lines)
