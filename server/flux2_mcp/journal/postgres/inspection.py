"""The checks of the journal in PostgreSQL for `flux2-mcp doctor`. They change nothing in it."""

from __future__ import annotations

from pathlib import Path

from flux2_mcp.journal.postgres import connection as pg
from flux2_mcp.journal.postgres.migrations import MIGRATIONS, pending
from flux2_mcp.journal.postgres.server import NOW
from flux2_mcp.journal.records import Health
from flux2_mcp.journal.sql import inspection

SIZE = (
    "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class"
    " WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"
)


def health(url: str, account: str) -> Health:
    """Inspect the journal of a database.

    Args:
        url: The address of the database.
        account: A name made from the service and the key; see `engine.backend.account_name`.
    """
    path = Path()
    try:
        connection = pg.connected(url)
    except (pg.Error, pg.UnusableError) as exc:
        return Health("unreadable", path, reason=pg.words(exc), server=pg.place(url))
    with connection:
        database, server = pg.Database(connection), f"{pg.place(url)}, version {pg.version(connection)}"
        try:
            if len(pending(connection)) == len(MIGRATIONS):
                return Health("none", path, server=server)
            tasks = int(database.read("SELECT count(*) FROM task")[0][0])
            size = int(database.read(SIZE)[0][0])
            found = inspection.inspect(database.read, account, float(database.read(NOW)[0][0]))
        except pg.Error as exc:
            return Health("unreadable", path, reason=pg.words(exc), server=server)
    return Health("sound", path, tasks, size, inspection=found, server=server)
