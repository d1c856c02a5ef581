"""The journal's file: opened at its first use, replaced if it is lost. Every call runs in a thread."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from flux2_mcp.errors import JournalError, Wording
from flux2_mcp.journal.owners import LEASE_SECONDS
from flux2_mcp.journal.sql.store import HOME
from flux2_mcp.journal.sql.unread import Unread
from flux2_mcp.journal.sqlite import names, spellings
from flux2_mcp.journal.sqlite.integrity import has_left_images, whole
from flux2_mcp.journal.sqlite.migrations import MIGRATIONS
from flux2_mcp.journal.watch import FILE

if TYPE_CHECKING:  # SQLite loads at its first use
    from flux2_mcp.journal.sql import store
    from flux2_mcp.system.sqlite_file import Database

T = TypeVar("T")


class JournalFile(Unread):
    """What the journal's parts share: the file, and the names of this process and its account.

    Args:
        home: FLUX2_HOME; made at first use, readable by the user alone.
        name: A name made from the service and the key, which does not hold the key.
        owner: The name of this process.
        monotonic: The machine's monotonic clock, which all its processes share.
    """

    def __init__(self, home: Path, name: str, owner: str, monotonic: Callable[[], float]) -> None:
        super().__init__()
        self._home = home
        self.name = name
        self.account = name
        """`account` is the name under which the key's tasks are recorded: the first of its RunAPI account, if known."""
        self.owner = owner
        self.lease_seconds = LEASE_SECONDS
        self.clock: Callable[[], float] | None = monotonic
        self._monotonic = monotonic
        self._opened: Database | None = None
        # SQLite takes one call at a time: more threads would only wait for each other, and each takes memory.
        # So nothing that these calls share needs a lock.
        self._one_thread = anyio.CapacityLimiter(1)
        self.is_partial = False
        """True if a part of a lost file could not be read."""
        self.notice: str | None = None
        """A text for the user about the file, such as that a broken one was moved aside."""

    @property
    def path(self) -> Path:
        """The file. It exists after the first write."""
        return self._home / FILE

    @property
    def exists(self) -> bool:
        """Whether the file is there; False if its folder can't be read, where `Path.exists` may raise."""
        return os.path.exists(self.path)  # noqa: PTH110  # see above

    @property
    def was_made(self) -> bool:
        """Whether the file is there, or was once: a vanished journal must be reported."""
        from flux2_mcp.system.sqlite_file import mark_of

        marked = os.path.exists(mark_of(self.path))  # noqa: PTH110  # see above
        return self.exists or marked or has_left_images(self.path)

    def _database(self) -> Database:
        from flux2_mcp.system.sqlite_file import opened

        if self._opened is None:
            self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
            seed = partial(self._seed, None)
            made = has_left_images(self.path)
            self._opened = opened(self.path, MIGRATIONS, durable=True, seed=seed, whole=whole, made=made)
            spellings.respell(self._opened)
        return self._renewed() if self._opened.replaced else self._opened

    def _renewed(self) -> Database:
        """Begin a new file with what could be read of the broken one. That one is kept: nothing is deleted."""
        from flux2_mcp.system.sqlite_file import renewed

        before, self._opened = self._opened, None
        try:
            self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
            seed = partial(self._seed, before)
            self._opened = renewed(self.path, MIGRATIONS, durable=True, seed=seed, whole=whole)
            spellings.respell(self._opened)
        finally:
            if before is not None:
                before.close()
        return self._opened

    def _seed(self, before: Database | None, database: Database, name: str | None) -> None:
        """Fill the file that replaces a lost one, and set `notice`; see `sqlite_file.Seed`."""
        from flux2_mcp.journal.sqlite.salvage import salvage

        there = name is not None and self.path.exists()
        done = salvage(before, self.path, name, database)
        self.is_partial = self.is_partial or not done.whole
        if there:
            kept = f" Of its tasks, {done.tasks} could be read and were kept." if done.tasks else ""
            self.notice = f"The journal was broken. It was moved aside as {name} and a new one begun.{kept}"
        elif name is not None and not done.whole:
            self.notice = "The journal has vanished from FLUX2_HOME, and a new one was begun."

    async def run(self, work: Callable[[Database], T]) -> T:
        """Run `work` on this key's tasks, in a thread."""
        return await self._call(lambda database: self._as_account(database, work))

    def _as_account(self, database: Database, work: Callable[[Database], T]) -> T:
        """Run `work` after looking up `account`: another process may have recorded which account the key belongs to."""
        self.account = names.tasks_of(self.name, database.read)
        return work(database)

    async def _call(self, work: Callable[[Database], T], *, salvage: bool = False) -> T:
        def call() -> T:
            from flux2_mcp.system.sqlite_file import Error, is_lost

            try:
                try:
                    return work(self._renewed() if salvage else self._database())
                except Error as exc:
                    if not is_lost(exc):
                        raise
                    return work(self._renewed())  # the failed call has written nothing
            except (Error, OSError) as exc:
                told = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
                # Where a system names no reason, it may name a file.
                reason = type(exc).__name__ if isinstance(exc, OSError) and not exc.strerror else told
                advice = None
                if os.path.isdir(self.path):  # noqa: PTH112  # a path that no system takes is no folder, on each Python
                    told, reason = f"{self.path} is a folder", f"{self.path.name} is a folder"
                    advice = Wording("Move that folder away, then {name:call again}.")
                elif isinstance(exc, Error) and is_lost(exc):
                    advice = Wording("Run flux2-mcp doctor --salvage, then {name:call again}.")
                raise JournalError(f"The journal can't be used: {told}.", next_step=advice, reason=reason) from exc

        return await anyio.to_thread.run_sync(call, limiter=self._one_thread)

    async def write(
        self,
        work: Callable[[Database], T],
        *,
        durable: bool = True,
        alone: str = HOME,  # noqa: ARG002  # a file has one writer at a time
        task: str | None = None,  # noqa: ARG002  # the same
        tell: bool | None = None,  # noqa: ARG002  # others see each write
        after: Callable[[], None] | None = None,
        whole: bool = False,  # noqa: ARG002  # a file is never far away
    ) -> T:
        """See `sql.store.Store.write`."""

        def call(database: Database) -> T:
            with database.write(durable=durable):
                done = self._as_account(database, work)
            if after is not None:
                after()
            return done

        return await self._call(call)

    def now(self, database: store.Database) -> float:  # noqa: ARG002  # it has no clock
        """The machine's monotonic clock."""
        return self._monotonic()

    def note_newest(self) -> None:
        """Note the newest task's number beside the file: if the file's log is lost, this shows that tasks are missing.

        This works because no task that was paid for is ever deleted.
        """
        from flux2_mcp.system.sqlite_file import note

        database = self._database()
        with suppress(OSError):  # the task itself is in the journal
            note(self.path, database.begun, int(database.read("SELECT coalesce(max(n), 0) FROM task")[0][0]))

    async def salvage(self) -> None:
        """See `contract.Journal.salvage`."""
        await self._call(lambda _: None, salvage=True)

    async def close(self) -> None:
        """See `contract.Journal.close`."""
        if self._opened is not None:
            await self._call(self._let_go)

    def _let_go(self, database: Database) -> None:
        """Close the file, in the thread. The next call opens it again."""
        self._opened = None
        database.checkpoint()
        database.close()
