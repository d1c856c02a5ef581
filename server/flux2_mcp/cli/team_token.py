"""`flux2-mcp team token`: tokens for programs that can't sign in through a browser."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import click

from flux2_mcp.cli import output
from flux2_mcp.domain.personal_tokens import TokenRecord
from flux2_mcp.engine.team import Team
from flux2_mcp.server.results import team as results
from flux2_mcp.server.results.team import NewTokenResult, TokenResult, TokensResult
from flux2_mcp.settings import Settings


@click.group()
def token() -> None:
    """Make, list and revoke personal tokens: for programs that can't sign in through a browser.

    They work on the server's journal, so run them where FLUX2_JOURNAL_URL or FLUX2_HOME is the server's.
    """


@token.command()
@click.argument("name", metavar="NAME")
@click.option("--days", type=int, metavar="N", help="How long it is in force; without it, until it is revoked.")
@click.option("--daily", metavar="USD", callback=output.amount, help="The most that NAME may spend in any 24 hours.")
@click.option("--monthly", metavar="USD", callback=output.amount, help="The most that NAME may spend in any 30 days.")
@output.as_json_option
@click.pass_obj
def create(
    read_settings: Callable[[], Settings],
    *,
    name: str,
    days: int | None,
    daily: Decimal | None,
    monthly: Decimal | None,
    as_json: bool,
) -> None:
    """Make a token, and show it once.

    NAME is whose it is, such as nightly-build. Tokens with the same name are one person's: they share tasks and caps. So a new
    token can take the place of an old one.
    """
    settings = read_settings()

    async def work() -> tuple[str, TokenRecord]:
        async with Team.opened(settings) as team:
            return await team.make_token(name, days=days, daily_usd=daily, monthly_usd=monthly)

    made, record = output.run(work, stopped="Stopped.")
    output.tell(results.new_token(made, record), _made, as_json=as_json)


@token.command("list")
@output.as_json_option
@click.pass_obj
def list_tokens(read_settings: Callable[[], Settings], *, as_json: bool) -> None:
    """Show all tokens, the latest first. The tokens themselves are not kept, so they are not shown."""
    settings = read_settings()

    async def work() -> tuple[tuple[TokenRecord, str], ...]:
        async with Team.opened(settings) as team:
            return await team.tokens()

    output.tell(results.tokens(output.run(work, stopped="Stopped.")), _words, as_json=as_json)


@token.command()
@click.argument("ident", metavar="ID")
@output.as_json_option
@click.pass_obj
def revoke(read_settings: Callable[[], Settings], *, ident: str, as_json: bool) -> None:
    """Take a token back for ever. Every server refuses it within five seconds.

    ID is what flux2-mcp team token list shows. Tasks that were made with the token go on.
    """
    settings = read_settings()

    async def work() -> TokenRecord:
        async with Team.opened(settings) as team:
            return await team.revoke(ident)

    output.tell(results.token(output.run(work, stopped="Stopped."), "revoked"), _one, as_json=as_json)


def _made(result: NewTokenResult) -> str:
    ends = f"It is in force until {result.expires_at}" if result.expires_at else "It is in force until it is revoked"
    return (
        f"{result.token}\n\nThis is shown once. {ends}: flux2-mcp team token revoke {result.id}\n"
        f"A program sends it with each call: Authorization: Bearer TOKEN."
    )


def _words(result: TokensResult) -> str:
    if not result.tokens:
        return "There are no personal tokens."
    rows: list[tuple[str, ...]] = [("ID", "NAME", "STATE", "MADE", "UNTIL")]
    rows += [(each.id, each.name, each.state, each.created_at, each.expires_at or "no end") for each in result.tokens]
    return "\n".join(output.columns(rows))


def _one(result: TokenResult) -> str:
    return _words(TokensResult(tokens=[result]))
