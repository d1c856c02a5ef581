"""Two processes at random on one journal, against a model in plain Python: hypothesis looks for a life that breaks it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import Caps, SpentSums
from flux2_mcp.domain.lifecycle import TABLE, Event, IllegalTransitionError, State
from flux2_mcp.errors import InvalidRequestError
from flux2_mcp.journal.contract import LEASE_SECONDS, Journal
from flux2_mcp.journal.records import IntentResult, LeaseLostError, TaskChange, TaskFilter, TaskMatches, TaskRecord
from tests.support.journals import AT, Home, PostgresHome, SqliteHome, intent

# A disk in memory, where there is one: nothing here is about surviving a power cut, and thousands of commits need not wait.
MEMORY = Path("/dev/shm")  # noqa: S108  # the folder made in it has a name of its own
IN_FLIGHT = 3
CAPS = Caps(call_usd=Decimal("0.15"), session_usd=Decimal("0.35"), daily_usd=Decimal("0.50"))
REQUESTS = [catalog.request(prompt=prompt) for prompt in ("a cat", "a dog")]
UNDER_WAY = {State.SUBMITTED, State.PROCESSING}
JOINABLE = {State.INTENT, State.SUBMITTED, State.PROCESSING, State.COMPLETED, State.DELIVERED}
FREE = {State.FAILED, State.REJECTED}

PROCESSES = st.sampled_from([0, 1])
BACK = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 5])
LIVES = [
    (Event.ACCEPTED, Event.PROCESSING),
    (Event.ACCEPTED, Event.COMPLETED),
    (Event.ACCEPTED, Event.COMPLETED, Event.DELIVERED),
    (Event.ACCEPTED, Event.COMPLETED, Event.EXPIRED),
    (Event.ACCEPTED, Event.FAILED),
    (Event.ACCEPTED, Event.PROCESSING, Event.FAILED),
    (Event.ACCEPTED, Event.VANISHED),
    (Event.REFUSED,),
    (Event.REFUSED,),
    (Event.EXPIRED,),
]
ACTIONS = [
    *("intend", "intend", "intend", "intend", "live", "live", "live", "happen", "begin_sending", "tell"),
    *("claim", "claim", "release", "wait", "wait", "reopen", "crash", "restart_the_machine"),
]
AMOUNTS = st.sampled_from([Decimal("0.05"), Decimal("0.05"), Decimal("0.10"), Decimal("0.20"), Decimal(0)])
SHARES = st.sampled_from([None, 0, 2, 4])
"""Quarters of its reservation that a task is charged with."""


@dataclass(slots=True)
class Task:
    """One task as the model knows it."""

    request: int
    workspace: str
    session: str
    reserved: Decimal
    created: datetime
    owner: str
    lease_until: float | None
    fence: int = 0
    state: State = State.INTENT
    started: bool = False
    told: bool = False
    charged: Decimal | None = None
    charged_at: datetime | None = None

    @property
    def counts(self) -> Decimal:
        amount = self.reserved if self.charged is None else self.charged
        return Decimal(0) if self.state in FREE else amount

    @property
    def under_way(self) -> bool:
        return self.state in UNDER_WAY or (self.state is State.INTENT and self.started)


class JournalMachine(RuleBasedStateMachine):
    """Each process has a journal object of its own on one file; the clocks are turned by hand."""

    make_home: Callable[[Path, AsyncExitStack], Home] = SqliteHome

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        self.running = start_blocking_portal()
        self.portal = self.running.__enter__()
        self.home = type(self).make_home(Path(self.folder.name) / "home", AsyncExitStack())
        self.clock = self.home.clock
        self.at = AT
        self.born = 0
        self.tasks: dict[str, Task] = {}
        # Who believes to hold what, and until when: what each process was told last.
        self.beliefs: dict[str, dict[str, float]] = {}
        # The fence under which each process took what it has, or had: it does not learn that another took it over.
        self.fences: dict[str, dict[str, int]] = {}
        self.owners = ["", ""]
        self.journals: list[Journal] = [self.process(0), self.process(1)]

    def process(self, slot: int) -> Journal:
        self.born += 1
        self.owners[slot] = f"p{self.born}"
        self.beliefs[self.owners[slot]], self.fences[self.owners[slot]] = {}, {}
        return self.home.journal(self.owners[slot])

    def teardown(self) -> None:
        if hasattr(self, "portal"):
            for journal in self.journals:
                self.portal.call(journal.close)
            self.running.__exit__(None, None, None)
            self.folder.cleanup()

    # --- what the model expects ---

    def spent(self, session: str | None = None) -> Decimal:
        since = self.at - timedelta(hours=24)
        ours = [t for t in self.tasks.values() if (t.created > since if session is None else t.session == session)]
        return sum((task.counts for task in ours), Decimal(0))

    def joinable(self, request: int, workspace: str) -> str | None:
        since = self.at - timedelta(hours=1)
        for key, task in reversed(self.tasks.items()):
            same = (task.request, task.workspace, task.told) == (request, workspace, False)
            if same and task.state in JOINABLE and task.created > since:
                return key
        return None

    def fits(self, wanted: Decimal, session: str) -> bool:
        assert CAPS.call_usd is not None
        assert CAPS.session_usd is not None
        assert CAPS.daily_usd is not None
        rooms = (CAPS.call_usd, CAPS.session_usd - self.spent(session), CAPS.daily_usd - self.spent())
        return wanted <= min(rooms) and min(rooms) > 0

    def last_charged(self) -> Decimal:
        """What the last image was charged, where that was something: all requests are of one kind."""
        paid = [(task.charged_at, task.charged) for task in self.tasks.values() if task.charged and task.charged_at]
        ended = max((at for at, _ in paid), default=None)
        return next((charged for at, charged in reversed(paid) if at == ended), Decimal(0))

    def start(self, key: str) -> None:
        task = self.tasks[key]
        if sum(other.under_way for other in self.tasks.values()) < IN_FLIGHT:
            task.started = True

    def seen(self, records: tuple[TaskRecord, ...], keys: list[str]) -> None:
        """The records are those of these tasks, in this order, as the model has them."""
        assert [record.key for record in records] == keys
        for record in records:
            task = self.tasks[record.key]
            assert (record.state, record.started) == (task.state, task.started), record.key
            assert (record.owner, record.fence) == (task.owner, task.fence), record.key
            assert (record.charged_usd, record.request) == (task.charged, REQUESTS[task.request]), record.key
            assert (record.workspace, record.session) == (task.workspace, task.session), record.key
            assert record.created_at == task.created, record.key

    # --- what may happen ---

    def some_key(self, data: st.DataObject) -> str:
        return list(self.tasks)[-1 - data.draw(BACK, "counted from the newest") % len(self.tasks)]

    # One rule for all, since hypothesis leaves whole rules out of most of its runs, and little happens without the others.
    @rule(slot=PROCESSES, action=st.sampled_from(ACTIONS), data=st.data())
    def act(self, slot: int, action: str, data: st.DataObject) -> None:
        if self.tasks or action in {"intend", "wait", "crash"}:
            getattr(self, action)(slot, data)

    def intend(self, slot: int, data: st.DataObject) -> None:
        """A call for some new tasks and, it may be, one whose key is known."""
        fresh = [f"k{len(self.tasks) + number}" for number in range(data.draw(st.sampled_from([1, 1, 1, 2, 3])))]
        again = data.draw(st.booleans(), "one more, again")
        keys = [*fresh, self.some_key(data)] if again and self.tasks else fresh
        request = data.draw(st.sampled_from([0, 0, 0, 1]), "request")
        workspace = data.draw(st.sampled_from(["/a", "/a", "/a", "/b"]), "workspace")
        usd, join = data.draw(AMOUNTS, "usd"), data.draw(st.booleans(), "join")
        session = f"session-{self.owners[slot]}"
        asked = [intent(k, REQUESTS[request], str(usd), workspace=workspace, session=session) for k in keys]
        held = max(usd, self.last_charged())
        joined = self.joinable(request, workspace) if join else None
        taken = joined is None and any(self.tasks[k].request != request for k in keys if k in self.tasks)
        try:
            done: IntentResult = self.portal.call(self._intend, slot, asked, join)
        except InvalidRequestError:
            assert taken
            return
        assert not taken
        if joined is not None:
            assert (done.joined, done.over) == (True, None)
            self.seen(done.records, [joined])
            return
        assert not done.joined
        assert (done.over is None) == self.fits(held * len(fresh), session)
        if done.over is not None:
            assert done.records == ()
            return
        for key in keys:
            if key in fresh:
                until = self.clock.now + LEASE_SECONDS
                self.tasks[key] = Task(request, workspace, session, held, self.at, self.owners[slot], until)
                self.beliefs[self.owners[slot]][key] = until
                self.fences[self.owners[slot]][key] = 0
            if not self.tasks[key].started:
                self.start(key)
        self.seen(done.records, keys)

    async def _intend(self, slot: int, asked: list[Any], join: bool) -> IntentResult:
        return await self.journals[slot].tasks.intend(asked, at=self.at, caps=CAPS, join=join, in_flight=IN_FLIGHT)

    def begin_sending(self, slot: int, data: st.DataObject) -> None:
        self.send(slot, self.some_key(data))

    def send(self, slot: int, key: str) -> None:
        try:
            record: TaskRecord = self.portal.call(self._start, slot, key)
        except LeaseLostError:
            assert not self.holds(slot, key)
            return
        assert self.holds(slot, key)
        if not self.tasks[key].started:
            self.start(key)
        self.seen((record,), [key])

    async def _start(self, slot: int, key: str) -> TaskRecord:
        return await self.journals[slot].tasks.start(await self._last_seen(slot, key), at=self.at, in_flight=IN_FLIGHT)

    async def _last_seen(self, slot: int, key: str) -> TaskRecord:
        """The task as this process believes to hold it, were it stopped since."""
        (record,) = await self.journals[slot].tasks.find([key])
        return replace(record, fence=self.fences[self.owners[slot]].get(key, record.fence))

    def holds(self, slot: int, key: str) -> bool:
        task, owner = self.tasks[key], self.owners[slot]
        return task.owner == owner and self.fences[owner].get(key, task.fence) == task.fence

    def happen(self, slot: int, data: st.DataObject) -> None:
        self.step(slot, self.some_key(data), data.draw(st.sampled_from(Event)), data.draw(SHARES, "share"))

    def live(self, slot: int, data: st.DataObject) -> None:
        """Random events alone seldom bring a task to its end."""
        key, share = self.some_key(data), data.draw(SHARES, "share")
        slot = self.owners.index(self.tasks[key].owner) if self.tasks[key].owner in self.owners else slot
        self.send(slot, key)
        for event in data.draw(st.sampled_from(LIVES)):
            self.step(slot, key, event, share)

    def step(self, slot: int, key: str, event: Event, share: int | None) -> None:
        task = self.tasks[key]
        if event is Event.ACCEPTED and not task.started:
            return  # nothing is accepted that was not begun to be sent
        # Never charged more than what was set aside, and failed tasks not at all (`api/runapi.md`, tasks).
        charged = task.reserved * share / 4 if share is not None and event is Event.COMPLETED else None
        then = TABLE[task.state].get(event)
        change = TaskChange(at=self.at, task_id=f"id-{key}", charged_usd=charged)
        try:
            record = self.portal.call(self._apply, slot, key, event, change)
        except LeaseLostError:
            assert not self.holds(slot, key)
            return
        except IllegalTransitionError:
            assert self.holds(slot, key)
            assert then is None
            return
        assert self.holds(slot, key)
        assert then is not None
        task.state = then
        if charged is not None:
            task.charged, task.charged_at = charged, self.at
        self.seen((record,), [key])

    async def _apply(self, slot: int, key: str, event: Event, change: TaskChange) -> TaskRecord:
        return await self.journals[slot].tasks.apply(await self._last_seen(slot, key), event, change)

    def tell(self, slot: int, data: st.DataObject) -> None:
        keys = [self.some_key(data)]
        self.portal.call(self._tell, slot, [*keys, "no such key"])
        for key in keys:
            self.tasks[key].told = True

    async def _tell(self, slot: int, keys: list[str]) -> None:
        await self.journals[slot].tasks.mark_reported(keys, at=self.at)

    def claim(self, slot: int, _: st.DataObject) -> None:
        owner, now = self.owners[slot], self.clock.now
        for task in self.tasks.values():
            held = task.lease_until is not None and now <= task.lease_until <= now + LEASE_SECONDS
            if task.state.unfinished and (task.owner == owner or not held):
                task.fence += task.owner != owner
                task.owner, task.lease_until = owner, now + LEASE_SECONDS
        mine = [key for key, task in self.tasks.items() if task.state.unfinished and task.owner == owner]
        self.seen(self.portal.call(self.journals[slot].leases.claim), mine)
        self.beliefs[owner] = dict.fromkeys(mine, now + LEASE_SECONDS)
        self.fences[owner] |= {key: self.tasks[key].fence for key in mine}

    def release(self, slot: int, _: st.DataObject) -> None:
        self.portal.call(self.journals[slot].leases.release)
        self.beliefs[self.owners[slot]] = {}
        for task in self.tasks.values():
            if task.owner == self.owners[slot]:
                task.lease_until = None

    def wait(self, _: int, data: st.DataObject) -> None:
        seconds = data.draw(
            st.sampled_from(
                [0.5, LEASE_SECONDS / 2, LEASE_SECONDS / 2, LEASE_SECONDS + 0.5, LEASE_SECONDS + 0.5, 1800.0, 90_000.0]
            )
        )
        self.clock.now += seconds
        self.at += timedelta(seconds=seconds)

    def reopen(self, slot: int, _: st.DataObject) -> None:
        self.portal.call(self.journals[slot].close)

    def crash(self, slot: int, _: st.DataObject) -> None:
        """Its leases stay until they lapse; another process comes in its place."""
        self.portal.call(self.journals[slot].close)
        self.beliefs.pop(self.owners[slot])
        self.journals[slot] = self.process(slot)

    def restart_the_machine(self, _: int, data: st.DataObject) -> None:
        self.clock.now = 5.0
        self.at += timedelta(seconds=60)
        for slot in (0, 1):
            self.crash(slot, data)

    # --- what holds at any time ---

    @invariant()
    def the_journal_is_what_the_model_says_and_nothing_is_lost_or_overspent(self) -> None:
        sessions = [f"session-{owner}" for owner in self.owners]
        for session, (records, spent) in zip(sessions, self.portal.call(self._look, sessions), strict=True):
            found = {record.key: record for record in records}
            assert len(found) == len(records) == len(self.tasks)
            self.seen(tuple(found[key] for key in self.tasks), list(self.tasks))
            assert spent == SpentSums(session_usd=self.spent(session), daily_usd=self.spent())
            assert CAPS.session_usd is not None
            assert CAPS.daily_usd is not None
            assert spent.session_usd <= CAPS.session_usd
            assert spent.daily_usd <= CAPS.daily_usd

    @invariant()
    def the_sums_that_are_kept_are_those_that_are_counted(self) -> None:
        kept, counted = self.portal.call(self._sums)
        assert kept == counted
        assert kept.tasks == len(self.tasks)

    async def _sums(self) -> tuple[TaskMatches, TaskMatches]:
        history = self.journals[0].history
        return await history.matched(), await history.matched(TaskFilter(since=datetime.fromtimestamp(0, UTC)))

    async def _look(self, sessions: list[str]) -> list[tuple[tuple[TaskRecord, ...], SpentSums]]:
        return [
            (await journal.tasks.recent(limit=100), await journal.money.spent(at=self.at, session=session))
            for journal, session in zip(self.journals, sessions, strict=True)
        ]

    @invariant()
    def no_more_are_under_way_than_may_be(self) -> None:
        assert sum(task.under_way for task in self.tasks.values()) <= IN_FLIGHT

    @invariant()
    def no_two_processes_believe_to_hold_the_same_task(self) -> None:
        held = [
            key
            for beliefs in self.beliefs.values()
            for key, until in beliefs.items()
            if until >= self.clock.now and self.tasks[key].state.unfinished
        ]
        assert len(held) == len(set(held))


class PostgresMachine(JournalMachine):
    """The same on a schema of PostgreSQL."""

    make_home = PostgresHome


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=settings().max_examples // 5, stateful_step_count=40)


TestPostgresMachine = PostgresMachine.TestCase
TestPostgresMachine.settings = settings(max_examples=max(2, settings().max_examples // 15), stateful_step_count=20)


class PostgresMachineAtLength(PostgresMachine):
    """As many examples as for SQLite."""


TestPostgresMachineAtLength = pytest.mark.deep(PostgresMachineAtLength.TestCase)
TestPostgresMachineAtLength.settings = TestJournalMachine.settings
