"""The journal in SQLite, under FLUX2_HOME. Opened at its first use; every call runs in a thread."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from flux2_mcp.domain import budget, catalog
from flux2_mcp.domain.budget import Caps, SpendingBy, SpendingGroup, SpentSums
from flux2_mcp.domain.catalog import resolution
from flux2_mcp.domain.lifecycle import Event, State
from flux2_mcp.domain.models import NameOwner, StoredImage, UploadedFile
from flux2_mcp.errors import JournalError, before_sending
from flux2_mcp.journal.records import Intent, IntentResult, TaskChange, TaskMatches, TaskRecord, digest
from flux2_mcp.journal.sqlite import history, holders, shared, task_rows
from flux2_mcp.journal.sqlite.integrity import has_left_images, whole
from flux2_mcp.journal.sqlite.migrations import MIGRATIONS
from flux2_mcp.system.logs import fields

if TYPE_CHECKING:  # SQLite loads at its first use
    from flux2_mcp.system.sqlite_file import Database

log = logging.getLogger("flux2_mcp.journal")

T = TypeVar("T")

JOINABLE = timedelta(hours=1)
"""A task that ended unheard is given to the next identical call for so long; older ones are taken for forgotten."""


class SqliteJournal:
    """`Journal` over one SQLite file, shared by every process on the same FLUX2_HOME.

    Args:
        home: FLUX2_HOME; made at first use, readable by the user alone.
        account: Names the service and the key, without the key. Tasks of other accounts are not seen; those of other keys
            of one account are, as soon as `belongs` has said so.
        owner: Names this process; leases are held in its name.
        monotonic: The machine's monotonic clock, which all its processes share.
    """

    def __init__(
        self, home: Path, account: str, owner: str, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._home = home
        self._name = self._account = account
        self._owner = owner
        self._monotonic = monotonic
        self._opening = threading.Lock()
        self._opened: Database | None = None
        # The file takes one call at a time: more threads than one would only wait for each other, and each takes memory.
        self._one = anyio.CapacityLimiter(1)
        self._own: dict[str, tuple[str | None, Decimal]] = {}
        """Session and money of each task that was written here: what this process knows of a journal that was lost."""
        self._forgetful = False
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

        with self._opening:
            if self._opened is None:
                self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
                seed = partial(self._seed, None)
                made = has_left_images(self.path)
                self._opened = opened(self.path, MIGRATIONS, durable=True, seed=seed, whole=whole, made=made)
                holders.respelled(self._opened)
            found = self._opened
        return self._renewed() if found.replaced else found

    def _renewed(self) -> Database:
        """A broken file is kept for whoever can read it, and a new one begun with what could be read: nothing is deleted."""
        from flux2_mcp.system.sqlite_file import renewed

        with self._opening:
            before, self._opened = self._opened, None
            try:
                self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
                seed = partial(self._seed, before)
                self._opened = renewed(self.path, MIGRATIONS, durable=True, seed=seed, whole=whole)
                holders.respelled(self._opened)
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

    def _noted(self, entries: Sequence[TaskRecord]) -> tuple[TaskRecord, ...]:
        """The same, once it was said which of them can't be read."""
        for entry in entries:
            if not entry.readable and entry.key not in self._unread:
                self._unread.add(entry.key)
                self._untold += 1
                log.warning(
                    "a record can't be read; it is left as it is", extra=fields(task=entry.task_id or entry.key)
                )
        return tuple(entries)

    def _seed(self, before: Database | None, database: Database, name: str | None) -> None:
        """Fill the file that takes the place of a lost one, and say so; see `sqlite.Seed`."""
        from flux2_mcp.journal.sqlite.salvage import salvage

        there = name is not None and self.path.exists()
        done = salvage(before, self.path, name, database)
        self._forgetful = self._forgetful or not done.whole
        if there:
            kept = f" Of its tasks, {done.tasks} could be read and were kept." if done.tasks else ""
            self.notice = f"The journal was broken. It was moved aside as {name} and a new one begun.{kept}"
        elif name is not None and not done.whole:
            self.notice = "The journal has vanished from FLUX2_HOME, and a new one was begun."

    async def _run(self, work: Callable[[Database], T]) -> T:
        return await self._call(lambda database: self._as_account(database, work))

    def _as_account(self, database: Database, work: Callable[[Database], T]) -> T:
        """Work on what is this key's. Looked up each time: another process may have learnt meanwhile whose key it is."""
        self._account = holders.tasks_of(self._name, database.read)
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
                reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
                advice = None
                if os.path.isdir(self.path):  # noqa: PTH112  # a path that no system takes is no folder, on each Python
                    reason, advice = f"{self.path} is a folder", "Move that folder away, then call again."
                elif isinstance(exc, Error) and is_lost(exc):
                    advice = "Run flux2-mcp doctor --salvage, then call again."
                raise JournalError(f"The journal can't be used: {reason}.", next_step=advice) from exc

        return await anyio.to_thread.run_sync(call, limiter=self._one)

    async def _write(
        self,
        work: Callable[[Database], T],
        *,
        durable: bool = True,
        after: Callable[[Database], None] = lambda _: None,
    ) -> T:
        def call(database: Database) -> T:
            with database.write(durable=durable):
                done = self._as_account(database, work)
            after(database)
            return done

        return await self._call(call)

    def _note_newest(self, database: Database) -> None:
        """So that a journal whose log is lost is known to lack tasks; no task that was paid for is ever deleted."""
        from flux2_mcp.system.sqlite_file import note

        with suppress(OSError):  # the task itself is written down
            note(self.path, database.begun, int(database.read("SELECT coalesce(max(n), 0) FROM task")[0][0]))

    async def intend(
        self,
        intents: Sequence[Intent],
        *,
        at: datetime,
        caps: Caps,
        join: bool,
        in_flight: int,
        stated_usd: Decimal | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> IntentResult:
        """See `Journal.intend`."""

        def work(database: Database) -> IntentResult:
            if join and (known := self._same(database, intents[0], at)):
                return IntentResult(entries=(known,), joined=True)
            fresh = [intent for intent in intents if not task_rows.known(database, self._account, intent)]
            if fresh:
                charged = shared.charged(self._account, {_kind(intent) for intent in fresh}, database)
                fresh = _priced(fresh, charged, caps, stated_usd)
                wanted = _reserved(fresh)
                unknown = [intent for intent in fresh if intent.quoted_usd is None and _kind(intent) not in charged]
                if unknown:
                    self._admit_unpriced(database, unknown, caps, stated_usd)
                if over := budget.exceeded(wanted, caps, self._spent(fresh[0].session, at, database)):
                    return IntentResult(over=over, wanted_usd=wanted)
                before()
            new = {intent.key: intent for intent in fresh}
            return IntentResult(
                entries=tuple(self._insert(database, new.get(each.key, each), at, in_flight) for each in intents)
            )

        with before_sending():
            intended = await self._write(work, after=self._note_newest)
        self._note(*intended.entries)
        return intended

    def _admit_unpriced(
        self, database: Database, unknown: Sequence[Intent], caps: Caps, stated_usd: Decimal | None
    ) -> None:
        """See that tasks whose price is not known may be made.

        Raises:
            BudgetError: Under a cap, nothing was set aside for them, or more than one would run at once, or what the last
                one cost was never told; or what the caller stated is for more than one.
        """
        if stated_usd is not None:
            budget.first_alone(len(unknown))
        if caps.any:
            for intent in unknown:
                budget.reservation(None, intent.reserved_usd, caps)
            if shared.untold(self._account, unknown[0].request.model, database):
                budget.untold(caps)
            budget.first_alone(len(unknown) + shared.unpriced(self._account, unknown[0].request.model, database))

    def _spent(self, session: str | None, at: datetime, database: Database) -> SpentSums:
        """See `shared.spent`; and with what of this session stood in a journal that was lost."""
        found = shared.spent(self._account, session, at, database)
        if not self._forgetful:
            return found
        lost = [
            key
            for key, (its, _) in self._own.items()
            if its == session and not task_rows.find(database, self._account, key)
        ]
        return replace(found, session_usd=found.session_usd + sum((self._own[key][1] for key in lost), Decimal(0)))

    def _note(self, *entries: TaskRecord) -> None:
        self._own.update((entry.key, (entry.session, entry.counted_usd)) for entry in entries)

    def _insert(self, database: Database, intent: Intent, at: datetime, in_flight: int) -> TaskRecord:
        until = self._monotonic() + shared.LEASE_SECONDS
        entry = task_rows.insert(database, self._account, intent, at=at, owner=self._owner, lease_until=until)
        return self._start(database, intent.key, at, in_flight) if entry.readable else entry

    def _start(self, database: Database, key: str, at: datetime, in_flight: int) -> TaskRecord:
        # A record that can't be read may never end: it takes no place.
        places = in_flight + shared.set_aside(self._account, self._monotonic, database)
        database.execute(
            "UPDATE task SET sent_at = :at WHERE account = :account AND key = :key AND sent_at IS NULL"
            f" AND (SELECT count(*) FROM {shared.OPEN} WHERE {shared.UNDER_WAY}) < :places",
            {"at": at.timestamp(), "account": self._account, "key": key, "places": places},
        )
        return task_rows.get(database, self._account, key)

    def _same(self, database: Database, intent: Intent, at: datetime) -> TaskRecord | None:
        sql = (
            "SELECT * FROM task WHERE account = ? AND digest = ? AND workspace IS ? AND told_at IS NULL AND created_at > ?"
            " AND save_to IS ? AND state IN ('intent', 'submitted', 'processing', 'completed', 'delivered') ORDER BY n DESC LIMIT 1"
        )
        since, target = (at - JOINABLE).timestamp(), None if intent.save is None else intent.save.target
        found = database.read(sql, (self._account, digest(intent.request), intent.workspace, since, target))
        return next(iter(task_rows.readable(found)), None)

    async def start(self, entry: TaskRecord, *, at: datetime, in_flight: int) -> TaskRecord:
        """See `Journal.start`."""

        def work(database: Database) -> TaskRecord:
            task_rows.held(database, self._account, self._owner, entry)
            return self._start(database, entry.key, at, in_flight)

        return await self._write(work)

    async def hold(self, entry: TaskRecord) -> None:
        """See `Journal.hold`."""
        await self._run(lambda database: task_rows.held(database, self._account, self._owner, entry))

    async def adopt(self, intent: Intent, task_id: str, *, at: datetime) -> TaskRecord:
        """See `Journal.adopt`."""

        def work(database: Database) -> TaskRecord:
            if known := task_rows.find(database, self._account, task_id):
                return known
            until = self._monotonic() + shared.LEASE_SECONDS
            if holders.take_over(self._name, task_id, self._owner, until, database) and (
                taken := task_rows.find(database, self._account, task_id)
            ):
                return taken
            entry, change = self._insert(database, intent, at, in_flight=0), TaskChange(at=at, task_id=task_id)
            if not entry.readable:
                return entry
            return task_rows.step(database, self._account, self._owner, entry, Event.ACCEPTED, change)

        return await self._write(work)

    async def apply(self, entry: TaskRecord, event: Event, change: TaskChange) -> TaskRecord:
        """See `Journal.apply`."""
        after = await self._write(
            lambda database: task_rows.step(database, self._account, self._owner, entry, event, change)
        )
        self._note(after)
        return after

    async def take(self, entry: TaskRecord, path: str) -> NameOwner:
        """See `Journal.take`."""
        return await self._write(
            lambda database: shared.take(self._account, self._owner, entry, path, database), durable=False
        )

    async def told(self, keys: Sequence[str], *, at: datetime) -> None:
        """See `Journal.told`."""

        def work(database: Database) -> None:
            for key in keys:
                database.execute(
                    "UPDATE task SET told_at = coalesce(told_at, ?) WHERE account = ? AND key = ?",
                    (at.timestamp(), self._account, key),
                )

        await self._write(work)

    async def find(self, ids: Sequence[str]) -> tuple[TaskRecord, ...]:
        """See `Journal.find`."""
        return self._noted(
            await self._run(
                lambda database: tuple(found for one in ids if (found := task_rows.find(database, self._account, one)))
            )
        )

    async def recent(
        self,
        *,
        limit: int,
        states: Collection[State] | None = None,
        since: datetime | None = None,
        workspace: str | None = None,
        before: str | None = None,
    ) -> tuple[TaskRecord, ...]:
        """See `Journal.recent`."""
        sql = (
            f"SELECT * FROM task WHERE {history.MATCHES}"
            " AND (:before IS NULL OR n < (SELECT n FROM task WHERE account = :account AND key = :before))"
            " ORDER BY n DESC LIMIT :limit"
        )

        def work(database: Database) -> tuple[TaskRecord, ...]:
            values = history.matching(self._account, states, since, workspace)
            return task_rows.entries(database.read(sql, values | {"before": before, "limit": limit}))

        return self._noted(await self._run(work))

    async def matched(
        self,
        *,
        states: Collection[State] | None = None,
        since: datetime | None = None,
        workspace: str | None = None,
    ) -> TaskMatches:
        """See `Journal.matched`."""
        return await self._run(
            lambda database: history.matched(history.matching(self._account, states, since, workspace), database)
        )

    async def claim(self, *, take: bool = True) -> tuple[TaskRecord, ...]:
        """See `Journal.claim`."""
        found = self._noted(
            await self._run(
                lambda database: shared.claim(self._account, self._owner, self._monotonic, database, take=take)
            )
        )
        return tuple(entry for entry in found if entry.readable)

    async def offer(self, entry: TaskRecord) -> None:
        """See `Journal.offer`."""
        await self._write(lambda database: shared.offer(self._account, self._owner, entry, database), durable=False)

    async def belongs(self, holder: str) -> None:
        """See `Journal.belongs`."""
        await self._write(partial(holders.belongs, self._name, holder))

    async def known(self) -> bool:
        """See `Journal.known`."""
        return await self._run(lambda database: holders.known(self._name, database.read))

    async def apart(self) -> bool:
        """See `Journal.apart`."""
        return await self._run(lambda database: holders.apart(self._name, database.read))

    async def strangers(self) -> tuple[TaskRecord, ...]:
        """See `Journal.strangers`."""

        def work(database: Database) -> tuple[TaskRecord, ...]:
            now = self._monotonic()
            return holders.strangers(self._name, now, now + shared.LEASE_SECONDS, database.read)

        return await self._run(work)

    async def elsewhere(self, ident: str) -> str | None:
        """See `Journal.elsewhere`."""
        return await self._run(lambda database: holders.elsewhere(self._name, ident, database.read))

    async def unfinished(self) -> int:
        """See `Journal.unfinished`."""
        sql = f"SELECT count(*) FROM {shared.OPEN} WHERE {shared.UNFINISHED}"
        return await self._run(lambda database: int(database.read(sql, {"account": self._account})[0][0]))

    async def release(self) -> None:
        """See `Journal.release`."""
        sql = f"UPDATE {shared.OPEN} SET lease_until = NULL WHERE {shared.UNFINISHED} AND owner = :owner"
        await self._write(
            lambda database: database.execute(sql, {"account": self._account, "owner": self._owner}), durable=False
        )

    async def pace(self, rate: float, longest: float = inf) -> float:
        """See `Journal.pace`."""
        return await self._write(
            lambda database: shared.turn(self._account, self._monotonic, rate, longest, database), durable=False
        )

    async def limited(self, retry_after: float | None, rate: float = inf) -> None:
        """See `Journal.limited`."""
        await self._write(
            lambda database: shared.limited(self._account, self._monotonic, rate, retry_after, database), durable=False
        )

    async def spent(self, *, at: datetime, session: str | None) -> SpentSums:
        """See `Journal.spent`."""
        return await self._run(partial(self._spent, session, at))

    async def settle(self, missing_usd: Decimal) -> bool:
        """See `Journal.settle`."""
        return await self._write(partial(shared.settle, missing_usd))

    async def salvage(self) -> None:
        """Look at all of the file: where it is broken or gone, a new one takes its place, with all that can be read."""
        await self._call(lambda _: None, salvage=True)

    async def charged(self) -> Mapping[tuple[str, str], Decimal]:
        """See `Journal.charged`."""
        kinds = [(model.id, resolution) for model in catalog.models().values() for resolution in model.resolutions]
        return await self._run(partial(shared.charged, self._account, kinds))

    async def spending(self, by: SpendingBy, since: datetime | None) -> tuple[SpendingGroup, ...]:
        """See `Journal.spending`."""
        return await self._run(lambda database: history.spending(self._account, by, since, database))

    async def durations(self) -> dict[tuple[str, str], tuple[float, ...]]:
        """See `Journal.durations`."""
        return await self._run(lambda database: history.durations(self._account, database))

    async def with_images(self, before: datetime) -> tuple[TaskRecord, ...]:
        """See `Journal.with_images`."""
        return await self._run(lambda database: history.with_images(self._account, before, database))

    async def still_used(self, paths: Sequence[str]) -> frozenset[str]:
        """See `Journal.still_used`."""
        return await self._run(partial(history.still_used, paths))

    async def keep_images(self, key: str, images: Sequence[StoredImage]) -> None:
        """See `Journal.keep_images`."""
        await self._write(lambda database: history.keep_images(self._account, key, images, database))

    async def upload(self, identity: str, *, at: datetime) -> UploadedFile | None:
        """See `Journal.upload`."""
        return await self._run(lambda database: shared.upload(self._account, identity, at, database))

    async def uploaded(self, identity: str, file: UploadedFile) -> None:
        """See `Journal.uploaded`."""
        await self._write(lambda database: shared.uploaded(self._account, identity, file, database), durable=False)

    async def nudge(self, push_url: str) -> None:
        """See `Journal.nudge`."""
        await self._write(lambda database: shared.nudge(self._account, push_url, database), durable=False)

    async def nudged(self) -> tuple[str, ...]:
        """See `Journal.nudged`."""
        return await self._write(lambda database: shared.nudged(self._account, self._owner, database), durable=False)

    async def version(self) -> int:
        """See `Journal.version`."""
        return await self._run(lambda database: database.version())

    async def close(self) -> None:
        """See `Journal.close`."""
        if self._opened is not None:
            await self._call(_let_go)
            self._opened = None


def _let_go(database: Database) -> None:
    database.checkpoint()
    database.close()


def _kind(intent: Intent) -> tuple[str, str]:
    """What its price depends on."""
    return intent.request.model, resolution(intent.request)


def _reserved(intents: Sequence[Intent]) -> Decimal:
    return sum((intent.reserved_usd or Decimal(0) for intent in intents), Decimal(0))


def _priced(
    fresh: Sequence[Intent], charged: Mapping[tuple[str, str], Decimal], caps: Caps, stated_usd: Decimal | None
) -> list[Intent]:
    """The same, each with what the last image of its kind was charged set aside, where that is more.

    Raises:
        BudgetError: That is more than the caller stated.
    """
    priced = [
        replace(intent, reserved_usd=usd) if (usd := charged.get(_kind(intent), Decimal(0))) > held else intent
        for intent in fresh
        for held in [intent.reserved_usd or Decimal(0)]
    ]
    if (wanted := _reserved(priced)) > _reserved(fresh):
        budget.reservation(wanted, stated_usd, caps)
    return priced
