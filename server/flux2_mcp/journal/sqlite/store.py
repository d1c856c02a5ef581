"""The journal in one SQLite file, shared by every process on the same FLUX2_HOME."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flux2_mcp.journal import owners
from flux2_mcp.journal.sql.accounts import SqlAccounts
from flux2_mcp.journal.sql.callbacks import SqlCallbacks
from flux2_mcp.journal.sql.money import SqlMoney
from flux2_mcp.journal.sql.pace import SqlPace
from flux2_mcp.journal.sql.people import Whose
from flux2_mcp.journal.sql.team import SqlPeople
from flux2_mcp.journal.sql.tokens import SqlTokens
from flux2_mcp.journal.sql.uploads import SqlUploads
from flux2_mcp.journal.sqlite.file import JournalFile
from flux2_mcp.journal.sqlite.history import SqliteHistory
from flux2_mcp.journal.sqlite.leases import SqliteLeases
from flux2_mcp.journal.sqlite.tasks import SqliteTasks

if TYPE_CHECKING:  # loaded where a team calls
    from flux2_mcp.journal.sql.audit import SqlAudit
    from flux2_mcp.journal.sql.facts import SqlFacts


class SqliteJournal:
    """See `contract.Journal`.

    Args:
        home: FLUX2_HOME; made at first use, readable by the user alone.
        account: A name made from the service and the key, which does not hold the key. Tasks of other accounts are not
            seen; those of other keys of the same RunAPI account are seen after `accounts.belongs`.
        owner: The name of this process.
        monotonic: The machine's monotonic clock, which all its processes share.
        is_dead: A hint: True for the name of a process that has certainly ended.
    """

    def __init__(
        self,
        home: Path,
        account: str,
        owner: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        is_dead: Callable[[str], bool] = owners.is_dead,
    ) -> None:
        self.owner = owner
        self.file = JournalFile(home, account, owner, monotonic)
        self.money = SqlMoney(self.file)
        self.tasks = SqliteTasks(self.file, self.money)
        self.leases = SqliteLeases(self.file, is_dead)
        self.accounts = SqlAccounts(self.file)
        self.pace = SqlPace(self.file)
        self.uploads = SqlUploads(self.file)
        self.people = SqlPeople(self.file)
        self.tokens = SqlTokens(self.file)
        self.callbacks = SqlCallbacks(self.file)
        self.history = SqliteHistory(self.file)
        self.unread_notice, self.salvage, self.close = self.file.unread_notice, self.file.salvage, self.file.close

    @property
    def facts(self) -> SqlFacts:
        """See `contract.Journal.facts`."""
        from flux2_mcp.journal.sql.facts import SqlFacts  # a server for one person has no use for it

        return SqlFacts(self.file)

    @property
    def audit(self) -> SqlAudit:
        """See `contract.Journal.audit`."""
        from flux2_mcp.journal.sql.audit import SqlAudit  # a server for one person has no use for it

        return SqlAudit(self.file)

    @staticmethod
    def utc_now() -> datetime:
        """See `contract.Journal.utc_now`."""
        return datetime.now(UTC)

    statement_seconds = 0.0
    """A file is never far away."""

    def of(
        self, person: str, *, sees_all: bool = False, client: str | None = None, address: str | None = None
    ) -> SqliteJournal:
        """See `contract.Journal.of`."""
        view, whose = copy(self), Whose(person, sees_all, client, address)
        view.money = self.money.of(person)
        view.tasks, view.history = SqliteTasks(self.file, self.money, whose), SqliteHistory(self.file, whose)
        return view

    @property
    def path(self) -> Path:
        """The file. It exists after the first write."""
        return self.file.path

    @property
    def exists(self) -> bool:
        """See `contract.Journal.exists`."""
        return self.file.exists

    @property
    def was_made(self) -> bool:
        """See `contract.Journal.was_made`."""
        return self.file.was_made

    @property
    def notice(self) -> str | None:
        """See `contract.Journal.notice`."""
        return self.file.notice
