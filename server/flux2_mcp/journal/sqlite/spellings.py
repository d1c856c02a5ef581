"""Names of accounts that an earlier version wrote as the user typed the service: see `sql.accounts`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux2_mcp.journal.sql.accounts import belongs, move, spelled

if TYPE_CHECKING:  # SQLite loads at its first use
    from flux2_mcp.system.sqlite_file import Database

_NAMES = """
WITH RECURSIVE name (account) AS (
  SELECT min(account) FROM task
  UNION
  SELECT (SELECT min(account) FROM task WHERE account > name.account) FROM name WHERE account IS NOT NULL
)
SELECT account FROM name UNION SELECT account FROM holder UNION SELECT tasks FROM holder
"""
"""Steps from each name to the next in the index: there are few names, and many tasks of each."""


def respell(database: Database) -> None:
    """Bring names that an earlier version wrote as typed to the one spelling, so that each task keeps its owner."""
    there = [str(row[0]) for row in database.read(_NAMES) if isinstance(row[0], str)]
    others = [name for name in there if spelled(name) != name]
    if not others:
        return
    with database.write():
        known = database.read("SELECT account, holder FROM holder ORDER BY rowid")
        database.execute("DELETE FROM holder")
        for name in others:
            move(name, spelled(name), database)
        for row in known:
            belongs(spelled(str(row["account"])), str(row["holder"]), database)
