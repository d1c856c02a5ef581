"""The journal: each task's request, cost and outcome, written to disk before money moves.

No other room knows which database holds it.

Face: `journal`, `contract`, `listed`, `records`, `watch`.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing and pathlib are not imported here: the server that sleeps has no use for them
if TYPE_CHECKING:
    from pathlib import Path

    from flux2_mcp.journal.contract import Journal
    from flux2_mcp.journal.records import Health


def open_journal(home: Path, account: str) -> Journal:
    """The journal of a home, for this process. Nothing is read or made until its first use.

    Args:
        home: FLUX2_HOME.
        account: A name made from the service and the key, which does not hold the key; see
            `engine.backend.account_name`.
    """
    from flux2_mcp.journal import owners
    from flux2_mcp.journal.sqlite.store import SqliteJournal

    return SqliteJournal(home, account, owners.name())


def health(home: Path, account: str) -> Health:
    """Inspect the journal of a home. It changes nothing. The arguments are those of `open_journal`."""
    from flux2_mcp.journal.sqlite.inspection import health

    return health(home, account)
