"""`flux2-mcp team audit`: who did what on a team's server."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import click

from flux2_mcp.cli import output
from flux2_mcp.cli.output import usd
from flux2_mcp.domain.audit import What
from flux2_mcp.engine.team import AuditLine, Team
from flux2_mcp.errors import shortened
from flux2_mcp.server.results import team as results
from flux2_mcp.server.results.team import AuditEntryResult, AuditResult
from flux2_mcp.settings import Settings

MAX_ENTRIES = 10_000
KEY_CHARS = 8
"""Of a person's key and of a task's id, in the table."""
NAME_CHARS, CLIENT_CHARS = 14, 17
HERE, LINK = "this machine", "a link"


@click.command()
@click.option("--since", metavar="WHEN", callback=output.moment, help="30m, 24h, 7d, or ISO 8601.")
@click.option("--person", "who", metavar="PERSON", help="Only what this person did, or others with what is theirs.")
@click.option("--task", metavar="ID", help="Only what concerns this task.")
@click.option("--refused", is_flag=True, help="Only what was refused.")
@click.option(
    "--limit", type=click.IntRange(1, MAX_ENTRIES), default=50, metavar="N", help="The newest so many; default 50."
)
@output.as_json_option
@click.pass_obj
def audit(
    read_settings: Callable[[], Settings],
    *,
    since: datetime | None,
    who: str | None,
    task: str | None,
    refused: bool,
    limit: int,
    as_json: bool,
) -> None:
    """Show who did what, newest first: what cost something, what was shown, and what a cap refused.

    From the journal of the server: run it where FLUX2_JOURNAL_URL or FLUX2_HOME is the server's. PERSON is what flux2-mcp
    team people shows. Times are UTC.
    """
    settings = read_settings()

    async def work() -> list[AuditLine]:
        async with Team.opened(settings) as team:
            return await team.audit(limit=limit, since=since, who=who, task=task, refused=refused)

    output.tell(results.audit(output.run(work, stopped="Stopped.")), _words, as_json=as_json)


def _words(result: AuditResult) -> str:
    """A row for each entry; what most entries do not have stands below it."""
    if not result.entries:
        return "The audit has no such entry."
    rows: list[tuple[str, ...]] = [("WHEN", "WHO", "CLIENT", "ADDRESS", "WHAT", "TASK", "COST")]
    rows += [
        (
            each.at.replace("T", " ").removesuffix("Z"),
            _who(each.person, each.name) or (LINK if each.what == What.IMAGE else HERE),
            shortened(each.client or "", CLIENT_CHARS),
            each.address or "",
            each.what,
            (each.task_id or each.task_key or "")[:KEY_CHARS],
            "" if each.usd is None or each.what == What.CAPS else usd(each.usd),
        )
        for each in result.entries
    ]
    head, *lines = output.columns(rows, right={6})
    return "\n".join(
        [head, *(line for row, each in zip(lines, result.entries, strict=True) for line in (row, *_below(each)))]
    )


def _below(entry: AuditEntryResult) -> list[str]:
    """What an entry has beside the table: of whom, and which cap."""
    whose = _who(entry.whose, entry.whose_name)
    said = [f"of {whose}"] if whose else []
    if entry.outcome == "refused":
        said.append(
            f"refused by {entry.cap}" if entry.cap else "refused: no price is known, or it is more than max_cost_usd"
        )
    elif entry.cap:
        said.append(f"{entry.cap} is now {'the one of everybody' if entry.usd is None else usd(entry.usd)}")
    return [f"  {', '.join(said)}"] if said else []


def _who(key: str | None, name: str | None) -> str:
    return shortened(name, NAME_CHARS) if name else (key or "")[:KEY_CHARS]
