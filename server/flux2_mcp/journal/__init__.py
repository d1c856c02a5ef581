"""The journal: each task's request, cost and outcome, written to disk before money moves.

No other room knows which database holds it.

Face: `journal`, `contract`, `team_contract`, `listed`, `records`, `watch`.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing and pathlib are not imported here: the server that sleeps has no use for them
if TYPE_CHECKING:
    from pathlib import Path

    from flux2_mcp.journal.contract import Journal
    from flux2_mcp.journal.records import Health


def open_journal(home: Path, account: str, url: str | None = None) -> Journal:
    """The journal of a home or of a database, for this process. Nothing is read or made until its first use.

    Args:
        home: FLUX2_HOME.
        account: A name made from the service and the key, which does not hold the key; see
            `engine.backend.account_name`.
        url: FLUX2_JOURNAL_URL, the address of a PostgreSQL database; without it, the journal is a file of the home.
    """
    from flux2_mcp.journal import owners

    if url is not None:
        from flux2_mcp.journal.postgres.store import PostgresJournal

        return PostgresJournal(url, account, owners.name())
    from flux2_mcp.journal.sqlite.store import SqliteJournal

    return SqliteJournal(home, account, owners.name())


def health(home: Path, account: str, url: str | None = None) -> Health:
    """Inspect the journal. It changes nothing. The arguments are those of `open_journal`."""
    if url is not None:
        from flux2_mcp.journal.postgres import inspection

        return inspection.health(url, account)
    from flux2_mcp.journal.sqlite.inspection import health

    return health(home, account)
