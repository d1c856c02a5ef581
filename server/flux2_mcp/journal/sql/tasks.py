"""The tasks: write them before money moves, take their steps, find them. Lists are each database's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from msgspec.structs import replace

from flux2_mcp.domain import budget
from flux2_mcp.domain.budget import CapRoom, Caps
from flux2_mcp.domain.catalog import resolution
from flux2_mcp.domain.lifecycle import MADE, UNFINISHED, Event, State
from flux2_mcp.domain.models import ImageRequest, NameOwner
from flux2_mcp.errors import BudgetError, Flux2Error, before_sending
from flux2_mcp.journal.records import Intent, IntentResult, TaskChange, TaskRecord, digests, dump
from flux2_mcp.journal.sql import accounts, leases, money, task_rows, team
from flux2_mcp.journal.sql.fragments import COUNTED, IS_UNPAID, OPEN, UNDER_WAY, among
from flux2_mcp.journal.sql.people import EVERYBODY, Rows, Whose
from flux2_mcp.journal.sql.store import HOME, NOTHING

if TYPE_CHECKING:
    from flux2_mcp.journal.sql.money import SqlMoney
    from flux2_mcp.journal.sql.store import Database, Parameters, Row, Store, Value

JOINABLE = timedelta(hours=1)
"""A task whose end was reported to no caller is returned to the next identical call within this time. An older one
counts as forgotten."""
FOLLOWED = "SELECT 1 FROM task AS next WHERE next.account = task.account AND next.follows = task.key"
"""SQL for the tasks that work on a task's image."""
JOINABLE_STATES = among(UNFINISHED | MADE)
CALL_COST = (
    "WITH RECURSIVE after(key) AS (SELECT key FROM task WHERE account = :account AND key = :key"
    " UNION SELECT task.key FROM task JOIN after ON follows = after.key WHERE account = :account)"
    f" SELECT coalesce(sum({COUNTED}) FILTER (WHERE NOT {IS_UNPAID}), 0) FROM task"
    " CROSS JOIN (SELECT created_at AS made_at, session AS made_by FROM task WHERE account = :account AND key = :key) AS made"
    " WHERE account = :account AND created_at = made_at AND coalesce(session, '') = coalesce(made_by, '')"
    " AND (key = :key OR key NOT IN (SELECT key FROM after))"
)
"""SQL for what a task's call costs so far, all its pictures together, without the steps after the task. The tasks of a call
are written at one time by one session; a step of an earlier call, from which this one goes on, is none of them."""


class SqlTasks:
    """See `contract.Tasks`.

    Args:
        store: The journal's database.
        money: The money spent; the transaction that writes an intent checks the caps against it.
        whose: Whose tasks they are.
    """

    def __init__(self, store: Store, money: SqlMoney, whose: Whose = EVERYBODY) -> None:
        self._store = store
        self._money = money
        self._whose = whose

    @property
    def _rows(self) -> Rows:
        """The rows that the caller sees. Read it within a call of the store."""
        return self._whose.at(self._store.account)

    def _owned(self, intent: Intent) -> Intent:
        return intent if self._whose.person is None else replace(intent, person=self._whose.person)

    @staticmethod
    def columns(_: Intent) -> Mapping[str, Value]:
        """The values of columns that only this database has."""
        return task_rows.NO_COLUMNS

    async def intend(
        self,
        intents: Sequence[Intent],
        *,
        at: datetime,
        caps: Caps,
        join: bool,
        in_flight: int,
        stated_usd: Decimal | None = None,
        unless: Flux2Error | None = None,
        consent: str | None = None,
    ) -> IntentResult:
        """See `contract.Tasks.intend`."""
        intents = [*map(self._owned, intents)]

        def work(database: Database) -> IntentResult:
            account = self._store.account
            kinds = sorted({_kind(intent) for intent in intents})
            keys: list[tuple[str, Parameters]] = [task_rows.key_question(account, intent) for intent in intents]
            own_caps = (team.OWN, {"person": intents[0].person})  # all are of one call
            same = [self._same_question(intents, at)] if join else []
            used, last, own, *found = database.together(
                [self._consent_question(consent), money.charged_question(account, kinds), own_caps, *keys, *same]
            )
            if (earlier := self._earlier(database, consent, used, found[len(keys) :])) is not None:
                return earlier
            fresh = [
                intent
                for intent, rows in zip(intents, found, strict=False)
                if not task_rows.known(database, account, intent, rows)
            ]
            if fresh:
                first = fresh[0]
                theirs = team.with_own(caps, own)
                charged = money.charges(kinds, last)
                fresh = _priced(fresh, charged, theirs, stated_usd)
                wanted = _reserved(fresh)
                unknown = [intent for intent in fresh if intent.quoted_usd is None and _kind(intent) not in charged]
                if unknown:
                    self._admit_unpriced(database, unknown, theirs, stated_usd)
                spent = self._money.sums(_session(first, theirs), first.person, at, theirs, database)
                if over := budget.exceeded(wanted, theirs, spent):
                    return IntentResult(over=over, wanted_usd=wanted)
                if unless is not None:
                    raise unless
            records = self._written(database, intents, fresh, at, in_flight)
            _note_consent(database, consent, records)
            return IntentResult(records=records)

        try:
            with before_sending():
                intended = await self._store.write(work, after=self._store.note_newest)
        except BudgetError as exc:
            if exc is not unless:  # the price is not known, or more than the caller stated: no cap has a part in it
                await self._refused(_reserved(intents), None, at)
            raise
        if intended.over is not None:
            await self._refused(intended.wanted_usd, intended.over.name, at)
        self._money.remember(*intended.records)
        return intended

    def _earlier(
        self, database: Database, consent: str | None, used: Sequence[Row], same: Sequence[Sequence[Row]]
    ) -> IntentResult | None:
        """The tasks of the earlier call that this one repeats or joins; None: it does neither.

        Args:
            database: The journal.
            consent: Names the yes of this call.
            used: What came of `_consent_question`.
            same: What came of `_same_question`, if it was asked.
        """
        if known := task_rows.records(used):
            return IntentResult(records=known, repeated=True)
        if joined := task_rows.readable(row for rows in same for row in rows):
            known = task_rows.led_to(database, self._rows, joined[0])
            _note_consent(database, consent, known)
            return IntentResult(records=known, joined=True)
        return None

    async def consented(self, consent: str) -> tuple[TaskRecord, ...]:
        """See `contract.Tasks.consented`."""
        return task_rows.records(
            await self._store.run(lambda database: database.read(*self._consent_question(consent)))
        )

    async def use_consent(self, consent: str) -> bool:
        """See `contract.Tasks.use_consent`."""
        sql = "INSERT INTO consent (consent, place, key) VALUES (?, 0, '') ON CONFLICT DO NOTHING"
        return await self._store.write(
            lambda database: database.execute(sql, (consent,)) > 0, alone=NOTHING, tell=False
        )

    def _consent_question(self, consent: str | None) -> tuple[str, dict[str, Value]]:
        """What to ask the database for the tasks that a yes led to."""
        rows = self._rows
        sql = (
            f"SELECT task.* FROM consent JOIN task ON task.key = consent.key WHERE {rows.own}"
            " AND consent.consent = :consent ORDER BY place"
        )
        return sql, {**rows.values, "consent": consent}

    def _written(
        self, database: Database, intents: Sequence[Intent], fresh: Sequence[Intent], at: datetime, in_flight: int
    ) -> tuple[TaskRecord, ...]:
        """Write the tasks of a call; for a person, those that are `fresh` into the audit, too."""
        new = {intent.key: intent for intent in fresh}
        written = tuple(
            self._insert(database, new.get(each.key, each), at, in_flight, is_new=each.key in new) for each in intents
        )
        if new and self._whose.person is not None:
            from flux2_mcp.journal.sql import audit

            audit.asked_for(database, [each for each in written if each.key in new], self._whose, at)
        return written

    async def _refused(self, usd: Decimal, cap: str | None, at: datetime) -> None:
        """Write into the audit that a person's call was refused. It has one entry, and its tasks were not written."""
        if self._whose.person is None:
            return
        from flux2_mcp.domain.audit import AuditEntry, What
        from flux2_mcp.journal.sql import audit

        entry = AuditEntry(
            at=at,
            what=What.GENERATE,
            person=self._whose.person,
            client=self._whose.client,
            address=self._whose.address,
            usd=usd,
            allowed=False,
            cap=cap,
        )
        with before_sending():
            await audit.refused(self._store, entry)

    def _admit_unpriced(
        self, database: Database, unknown: Sequence[Intent], caps: Caps, stated_usd: Decimal | None
    ) -> None:
        """Check that tasks whose price is not known may be made: of each model, one at a time.

        Raises:
            BudgetError: Under a cap, nothing was reserved for them, or more than one would run at once, or RunAPI never
                said what the last one cost; or the caller stated an amount for more than one.
        """
        for model, together in Counter(intent.request.model for intent in unknown).items():
            if stated_usd is not None:
                budget.first_alone(together)
            if caps.any:
                if money.untold(self._store.account, model, database):
                    budget.untold(caps)
                budget.first_alone(together + money.unpriced(self._store.account, model, database))
        if caps.any:
            for intent in unknown:
                budget.reservation(None, intent.reserved_usd, caps)

    def _insert(
        self, database: Database, intent: Intent, at: datetime, in_flight: int, *, is_new: bool = False
    ) -> TaskRecord:
        until = self._store.now(database) + self._store.lease_seconds
        record = task_rows.insert(
            database,
            self._store.account,
            intent,
            at=at,
            owner=self._store.owner,
            lease_until=until,
            more=self.columns(intent),
            is_new=is_new,
        )
        if record is not None and (record.awaits_source or not record.readable):
            return record
        return self._start(database, intent.key, at, in_flight)

    def _start(self, database: Database, key: str, at: datetime, in_flight: int) -> TaskRecord:
        # A record that can't be read may never end, so it does not count as under way.
        places = in_flight + leases.unreadable_under_way(self._store.account, self._store.now(database), database)
        database.later(
            "UPDATE task SET sent_at = :at WHERE account = :account AND key = :key AND sent_at IS NULL"
            f" AND (SELECT count(*) FROM {OPEN} WHERE {UNDER_WAY}) < :places",
            {"at": at.timestamp(), "account": self._store.account, "key": key, "places": places},
        )
        return task_rows.get(database, Rows(self._store.account), key)

    def _same_question(self, intents: Sequence[Intent], at: datetime) -> tuple[str, dict[str, Value]]:
        """What to ask the database for the last step of an identical call whose end no caller has seen."""
        rows = self._rows
        sql = (
            f"SELECT * FROM task WHERE {rows.own} AND digest = :digest AND {{workspace}} AND told_at IS NULL"
            f" AND created_at > :since AND {{save_to}} AND {JOINABLE_STATES} AND NOT EXISTS ({FOLLOWED})"
            " ORDER BY n DESC LIMIT 1"
        )
        steps = [intents[0]]
        for intent in intents[1:]:
            if intent.follows == steps[-1].key:
                steps.append(intent)
        last = steps[-1]
        since, target = (at - JOINABLE).timestamp(), None if last.save is None else last.save.target
        wanted = digests([intent.request for intent in steps])[-1]
        values = rows.values | {"digest": wanted, "since": since, "workspace": last.workspace, "save_to": target}
        same = {
            name: f"{name} IS NULL" if values[name] is None else f"{name} = :{name}"
            for name in ("workspace", "save_to")
        }
        return sql.format(**same), values

    async def start(self, record: TaskRecord, *, at: datetime, in_flight: int) -> TaskRecord:
        """See `contract.Tasks.start`."""

        def work(database: Database) -> TaskRecord:
            task_rows.held(database, self._rows, self._store.owner, record)
            return self._start(database, record.key, at, in_flight)

        return await self._store.write(work, task=record.key)

    async def supply(self, record: TaskRecord, request: ImageRequest, *, at: datetime, caps: Caps) -> TaskRecord:
        """See `contract.Tasks.supply`."""
        over: CapRoom | None = None

        def work(database: Database) -> TaskRecord:
            nonlocal over
            held = task_rows.held(database, self._rows, self._store.owner, record)
            own = team.in_force(held.person, caps, database)
            over = budget.overdrawn(own, self._money.sums(_session(held, own), held.person, at, own, database))
            if over is not None or self._beyond(database, held):
                raise budget.stopped(held.request.model, over)
            values = (dump(request), self._store.account, record.key)
            database.later("UPDATE task SET request = ? WHERE account = ? AND key = ?", values)
            if held.person is not None and held.awaits_source:  # else it was done before the connection broke
                from flux2_mcp.journal.sql import audit

                audit.write(database, [audit.step(held, at)])
            return task_rows.get(database, self._rows, record.key)

        try:
            return await self._store.write(work, task=record.key)
        except BudgetError:
            if record.person is not None:
                from flux2_mcp.journal.sql import audit

                cap = None if over is None else over.name
                await audit.refused(self._store, audit.step(record, at, allowed=False, cap=cap))
            raise

    def _beyond(self, database: Database, record: TaskRecord) -> bool:
        """Whether the call would cost more than it may, with this step and without those after it."""
        if record.most_usd is None:
            return False
        values = {"account": self._store.account, "key": record.key}
        return Decimal(database.read(CALL_COST, values)[0][0]) / task_rows.MICROS > record.most_usd

    async def broken_off(self, steps: Sequence[str], *, since: datetime, limit: int) -> tuple[TaskRecord, ...]:
        """See `contract.Tasks.broken_off`."""

        def work(database: Database) -> tuple[TaskRecord, ...]:
            rows, found = self._rows, list[TaskRecord]()
            sql = (
                f"SELECT * FROM task WHERE {rows.own} AND digest = :digest AND {among({State.DELIVERED})}"
                f" AND created_at > :since AND EXISTS ({FOLLOWED})"
                f" AND NOT EXISTS ({FOLLOWED} AND next.{among(UNFINISHED | {State.DELIVERED})})"
                " ORDER BY n DESC LIMIT :limit"
            )
            for digest in reversed(steps[:-1]):
                values = rows.values | {"digest": digest, "limit": limit - len(found), "since": since.timestamp()}
                found += task_rows.readable(database.read(sql, values))
            return tuple(found[:limit])

        return await self._store.run(work)

    async def led_to(self, records: Sequence[TaskRecord]) -> tuple[TaskRecord, ...]:
        """See `contract.Tasks.led_to`."""

        def work(database: Database) -> tuple[TaskRecord, ...]:
            chains = [task_rows.led_to(database, self._rows, record) for record in records]
            return tuple({step.key: step for chain in chains for step in chain}.values())

        return await self._store.run(work) if any(record.follows for record in records) else tuple(records)

    async def followers(self, keys: Sequence[str]) -> tuple[TaskRecord, ...]:
        """See `contract.Tasks.followers`."""

        def work(database: Database) -> tuple[TaskRecord, ...]:
            rows = self._rows
            sql = f"SELECT * FROM task WHERE {rows.seen} AND follows = :key ORDER BY n"
            return task_rows.records(row for key in keys for row in database.read(sql, {**rows.values, "key": key}))

        return await self._store.run(work)

    async def adopt(self, intent: Intent, task_id: str, *, at: datetime, location: str | None = None) -> TaskRecord:
        """See `contract.Tasks.adopt`."""
        intent = self._owned(intent)

        def work(database: Database) -> TaskRecord:
            rows = self._rows
            if known := task_rows.find(database, rows, task_id):
                return known
            if not rows.sees_all:  # it may be another person's, with this key or with another
                raise task_rows.unknown()
            until = self._store.now(database) + self._store.lease_seconds
            if accounts.take_over(self._store.name, task_id, self._store.owner, until, database) and (
                taken := task_rows.find(database, self._rows, task_id)
            ):
                return taken
            fresh = self._insert(database, intent, at, in_flight=0)
            change = TaskChange(at=at, task_id=task_id, location=location)
            if not fresh.readable:
                return fresh
            return task_rows.step(database, self._rows, self._store.owner, fresh, Event.ACCEPTED, change)

        return await self._store.write(work)

    async def apply(self, record: TaskRecord, event: Event, change: TaskChange) -> TaskRecord:
        """See `contract.Tasks.apply`."""
        after = await self._store.write(
            lambda database: task_rows.step(database, self._rows, self._store.owner, record, event, change),
            alone=HOME if event is Event.ACCEPTED else NOTHING,  # then the id may be another record's, too
            task=record.key,
        )
        self._money.remember(after)
        return after

    async def claim_name(self, record: TaskRecord, path: str) -> NameOwner:
        """See `contract.Tasks.claim_name`."""
        return await self._store.write(
            lambda database: _claim_name(self._rows, self._store.owner, record, path, database),
            durable=False,
            task=record.key,
            tell=False,
        )

    async def mark_reported(self, keys: Sequence[str], *, at: datetime) -> None:
        """See `contract.Tasks.mark_reported`."""

        def work(database: Database) -> None:
            rows = self._rows
            sql = f"UPDATE task SET told_at = coalesce(told_at, :at) WHERE {rows.own} AND key = :key"
            database.together([(sql, {**rows.values, "at": at.timestamp(), "key": key}) for key in sorted(keys)])

        await self._store.write(work, alone=NOTHING, tell=False, whole=True)

    async def find(self, ids: Sequence[str]) -> tuple[TaskRecord, ...]:
        """See `contract.Tasks.find`."""
        return self._store.warn_unreadable(
            await self._store.run(lambda database: task_rows.find_all(database, self._rows, ids))
        )


def _note_consent(database: Database, consent: str | None, records: Sequence[TaskRecord]) -> None:
    """Note which tasks a call's consent led to, in the transaction that writes or joins them."""
    for place, record in enumerate(records if consent is not None else ()):
        sql = "INSERT INTO consent (consent, place, key) VALUES (?, ?, ?)"
        database.later(sql, (consent, place, record.key))


def _claim_name(rows: Rows, owner: str, record: TaskRecord, path: str, database: Database) -> NameOwner:
    """Claim a file name for a task; return whose it was. The order in which tasks were written decides, not a clock.

    Raises:
        LeaseLostError: Another process holds the task now.
    """
    task_rows.held(database, rows, owner, record)
    sql = "SELECT n FROM task WHERE account = ? AND key = ?"
    n = int(database.read(sql, (rows.account, record.key))[0]["n"])
    # `newest` is the last task written before the name was claimed. A task that is not newer was already under way,
    # beside the owner of the name. SQLite compares values of any type, so a broken one raises no error.
    sql = "SELECT coalesce(task = :n, FALSE) AS ours, newest >= :n AS beside FROM placed WHERE path = :path"
    values: dict[str, Value] = {"path": path, "n": n}
    known = database.read(sql, values)
    if known and known[0]["beside"] and not known[0]["ours"]:
        return NameOwner.TAKEN
    newest = "(SELECT max(n) FROM task)"
    if not database.execute(f"UPDATE placed SET task = :n, newest = {newest} WHERE path = :path", values):
        database.execute(f"INSERT INTO placed (path, task, newest) VALUES (:path, :n, {newest})", values)
    return NameOwner.OURS if known and known[0]["ours"] else NameOwner.FREE


def _kind(intent: Intent) -> tuple[str, str]:
    """Model and resolution, on which the price depends."""
    return intent.request.model, resolution(intent.request)


def _session(asked: Intent | TaskRecord, caps: Caps) -> str | None:
    """The session whose sum is needed: without a cap on it, a server that runs for months would read all of its tasks."""
    return None if caps.session_usd is None else asked.session


def _reserved(intents: Sequence[Intent]) -> Decimal:
    return sum((intent.reserved_usd or Decimal(0) for intent in intents), Decimal(0))


def _priced(
    fresh: Sequence[Intent], charged: Mapping[tuple[str, str], Decimal], caps: Caps, stated_usd: Decimal | None
) -> list[Intent]:
    """The same intents; each reserves the last charge for an image of its kind if that is more than it reserved.

    Raises:
        BudgetError: The sum is more than the caller stated.
    """
    priced = [
        replace(intent, reserved_usd=usd) if (usd := charged.get(_kind(intent), Decimal(0))) > held else intent
        for intent in fresh
        for held in [intent.reserved_usd or Decimal(0)]
    ]
    if (wanted := _reserved(priced)) > _reserved(fresh):
        budget.reservation(wanted, stated_usd, caps)
    return priced
