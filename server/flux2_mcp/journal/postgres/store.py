"""The journal in a PostgreSQL database, shared by every process that has its address."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy
from datetime import datetime
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from flux2_mcp.journal import owners
from flux2_mcp.journal.postgres.history import PostgresHistory
from flux2_mcp.journal.postgres.leases import PostgresLeases
from flux2_mcp.journal.postgres.listening import Listener
from flux2_mcp.journal.postgres.pace import PostgresPace
from flux2_mcp.journal.postgres.server import CALL_SECONDS, LEASE_SECONDS, JournalServer
from flux2_mcp.journal.postgres.tasks import PostgresTasks
from flux2_mcp.journal.sql.accounts import SqlAccounts
from flux2_mcp.journal.sql.callbacks import SqlCallbacks
from flux2_mcp.journal.sql.money import SqlMoney
from flux2_mcp.journal.sql.people import Whose
from flux2_mcp.journal.sql.team import SqlPeople
from flux2_mcp.journal.sql.tokens import SqlTokens
from flux2_mcp.journal.sql.uploads import SqlUploads

if TYPE_CHECKING:  # loaded where a team calls
    from flux2_mcp.journal.sql.audit import SqlAudit
    from flux2_mcp.journal.sql.facts import SqlFacts


class PostgresJournal:
    """See `contract.Journal`.

    Args:
        url: The address of the database. Its user may make tables in the first schema of its `search_path`.
        account: A name made from the service and the key, which does not hold the key; see `SqliteJournal`.
        owner: The name of this process.
        clock: A clock in the place of the server's, in seconds.
        call_seconds: A call whose server says nothing for so long ends in an error.
        lease_seconds: How long a lease lasts without renewal.
        is_dead: A hint: True for the name of a process that has certainly ended.
        wall: This machine's clock, in seconds since 1970.
    """

    exists = True
    """A server has no file that a look could make."""
    was_made = True
    notice: str | None = None

    def __init__(
        self,
        url: str,
        account: str,
        owner: str,
        *,
        clock: Callable[[], float] | None = None,
        call_seconds: float = CALL_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
        is_dead: Callable[[str], bool] = owners.is_dead,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.owner = owner
        self.server = JournalServer(url, account, owner, clock, call_seconds, lease_seconds, wall)
        self.listener = Listener(self.server.connect, owner, call_seconds)
        self.money = SqlMoney(self.server)
        self.tasks = PostgresTasks(self.server, self.money)
        self.leases = PostgresLeases(self.server, self.listener, is_dead)
        self.accounts = SqlAccounts(self.server)
        self.pace = PostgresPace(self.server)
        self.uploads = SqlUploads(self.server)
        self.people = SqlPeople(self.server)
        self.tokens = SqlTokens(self.server)
        self.callbacks = SqlCallbacks(self.server)
        self.history = PostgresHistory(self.server)
        self.unread_notice = self.server.unread_notice

    @property
    def facts(self) -> SqlFacts:
        """See `contract.Journal.facts`."""
        from flux2_mcp.journal.sql.facts import SqlFacts  # a server for one person has no use for it

        return SqlFacts(self.server)

    @property
    def audit(self) -> SqlAudit:
        """See `contract.Journal.audit`."""
        from flux2_mcp.journal.sql.audit import SqlAudit  # a server for one person has no use for it

        return SqlAudit(self.server)

    @property
    def statement_seconds(self) -> float:
        """See `contract.Journal.statement_seconds`."""
        return self.server.slowness.seconds

    def utc_now(self) -> datetime:
        """See `contract.Journal.utc_now`."""
        return self.server.wall_clock.now()

    def of(
        self, person: str, *, sees_all: bool = False, client: str | None = None, address: str | None = None
    ) -> PostgresJournal:
        """See `contract.Journal.of`."""
        view, whose = copy(self), Whose(person, sees_all, client, address)
        view.money = self.money.of(person)
        view.tasks, view.history = PostgresTasks(self.server, self.money, whose), PostgresHistory(self.server, whose)
        return view

    async def salvage(self) -> None:
        """See `contract.Journal.salvage`. A server looks after its files itself: this only asks whether it answers."""
        await self.server.run(lambda database: database.read("SELECT count(*) FROM task"))

    async def close(self) -> None:
        """See `contract.Journal.close`."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.listener.close)
            await self.server.close()
