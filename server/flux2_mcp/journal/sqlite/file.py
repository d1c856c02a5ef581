"""The journal's one file: opened at its first use, renewed where it is lost; every call runs in a thread."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from flux2_mcp.errors import JournalError, Wording
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.journal.sqlite import accounts
from flux2_mcp.journal.sqlite.integrity import has_left_images, whole
from flux2_mcp.journal.sqlite.migrations import MIGRATIONS
from flux2_mcp.system.logs import fields

if TYPE_CHECKING:  # SQLite loads at its first use
    from flux2_mcp.system.sqlite_file import Database

log = logging.getLogger("flux2_mcp.journal")

T = TypeVar("T")


class JournalFile:
    """What the journal's parts share: the file, and in whose name it is used.

    Args:
        home: FLUX2_HOME; made at first use, readable by the user alone.
        name: Names the service and the key, without the key.
        owner: Names this process.
        monotonic: The machine's monotonic clock, which all its processes share.
    """

    def __init__(self, home: Path, name: str, owner: str, monotonic: Callable[[], float]) -> None:
        self._home = home
        self.name = self.account = name
        """`account` is the name under which the key's tasks stand: that of another key of one RunAPI account, where known."""
        self.owner = owner
        self.monotonic = monotonic
        self._opened: Database | None = None
        # The file takes one call at a time: more threads than one would only wait for each other, and each takes memory.
        # So nothing that these calls share needs a lock.
        self._one_thread = anyio.CapacityLimiter(1)
        self.is_partial = False
        """A part of a lost file could not be read."""
        self.notice: str | None = None
        """What a user should know about the file: that a broken one was moved aside."""
        self._unread: set[str] = set()
        self._untold = 0

    @property
    def path(self) -> Path:
        """The file. It is there once something was written."""
        return self._home / "journal.sqlite3"

    @property
    def exists(self) -> bool:
        """Whether the file is there; False, and no error as `Path.exists` raises, where its folder can't be looked into."""
        return os.path.exists(self.path)  # noqa: PTH110  # see above

    @property
    def was_made(self) -> bool:
        """Whether the file is there, or was: where it has vanished, there is something to tell of it."""
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
            accounts.respell(self._opened)
        return self._renewed() if self._opened.replaced else self._opened

    def _renewed(self) -> Database:
        """A broken file is kept for whoever can read it, and a new one begun with what could be read: nothing is deleted."""
        from flux2_mcp.system.sqlite_file import renewed

        before, self._opened = self._opened, None
        try:
            self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
            seed = partial(self._seed, before)
            self._opened = renewed(self.path, MIGRATIONS, durable=True, seed=seed, whole=whole)
            accounts.respell(self._opened)
        finally:
            if before is not None:
                before.close()
        return self._opened

    def unread_notice(self) -> str | None:
        """What a user should know about records that can't be read; each is told once in a process's life."""
        untold, self._untold = self._untold, 0
        if not untold:
            return None
        return (
            f"The journal holds {'a record' if untold == 1 else f'{untold} records'} that this version of flux2-mcp can't read,"
            " a newer version's or broken. They were left as they are; update flux2-mcp, or see flux2-mcp doctor."
        )

    def warn_unreadable(self, records: Sequence[TaskRecord]) -> tuple[TaskRecord, ...]:
        """The same, once it was said which of them can't be read."""
        for record in records:
            if not record.readable and record.key not in self._unread:
                self._unread.add(record.key)
                self._untold += 1
                log.warning(
                    "a record can't be read; it is left as it is", extra=fields(task=record.task_id or record.key)
                )
        return tuple(records)

    def _seed(self, before: Database | None, database: Database, name: str | None) -> None:
        """Fill the file that takes the place of a lost one, and say so; see `sqlite_file.Seed`."""
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
        """Work on what is this key's, in a thread."""
        return await self._call(lambda database: self._as_account(database, work))

    def _as_account(self, database: Database, work: Callable[[Database], T]) -> T:
        """Work on what is this key's. Looked up each time: another process may have learnt meanwhile whose key it is."""
        self.account = accounts.tasks_of(self.name, database.read)
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
                    return work(self._renewed())  # nothing of it was written yet
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
        after: Callable[[Database], None] = lambda _: None,
    ) -> T:
        """The same in one transaction; `durable` syncs it to disk, and `after` runs when it is over."""

        def call(database: Database) -> T:
            with database.write(durable=durable):
                done = self._as_account(database, work)
            after(database)
            return done

        return await self._call(call)

    def note_newest(self, database: Database) -> None:
        """So that a journal whose log is lost is known to lack tasks; no task that was paid for is ever deleted."""
        from flux2_mcp.system.sqlite_file import note

        with suppress(OSError):  # the task itself is written down
            note(self.path, database.begun, int(database.read("SELECT coalesce(max(n), 0) FROM task")[0][0]))

    async def salvage(self) -> None:
        """See `contract.Journal.salvage`."""
        await self._call(lambda _: None, salvage=True)

    async def close(self) -> None:
        """See `contract.Journal.close`."""
        if self._opened is not None:
            await self._call(self._let_go)

    def _let_go(self, database: Database) -> None:
        """In the thread: a call that comes next opens the file anew."""
        self._opened = None
        database.checkpoint()
        database.close()
