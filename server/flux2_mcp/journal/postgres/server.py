"""The journal's database: its connections, its transactions, what is told when it can't be reached.

Rules
- Caps, joins, places, names and accounts are decided in a transaction that holds a lock of its own (`HOME`): an advisory
  lock, which PostgreSQL frees with the transaction, after its rows are visible to others. The statements after the lock
  see all that earlier holders have written (READ COMMITTED: each statement has a new snapshot). SERIALIZABLE would do
  without the lock, and calls at the edge of a cap would be tried again and again: with a lock each is decided once.
- A step of one task locks that task's row, and no more; turns have a lock for each account. The order is always the same:
  the advisory lock, then rows. Two that still cross are undone by PostgreSQL, and tried again.
- Intents, steps and all else that is durable are on the server's disk when `write` returns, also where the server's own
  setting is less (`synchronous_commit`). Leases, turns, marks and names need not be.
- The clock is the server's. It is read after the locks are held.
- A connection that is lost is replaced, and the work done again: keys, fences and states make a second time harmless. A
  server that can't be reached is a `JournalError` at once; the next call tries anew.
- Nobody waits without end: for a connection, a lock, a statement, or a server that says nothing (`CALL_SECONDS`).

Doubts
- All intents of a home wait for each other's sync to disk: about as many calls a second as the disk syncs.
- A pooler that hands a connection to others after each transaction (pgbouncer) forgets the timeouts, and LISTEN fails there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import anyio
import anyio.to_thread

from flux2_mcp.errors import JournalError, Wording
from flux2_mcp.journal.postgres import connection as pg
from flux2_mcp.journal.postgres.connection import Connection, Database
from flux2_mcp.journal.postgres.migrating import migrate
from flux2_mcp.journal.sql import store as sql
from flux2_mcp.journal.sql.store import HOME, NOTHING, PACE
from flux2_mcp.journal.sql.unread import Unread
from flux2_mcp.journal.sqlite import names

T = TypeVar("T")

MAX_CONNECTIONS = 8
"""Of one process, besides the one that listens."""
TRIES = 10
"""After a restart of the server, each connection that was open before must fail once."""
CALL_SECONDS = 60.0
"""After this time a call that still waits for a connection ends, and the connection of one that has one is broken, also if
the server is there and says nothing."""
MIGRATION_SECONDS = 3600
"""The most by which that is put off while a connection brings very many tasks up to date."""
LEASE_SECONDS = 6.0
"""How long a lease lasts without renewal. Another machine can't see that a server was killed: its tasks wait so long, and at
most 2 s more for the next claim. It is renewed three times as often."""
CHANNEL = "flux2_journal"
NOW = "SELECT extract(epoch FROM clock_timestamp())::double precision"
NONE_FREE = "none of the {} connections was free within {:g} s"
CHECK = Wording(
    "Check that the database of FLUX2_JOURNAL_URL runs and can be reached (flux2-mcp doctor), then {name:call again}."
)


class JournalServer(Unread):
    """What the journal's parts share: see `sql.store.Store`.

    Args:
        url: The address of the database.
        name: A name made from the service and the key, which does not hold the key.
        owner: The name of this process.
        clock: A clock in the place of the server's, in seconds.
        call_seconds: The time of a call, in which it also waits for a connection.
        lease_seconds: How long a lease lasts without renewal.
    """

    def __init__(
        self,
        url: str,
        name: str,
        owner: str,
        clock: Callable[[], float] | None = None,
        call_seconds: float = CALL_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        super().__init__()
        self._url = url
        self.name = name
        self.owner = owner
        self.clock = clock
        self.lease_seconds = lease_seconds
        self._call_seconds = call_seconds
        self.is_partial = False
        self._seen = threading.local()
        self._limiter = anyio.CapacityLimiter(MAX_CONNECTIONS)
        self._idle: list[Connection] = []
        self._pid = os.getpid()
        self._is_migrated = False
        self._migrating = 0

    @property
    def account(self) -> str:
        """See `sql.store.Store.account`."""
        return str(getattr(self._seen, "account", self.name))

    def now(self, database: sql.Database) -> float:
        """See `sql.store.Store.now`."""
        return float(database.read(NOW)[0][0]) if self.clock is None else self.clock()

    def note_newest(self) -> None:
        """A server forgets nothing that it has committed."""

    async def run(self, work: Callable[[Database], T]) -> T:
        """See `sql.store.Store.run`."""

        def call(connection: Connection) -> T:
            database = Database(connection)
            self._look_up(database)
            return work(database)

        return await self._call(call)

    async def write(
        self,
        work: Callable[[Database], T],
        *,
        durable: bool = True,
        alone: str = HOME,
        task: str | None = None,
        tell: bool | None = None,
        after: Callable[[], None] | None = None,
    ) -> T:
        """See `sql.store.Store.write`."""

        def call(connection: Connection) -> T:
            connection.execute(_begin(durable=durable))
            try:
                done = self._within(Database(connection), work, alone, task, tell=durable if tell is None else tell)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(pg.Error):
                    connection.execute("ROLLBACK")
                raise
            if after is not None:
                after()
            return done

        return await self._call(call)

    def _within(
        self, database: Database, work: Callable[[Database], T], alone: str, task: str | None, *, tell: bool
    ) -> T:
        if alone != NOTHING:
            if alone == PACE:
                self._look_up(database)
            what = f"flux2 {alone} {self.account if alone == PACE else ''}"
            lock = "SELECT pg_advisory_xact_lock(hashtextextended(:what || current_schema(), 0))"
            database.read(lock, {"what": what})
        self._look_up(database)
        if task is not None:
            held = "SELECT 1 FROM task WHERE account = :account AND key = :key FOR UPDATE"
            database.read(held, {"account": self.account, "key": task})
        done = work(database)
        if tell and database.changed:
            # Who listens leaves out what its own process has written.
            said = "SELECT pg_notify(:channel, current_schema() || ' ' || :owner)"
            database.read(said, {"channel": CHANNEL, "owner": self.owner})
        return done

    def _look_up(self, database: Database) -> None:
        """Another process may have recorded which account the key belongs to."""
        self._seen.account = names.tasks_of(self.name, database.read)

    async def _call(self, work: Callable[[Connection], T]) -> T:
        """Run `work` with a connection, in a thread that is not left before it ends.

        Raises:
            JournalError: The database can't be reached or used.
        """
        limit = pg.Limit()
        result: list[T] = []
        trouble: list[BaseException] = []

        def call() -> None:
            try:
                result.append(self._with_connection(work, limit))
            except BaseException as exc:  # noqa: BLE001  # raised below, outside of the group
                trouble.append(exc)

        async def watch() -> None:
            await anyio.sleep(self._call_seconds)
            for _ in range(MIGRATION_SECONDS):
                if not self._migrating:
                    break
                await anyio.sleep(1)
            limit.end()

        # As with SQLite, a caller that is cancelled learns what was written: nothing is left half known.
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                group.start_soon(watch)
                # What this ends is the wait for a connection: a thread that has begun is waited for, and the limit cuts it.
                with anyio.move_on_after(self._call_seconds, shield=True):
                    await anyio.to_thread.run_sync(call, limiter=self._limiter)
                group.cancel_scope.cancel()
        if result:
            return result[0]
        if not trouble:
            raise unusable(TimeoutError(NONE_FREE.format(MAX_CONNECTIONS, self._call_seconds)), self._url)
        if limit.over and isinstance(trouble[0], JournalError):
            raise unusable(TimeoutError(pg.silent(self._call_seconds)), self._url)
        raise trouble[0]

    def _with_connection(self, work: Callable[[Connection], T], limit: pg.Limit) -> T:
        for tried in range(1, TRIES + 1):
            connection: Connection | None = None
            try:
                connection = self._taken(limit.hold)
                limit.hold(connection)
                return work(connection)
            except (pg.Error, pg.UnusableError) as exc:
                again = (connection is not None and pg.is_lost(exc, connection)) or pg.is_crossed(exc)
                if not again or tried == TRIES or limit.over:
                    raise unusable(exc, self._url) from None  # its frames may hold the address
            finally:
                limit.let_go()
                if connection is not None:
                    self._given_back(connection)
        raise AssertionError  # the last try returns or raises

    def connect(self, opened: Callable[[Connection], object] = bool) -> Connection:
        """A new connection. The first one brings the schema up to date. `opened`: see `pg.connected`."""
        connection = pg.connected(self._url, opened)
        try:
            if not self._is_migrated:
                self._migrating += 1
                try:
                    migrate(connection)
                finally:
                    self._migrating -= 1
                self._is_migrated = True
        except BaseException:
            connection.close()
            raise
        return connection

    def _taken(self, opened: Callable[[Connection], object]) -> Connection:
        if self._pid != os.getpid():  # connections of the process that this one was forked from are not ours
            self._pid, self._idle = os.getpid(), []
        try:
            return self._idle.pop()
        except IndexError:
            return self.connect(opened)

    def _given_back(self, connection: Connection) -> None:
        if connection.broken or connection.info.transaction_status != pg.IDLE:
            connection.close()
        elif not connection.closed:
            self._idle.append(connection)

    async def close(self) -> None:
        """See `contract.Journal.close`. The next call connects anew."""
        idle, self._idle = self._idle, []
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_close, idle)


def _close(connections: list[Connection]) -> None:
    for connection in connections:
        connection.close()


def _begin(*, durable: bool) -> bytes:
    """A transaction whose statements each see what was committed before them."""
    if durable:
        least = (
            "SELECT set_config('synchronous_commit', 'on', TRUE) WHERE current_setting('synchronous_commit') = 'off'"
        )
    else:
        least = "SET LOCAL synchronous_commit = off"
    return f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {least}".encode()


def unusable(error: Exception, url: str) -> JournalError:
    """What a caller is told. Neither the user nor the password of the address is in it."""
    told = pg.words(error)
    if isinstance(error, pg.UnusableError):
        message = f"The journal's database (FLUX2_JOURNAL_URL) can't be used: {told}."
    else:
        message = f"The journal's database ({pg.place(url)}) can't be used: {told}."
    return JournalError(message, next_step=CHECK, reason=told)
