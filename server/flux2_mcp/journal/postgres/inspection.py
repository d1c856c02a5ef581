"""The checks of the journal in PostgreSQL for `flux2-mcp doctor`. They change nothing in it."""

from __future__ import annotations

from pathlib import Path

from flux2_mcp.journal.postgres import connection as pg
from flux2_mcp.journal.postgres.migrations import MIGRATIONS, pending
from flux2_mcp.journal.postgres.server import CALL_SECONDS, NOW
from flux2_mcp.journal.records import Health
from flux2_mcp.journal.sql import inspection

SIZE = (
    "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class"
    " WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"
)


def health(url: str, account: str, *, answer_seconds: float = CALL_SECONDS) -> Health:
    """Inspect the journal of a database.

    Args:
        url: The address of the database.
        account: A name made from the service and the key; see `engine.backend.account_name`.
        answer_seconds: The longest time that all of it may take.
    """
    path, limit, server = Path(), pg.Limit(), pg.place(url)
    try:
        with limit.within(answer_seconds), pg.connected(url, limit.hold) as connection:
            server = f"{server}, version {pg.version(connection)}"
            database = pg.Database(connection)
            if len(pending(database)) == len(MIGRATIONS):
                return Health("none", path, server=server)
            tasks = int(database.read("SELECT count(*) FROM task")[0][0])
            size = int(database.read(SIZE)[0][0])
            found = inspection.inspect(database.read, account, float(database.read(NOW)[0][0]))
    except (pg.Error, pg.UnusableError) as exc:
        return Health("unreadable", path, reason=pg.words(exc), server=server)
    return Health("sound", path, tasks, size, inspection=found, server=server)
