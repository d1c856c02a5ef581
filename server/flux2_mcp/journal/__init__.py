"""The journal: what was asked for, what it cost and what became of it, on disk before money moves.

Which database it stands in is nobody else's matter.

Face: `journal`, `contract`, `records`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flux2_mcp.journal import owners

if TYPE_CHECKING:
    from flux2_mcp.journal.contract import Journal
    from flux2_mcp.journal.records import Health


def open_journal(home: Path, account: str) -> Journal:
    """The journal of a home, as this process uses it. Nothing is read or made until its first use.

    Args:
        home: FLUX2_HOME.
        account: Names the service and the key, without the key; see `engine.backend.account_name`.
    """
    from flux2_mcp.journal.sqlite.store import SqliteJournal

    return SqliteJournal(home, account, owners.name())


def health(home: Path, account: str) -> Health:
    """Look at the journal of a home, which is there; changes nothing. The arguments are those of `open_journal`."""
    from flux2_mcp.journal.sqlite.inspection import health

    return health(home, account)
