"""The runner finishes open tasks in the background: one loop for a process, however many callers wait.

Rules
- A task in this process's care is in `_leased`, and the journal holds its lease in this process's name. Nothing else in the
  process sends, asks or fetches.
- A call that is cancelled or times out stops waiting; its task goes on.
- `intake` is held while tasks come into care, from the journal's writing to `keep`. So a claim meets no new task that is not
  in care yet, and what it finds beside them was begun by another process.
- A task is worked on by one step at a time (`busy`). Trouble is noted on the task and the step is tried again later: the
  trouble of one task ends the care of no other.
- Without the journal nothing is asked: a lease that can't be renewed may be another process's by now.

Theory
    Leases are renewed every `claim_seconds`, a tenth of their life. Between two claims the loop sleeps until a step is due,
    or until it is woken: a new task, a step that ended, a callback, a caller that begins to wait. When to ask about which
    task is `planner`'s; what a step does is `steps`'.

Doubts
- A process that nobody reaps counts as alive until its lease lapses.
- `hurry` does not reach an image that another process fetches.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import AT_RUNAPI, BEFORE_RESULT, IllegalTransitionError, State
from flux2_mcp.engine import forecast
from flux2_mcp.engine.planner import OpenTask, Schedule
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.steps import LeasedTask, TaskSteps, log_step
from flux2_mcp.engine.watchers import Watcher, Watchers
from flux2_mcp.errors import Flux2Error
from flux2_mcp.journal.records import Intent, LeaseLostError, TaskRecord
from flux2_mcp.system.logs import fields

log = logging.getLogger("flux2_mcp.tasks")


class TaskRunner:
    """Looks after this process's tasks; the rules stand at the head of this module.

    Args:
        seam: The journal, the way to RunAPI, the clocks, the planner.
        images: Folder for finished images.
        rate: Requests a second that all processes together may make.
        in_flight: The most tasks that all processes together may have under way.
    """

    def __init__(self, seam: Seam, images: Path, *, rate: float, in_flight: int) -> None:
        self._seam = seam
        self._tasks = seam.journal.tasks
        self._leases = seam.journal.leases
        self._history_of = seam.journal.history
        self._steps = TaskSteps(seam, images, in_flight=in_flight)
        self._rate = rate
        self._in_flight = in_flight
        self._speed = seam.speed
        self._monotonic = seam.monotonic
        self._now = seam.now
        self._share = 1.0
        self._leased: dict[str, LeasedTask] = {}
        self._watchers = Watchers()
        self._history: Mapping[forecast.Kind, tuple[float, ...]] = {}
        self._schedule = Schedule(seam.plan)
        self._wake = anyio.Event()
        self._freed = False  # a task of ours has left its place among those under way
        self.intake = anyio.Lock()
        self._work: Mapping[State, Callable[[LeasedTask], Awaitable[None]]] = {
            State.INTENT: self._steps.send,
            State.SUBMITTED: self._steps.ask,
            State.PROCESSING: self._steps.ask,
            State.COMPLETED: self._steps.fetch,
        }

    def keep(self, record: TaskRecord) -> LeasedTask:
        """Take a new task into care, whose lease is this process's; `intake` is held. The same task twice is the same care."""
        self._wake.set()
        if record.key not in self._leased:
            log_step(record, self._now())
        return self._leased.setdefault(record.key, LeasedTask(record))

    @contextmanager
    def watched(self, keys: Collection[str]) -> Iterator[Watcher]:
        """A caller waits for these tasks meanwhile, so they are asked about more often."""
        with self._watchers.watching(keys) as watcher:
            self._wake.set()
            yield watcher

    def hurry(self, key: str) -> None:
        """A caller waits for this task: an image whose fetching was put off is fetched now."""
        if (leased := self._leased.get(key)) and leased.record.state is State.COMPLETED:
            # A fetch under way began before it was asked for: if it fails, another follows at once, and its end is told.
            leased.hurried, leased.trouble = True, None
            if not leased.busy:
                self._afresh(leased)
            self._wake.set()

    def nudge(self, key: str) -> None:
        """RunAPI called back for this task: ask about it now, or as soon as it was sent."""
        if leased := self._leased.get(key):
            leased.nudged = True
            self._wake.set()

    def leased(self, key: str) -> LeasedTask | None:
        """The task, where it is in this process's care."""
        return self._leased.get(key)

    def expected(self, record: TaskRecord) -> float | None:
        """About how many seconds a task still takes, from the history of its kind; None where that is not known."""
        if record.submitted_at is None or record.state not in AT_RUNAPI:
            return None
        age = max(0.0, (self._now() - record.submitted_at).total_seconds())
        remaining = forecast.forecast(record.kind, self._history.get(record.kind, ())).expected(age * self._speed)
        return None if remaining is None else remaining / self._speed

    async def run(self) -> None:
        """Keep until cancelled, then give up the leases."""
        while True:
            try:
                await self._run()
            except Exception:  # an unexpected error must not end the care of tasks that are paid for
                log.exception("the runner starts again")
                await self._seam.sleep(self._seam.timing.restart_seconds)

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as group:
                await self._learn()
                claim_at, holding = self._monotonic(), False
                while True:
                    if self._monotonic() >= claim_at:
                        holding = await self._claim()
                        claim_at = self._monotonic() + self._seam.timing.claim_seconds
                    self._wake = anyio.Event()
                    until = min(self._start_due(group), claim_at) if holding else claim_at
                    with anyio.move_on_after(max(0.0, until - self._monotonic())):
                        await self._wake.wait()
        finally:
            with anyio.CancelScope(shield=True), suppress(Flux2Error):
                await self._leases.release()

    async def _learn(self) -> None:
        with suppress(Flux2Error):  # the history makes the planner better; it does without
            durations = await self._history_of.durations()
            self._history = {kind: tuple(each * self._speed for each in seconds) for kind, seconds in durations.items()}

    async def _claim(self) -> bool:
        """Renew the leases and take what is free. False where the journal failed: without leases, nothing is asked."""
        async with self.intake:
            try:
                found = await self._leases.claim(take=not self._steps.key_refused)
                mine = {record.key: record for record in found}
                # Each process plans with its part of the rate; the limiter has the last word.
                self._share = len(mine) / max(len(mine), await self._leases.unfinished()) if mine else 1.0
                for key, record in mine.items():
                    if (known := self._leased.get(key)) is None or known.record.fence != record.fence:
                        log.info("taken over", extra=fields(task=record.task_id or key, state=record.state))
                        # Whether the process before us was heard can't be known: only an answer settles it.
                        self._leased[key] = LeasedTask(record, lost=record.started)
                await self._drop(
                    [leased for key, leased in self._leased.items() if key not in mine and not leased.busy]
                )
            except Flux2Error as exc:
                log.warning("leases not renewed", extra=fields(reason=exc.reason))
                return False
            return True

    async def _drop(self, leased: Collection[LeasedTask]) -> None:
        """Let go of tasks that have ended and that no caller waits for, and of tasks that another process took over."""
        taken = [one for one in leased if one.record.state.unfinished]
        known = {record.key for record in await self._tasks.find([one.record.key for one in taken])} if taken else set()
        for one in leased:
            key = one.record.key
            if one.record.state.unfinished and key not in known:
                log.warning("written down anew: the journal lost it", extra=fields(task=one.record.task_id or key))
                one.record, one.lost = await self._restored(one.record), True
                if one.record.key != key:  # an id that was adopted: its own create was answered since
                    del self._leased[key]
            elif one.record.state.unfinished or key not in self._watchers:
                del self._leased[key]

    async def _restored(self, record: TaskRecord) -> TaskRecord:
        """The file was found broken and moved aside; what this process still knows of its open tasks goes into the new one."""
        intent = Intent.from_record(record)
        if record.task_id is not None:
            return await self._tasks.adopt(intent, record.task_id, at=record.created_at)
        at, free = record.created_at, self._in_flight
        return (await self._tasks.intend([intent], at=at, caps=Caps(), join=False, in_flight=free)).records[0]

    def _start_due(self, group: TaskGroup) -> float:
        """Start the work that is due. Gives the time of the next, or of the next claim."""
        now = self._monotonic()
        due, next_at, line = [], now + self._seam.timing.claim_seconds, False
        for leased in self._leased.values():
            if leased.in_line:
                if line:
                    continue  # the first asks for all: many that each look for a place would do nothing else
                line = True
                if self._freed and not leased.busy:
                    self._freed, leased.not_before = False, None
            ready = leased.nudged or leased.record.state in {State.INTENT, State.COMPLETED}
            if ready and not leased.busy and leased.record.state in self._work:
                if (leased.not_before or now) <= now:
                    due.append(leased)
                else:
                    next_at = min(next_at, leased.not_before or next_at)
        asked = {
            key: None if leased.asked_at is None else leased.asked_at * self._speed
            for key, leased in self._leased.items()
            if leased.record.state in AT_RUNAPI and not leased.busy
        }
        life, rate = now * self._speed, self._rate * self._share / self._speed
        to_ask = self._schedule.due(asked, partial(self._open, now=now), self._history, now=life, rate=rate)
        due += [self._leased[key] for key in to_ask if not self._leased[key].nudged]
        next_at = min(next_at, self._schedule.next_at() / self._speed)
        for leased in due:
            leased.busy = True
            group.start_soon(self._work_on, leased)
        return next_at

    def _open(self, key: str, now: float) -> OpenTask:
        """The task as the planner sees it, in life's seconds."""
        leased, speed = self._leased[key], self._speed
        return OpenTask(
            id=key,
            kind=leased.record.kind,
            submitted_at=self._submitted(leased, now) * speed,
            last_asked_at=None if leased.asked_at is None else leased.asked_at * speed,
            not_before=None if leased.not_before is None else leased.not_before * speed,
            watched=key in self._watchers,
        )

    def _submitted(self, leased: LeasedTask, now: float) -> float:
        """When RunAPI took the task, on the monotonic clock: worked out once from the wall clock, which may jump later."""
        if leased.submitted is None:
            age = self._now() - (leased.record.submitted_at or leased.record.created_at)
            leased.submitted = now - max(0.0, age.total_seconds())
        return leased.submitted

    async def _work_on(self, leased: LeasedTask) -> None:
        """Do what the task's state calls for. Trouble is noted and the work tried again: the task outlives it."""
        before, trouble, lost = leased.record, leased.trouble, False
        try:
            await self._work[before.state](leased)
            if leased.record.state is State.COMPLETED and before.state is not State.COMPLETED:
                await self._learn()
        except (LeaseLostError, IllegalTransitionError):  # the next claim brings it as it stands, if it is still ours
            log.info("let go: another process has it", extra=fields(task=leased.record.task_id or leased.record.key))
            if self._leased.get(leased.record.key) is leased:
                del self._leased[leased.record.key]
            lost = True
        except Exception as exc:  # one task's trouble, foreseen or not, must not end the keeping of the others
            log.warning("put off", extra=fields(task=leased.record.task_id or leased.record.key), exc_info=exc)
            foreseen = exc if isinstance(exc, Flux2Error) else Flux2Error("The server failed on this task.")
            self._steps.put_off(leased, foreseen)
        finally:
            leased.busy = False
            self._freed = self._freed or (before.state in BEFORE_RESULT and leased.record.state not in BEFORE_RESULT)
            if leased.hurried:
                self._afresh(leased)
            self._wake.set()
            if lost or leased.record is not before or leased.trouble is not trouble:  # most answers bring no news
                self._watchers.tell(leased.record.key)

    @staticmethod
    def _afresh(leased: LeasedTask) -> None:
        """Forget earlier tries, so that the next is now."""
        leased.hurried, leased.not_before, leased.failures, leased.trouble = False, None, 0, None
