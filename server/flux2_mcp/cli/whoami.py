"""`flux2-mcp whoami`: the account behind the key."""

from __future__ import annotations

from collections.abc import Callable

import click

from flux2_mcp.cli import output
from flux2_mcp.cli.output import usd
from flux2_mcp.engine.account import Account, AccountInfo
from flux2_mcp.server.results import account as account_results
from flux2_mcp.server.results.account import AccountResult
from flux2_mcp.settings import Settings

EPILOG = """
\b
Examples:
  flux2-mcp whoami
  flux2-mcp whoami --json
"""


@click.command(epilog=EPILOG)
@output.as_json_option
@click.pass_obj
def whoami(read_settings: Callable[[], Settings], *, as_json: bool) -> None:
    """Show whose key is used, where it comes from, and its balance."""
    settings = read_settings()

    async def work() -> AccountInfo:
        async with Account.opened(settings) as accounts:
            return await accounts.known()

    result = account_results.account(output.run(work, stopped="Stopped."), settings)
    output.tell(result, _words, as_json=as_json)


def _words(result: AccountResult) -> str:
    rows = {
        "Account": result.account or result.name,
        "E-mail": result.email,
        "Balance": usd(result.balance_usd),
        "Key": f"{result.key}, from {result.key_source}" if result.key else "none: the sandbox needs none",
        "RunAPI": result.base_url,
    }
    lines = output.columns([(name, value) for name, value in rows.items() if value])
    return "\n".join([*lines, result.notice] if result.notice else lines)
