"""`flux2-mcp team people` and `flux2-mcp team caps`: who uses a team's server, and what each may spend."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import click

from flux2_mcp.cli import output
from flux2_mcp.cli.output import usd
from flux2_mcp.engine.team import Member, Team
from flux2_mcp.server.results import team as results
from flux2_mcp.server.results.team import PeopleResult, PersonResult
from flux2_mcp.settings import Settings

EVERYBODYS = "default"
SHOWN_CHARS = 8
"""Of a person's key, in the table."""


@click.command()
@output.as_json_option
@click.pass_obj
def people(read_settings: Callable[[], Settings], *, as_json: bool) -> None:
    """Show who has called, what each has spent, and the caps that hold for each.

    SEEN is up to an hour before the last call. From the journal of the server: run it where FLUX2_JOURNAL_URL or FLUX2_HOME is the server's.
    """
    settings = read_settings()

    async def work() -> list[Member]:
        async with Team.opened(settings) as team:
            return await team.people()

    output.tell(results.people(output.run(work, stopped="Stopped.")), _words, as_json=as_json)


def _cap(_: click.Context, parameter: click.Parameter, text: str | None) -> Decimal | str | None:
    return EVERYBODYS if text == EVERYBODYS else output.amount(_, parameter, text)


@click.command()
@click.argument("who", metavar="PERSON")
@click.option("--daily", metavar="USD", callback=_cap, help="The most in any 24 hours; default: everybody's cap.")
@click.option("--monthly", metavar="USD", callback=_cap, help="The most in any 30 days; default: everybody's cap.")
@output.as_json_option
@click.pass_obj
def caps(
    read_settings: Callable[[], Settings],
    *,
    who: str,
    daily: Decimal | str | None,
    monthly: Decimal | str | None,
    as_json: bool,
) -> None:
    """Show the caps of a person, or give them caps of their own.

    PERSON is what flux2-mcp team people shows: the key or its beginning, the name or the subject. The cap of their own holds
    in the place of everybody's, from the next call on and on every server.
    """
    settings = read_settings()

    async def work() -> Member:
        async with Team.opened(settings) as team:
            member = await team.member(who)
            if daily is None and monthly is None:
                return member
            known = member.person
            return await team.cap(
                known.key,
                daily_usd=_chosen(daily, known.daily_usd),
                monthly_usd=_chosen(monthly, known.monthly_usd),
            )

    output.tell(results.person(output.run(work, stopped="Stopped.")), _one, as_json=as_json)


def _chosen(given: Decimal | str | None, now: Decimal | None) -> Decimal | None:
    if given is None:
        return now
    return given if isinstance(given, Decimal) else None


def _words(result: PeopleResult) -> str:
    if not result.people:
        return "Nobody has called yet."
    rows: list[tuple[str, ...]] = [("PERSON", "NAME", "SUBJECT", "24 HOURS", "CAP", "30 DAYS", "CAP", "SEEN")]
    rows += [
        (
            each.person[:SHOWN_CHARS],
            (each.name or "none") + (" (admin)" if each.admin else ""),
            each.subject,
            usd(each.day_usd),
            _limit(each.day_cap_usd),
            usd(each.month_usd),
            _limit(each.month_cap_usd),
            each.seen_at,
        )
        for each in result.people
    ]
    return "\n".join([*output.columns(rows, right={3, 4, 5, 6}), "", _whose_caps(result.people[0].caps_told_at)])


def _whose_caps(told_at: str | None) -> str:
    if told_at is not None:
        return f"Caps are those of the server that started last, at {told_at}, and each person's own."
    variables = "FLUX2_PERSON_DAILY_BUDGET_USD and FLUX2_PERSON_MONTHLY_BUDGET_USD"
    return f"No server has told its caps so far: caps are what {variables} say here, and each person's own."


def _one(result: PersonResult) -> str:
    return _words(PeopleResult(people=[result]))


def _limit(cap: float | None) -> str:
    return "none" if cap is None else usd(cap)
