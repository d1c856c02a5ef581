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
- The clock is the server's. It is read after the locks are held; within a transaction it goes on by this process's own clock.
- A way to the server and back may take seconds. So a transaction begins, locks, looks up the account and reads the clock
  together with its first statement, and tells others with its commit. That the account is still the one of the last call is
  checked in the same breath; if it is not, all is done again.
- Leases last longer where statements take long, so that a server keeps its tasks; see `SLOW_LEASE`. Where they take longer than
  `TAKE_SECONDS`, no server takes a task from another: it might only seem to have ended.
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
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import anyio
import anyio.to_thread

from flux2_mcp.errors import JournalError, Wording
from flux2_mcp.journal.owners import LEASE_SECONDS as MOST_LEASE_SECONDS
from flux2_mcp.journal.postgres import connection as pg
from flux2_mcp.journal.postgres.connection import Connection, Database, Question, Row
from flux2_mcp.journal.postgres.migrating import migrate
from flux2_mcp.journal.postgres.slowness import Slowness
from flux2_mcp.journal.postgres.wall_clock import WallClock
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
QUICK_SECONDS = 0.5
"""Statements that take no longer change no lease."""
SLOW_LEASE = 6.0
"""How many times the time of a statement a lease lasts longer: a renewal may stand behind some others."""
TAKE_SECONDS = 4.0
"""Where statements take longer, no task is taken from another process."""
CHANNEL = "flux2_journal"
CLOCK = "extract(epoch FROM clock_timestamp())::double precision"
NOW = f"SELECT {CLOCK}"
COMMIT: Question = ("COMMIT", ())
SYNCED = "SELECT set_config('synchronous_commit', 'on', TRUE) WHERE current_setting('synchronous_commit') = 'off'"
UNSYNCED = "SET LOCAL synchronous_commit = off"
TELL = "SELECT pg_notify(:channel, current_schema() || ' ' || :owner)"
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(:what || current_schema(), 0))"
PACE_LOCK = (
    f"SELECT pg_advisory_xact_lock(hashtextextended('flux2 {PACE} ' || coalesce((SELECT tasks FROM holder"
    " WHERE account = :name), :name) || current_schema(), 0))"
)
TASK_LOCK = "SELECT 1 FROM task WHERE account = :account AND key = :key FOR UPDATE"
NONE_FREE = "none of the {} connections was free within {:g} s"
CHECK = Wording(
    "Check that the database of FLUX2_JOURNAL_URL runs and can be reached (flux2-mcp doctor), then {name:call again}."
)


class _MovedError(Exception):
    """The key's tasks are recorded under another name than before."""


class JournalServer(Unread):
    """What the journal's parts share: see `sql.store.Store`.

    Args:
        url: The address of the database.
        name: A name made from the service and the key, which does not hold the key.
        owner: The name of this process.
        clock: A clock in the place of the server's, in seconds.
        call_seconds: The time of a call, in which it also waits for a connection.
        lease_seconds: How long a lease lasts without renewal.
        wall: This machine's clock, in seconds since 1970.
    """

    def __init__(
        self,
        url: str,
        name: str,
        owner: str,
        clock: Callable[[], float] | None = None,
        call_seconds: float = CALL_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._url = url
        self.name = name
        self.owner = owner
        self.clock = clock
        self.slowness = Slowness(time.monotonic if clock is None else clock)
        self._lease_seconds = lease_seconds
        self._call_seconds = call_seconds
        self.is_partial = False
        self.wall_clock = WallClock(wall)
        self._account = name
        self._seen = threading.local()
        self._limiter = anyio.CapacityLimiter(MAX_CONNECTIONS)
        self._idle: list[Connection] = []
        self._pid = os.getpid()
        self._is_migrated = False
        self._migrating = 0

    @property
    def account(self) -> str:
        """See `sql.store.Store.account`."""
        return str(getattr(self._seen, "account", self._account))

    @property
    def lease_seconds(self) -> float:
        """See `sql.store.Store.lease_seconds`."""
        seconds = self.slowness.seconds
        longer = SLOW_LEASE * seconds if seconds > QUICK_SECONDS else 0.0
        return min(self._lease_seconds + longer, max(self._lease_seconds, MOST_LEASE_SECONDS))

    def now(self, database: sql.Database) -> float:
        """See `sql.store.Store.now`."""
        if self.clock is not None:
            return self.clock()
        if isinstance(database, Database):
            database.begin()
        # What was read has come a little later than it was true, so this is never ahead.
        return float(self._seen.clock + time.monotonic() - self._seen.clock_at)

    def note_newest(self) -> None:
        """A server forgets nothing that it has committed."""

    async def run(self, work: Callable[[Database], T]) -> T:
        """See `sql.store.Store.run`."""

        def call(connection: Connection) -> T:
            return work(self._opened(connection, [self._looked_up(), (NOW, ())]))

        return await self._call(self._as_account(call))

    async def write(
        self,
        work: Callable[[Database], T],
        *,
        durable: bool = True,
        alone: str = HOME,
        task: str | None = None,
        tell: bool | None = None,
        after: Callable[[], None] | None = None,
        whole: bool = False,
    ) -> T:
        """See `sql.store.Store.write`."""
        tells = durable if tell is None else tell

        def call(connection: Connection) -> T:
            first = [*_begin(durable=durable), *self._locks(alone, task)]
            database = self._opened(connection, first, [COMMIT] if whole else ())
            try:
                if whole:
                    with self.slowness.measured():
                        done = work(database)
                else:
                    done = work(database)
                    # Who listens leaves out what its own process has written.
                    said = [(TELL, {"channel": CHANNEL, "owner": self.owner})] if tells and database.changed else []
                    database.end(*said, COMMIT)
            except BaseException:
                with suppress(pg.Error):
                    connection.execute("ROLLBACK")
                raise
            if after is not None:
                after()
            return done

        return await self._call(self._as_account(call))

    def _locks(self, alone: str, task: str | None) -> list[Question]:
        """What waits for others, and then looks up what may have changed meanwhile."""
        found: list[Question] = []
        if alone == PACE:
            found = [(PACE_LOCK, {"name": self.name})]
        elif alone != NOTHING:
            found = [(LOCK, {"what": f"flux2 {alone} "})]
        found.append(self._looked_up())
        if task is not None:
            found.append((TASK_LOCK, {"account": self.account, "key": task}))
        return [*found, (NOW, ())]

    def _looked_up(self) -> Question:
        return names.TASKS, (self.name,)

    def _opened(self, connection: Connection, first: Sequence[Question], last: Sequence[Question] = ()) -> Database:
        """The database for one call. With its first statement it learns whether the account is still the same."""
        opened_at = time.monotonic()
        place = next(number for number, (sql, _) in enumerate(first) if sql == names.TASKS)

        def begun(rows: Sequence[Sequence[Row]]) -> None:
            self._seen.clock, self._seen.clock_at = rows[-1][0][0], time.monotonic()
            self.wall_clock.note(self._seen.clock, self._seen.clock_at - opened_at)
            account = names.first_of(rows[place]) or self.name
            if account != self.account:
                self._account = account
                raise _MovedError

        return Database(connection, first, begun, last)

    def _as_account(self, call: Callable[[Connection], T]) -> Callable[[Connection], T]:
        """Do it for the account of the key, and once more if another process has just recorded which one that is."""

        def again(connection: Connection) -> T:
            while True:
                self._seen.account = self._account
                with suppress(_MovedError):
                    return call(connection)

        return again

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
        connection = pg.connected(self._url, opened, self.slowness.measured)
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


def _begin(*, durable: bool) -> list[Question]:
    """A transaction whose statements each see what was committed before them."""
    return [("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", ()), (SYNCED if durable else UNSYNCED, ())]


def unusable(error: Exception, url: str) -> JournalError:
    """What a caller is told. Neither the user nor the password of the address is in it."""
    told = pg.words(error)
    if isinstance(error, pg.UnusableError):
        message = f"The journal's database (FLUX2_JOURNAL_URL) can't be used: {told}."
    else:
        message = f"The journal's database ({pg.place(url)}) can't be used: {told}."
    return JournalError(message, next_step=CHECK, reason=told)
