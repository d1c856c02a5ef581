"""The runner finishes open tasks in the background, in one loop for each process.

Rules
- `_leased` holds this process's tasks, and the journal holds a lease of each in this process's name. Only the runner
  sends, polls and fetches.
- A call that is cancelled or times out stops waiting; its task goes on.
- The lock `intake` is held from the moment when new tasks are written into the journal until `keep` has put them into
  `_leased`. So a claim that finds a task outside `_leased` knows that another process began it.
- One step at a time works on a task (`busy`). An error is noted on the task, and the step is tried again later. An
  error of one task does not stop the others.
- A runner that hands over only sends. It offers each task that RunAPI has answered, and claims none.
- While the journal fails, nothing is polled: another process may have taken over a lease that can't be renewed.

Theory
    The loop renews the leases every `claim_seconds`, a tenth of their life. Between two claims it sleeps until a step
    is due, or until one of these wakes it: a new task, the end of a step, a callback, a caller that begins to wait.
    `planner` decides when to poll which task; `steps` does the steps.

Doubts
- A dead process that its parent has not reaped (a zombie) counts as alive until its lease lapses.
- `hurry` does not reach an image that another process fetches.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial

import anyio
from anyio.abc import TaskGroup

from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import AT_RUNAPI, BEFORE_RESULT, UNFINISHED, IllegalTransitionError, State
from flux2_mcp.engine import forecast
from flux2_mcp.engine.following import Following
from flux2_mcp.engine.planner import OpenTask, Schedule
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.source_images import SourceImages
from flux2_mcp.engine.steps import LeasedTask, TaskSteps, log_step
from flux2_mcp.engine.watchers import Watcher, Watchers
from flux2_mcp.errors import NOTHING_SENT, Flux2Error, JournalError, Wording
from flux2_mcp.images.store import ImageFolder
from flux2_mcp.journal.records import Intent, LeaseLostError, TaskRecord
from flux2_mcp.system.logs import Outage, fields

log = logging.getLogger("flux2_mcp.tasks")

CROWDED = "The journal could not take the task within {:g} s: the calls before this one wait for it, too."
LOOK = Wording("Look why the journal does not answer (flux2-mcp doctor), then {name:call again}.")


class TaskRunner:
    """Works on this process's tasks; the docstring of this module has the rules.

    Args:
        seam: The journal, the way to RunAPI, the clocks, the planner.
        images: The folder for finished images, and the store behind it.
        sources: Sends the image that a task works on which follows another.
        caps: The caps in force.
        rate: The maximum number of requests a second, for all processes together.
        in_flight: The maximum number of tasks under way, for all processes together.
        hand_over: Whether another process polls and fetches what this one has sent.
    """

    def __init__(
        self,
        seam: Seam,
        images: ImageFolder,
        sources: SourceImages,
        *,
        caps: Caps,
        rate: float,
        in_flight: int,
        hand_over: bool = False,
    ) -> None:
        self._seam = seam
        self._tasks = seam.journal.tasks
        self._leases = seam.journal.leases
        self._history_of = seam.journal.history
        self._steps = TaskSteps(seam, images, in_flight=in_flight)
        self._following = Following(seam, self._steps, sources, caps=caps)
        self._rate = rate
        self._in_flight = in_flight
        self._speed = seam.speed
        self._monotonic = seam.monotonic
        self._now = seam.now
        self._share, self._sharing = 1.0, False
        self._background: TaskGroup
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
        self._at_once = frozenset({State.INTENT, State.COMPLETED})
        self._outage = Outage(log, "leases not renewed", "leases renewed again", seam.monotonic)
        self._hand_over = hand_over
        if hand_over:
            self._work = {**dict.fromkeys(UNFINISHED, self._leave), State.INTENT: self._steps.send}
            self._at_once = UNFINISHED

    @asynccontextmanager
    async def taking_in(self) -> AsyncIterator[None]:
        """Hold `intake`, to write new tasks and `keep` them.

        Raises:
            JournalError: Those who held it before waited for the journal for too long.
        """
        seconds = self._seam.timing.intake_seconds
        with anyio.move_on_after(seconds) as wait:
            await self.intake.acquire()
        if wait.cancelled_caught:
            raise JournalError(CROWDED.format(seconds), cost=NOTHING_SENT, next_step=LOOK, reason="others wait for it")
        try:
            yield
        finally:
            self.intake.release()

    def keep(self, record: TaskRecord) -> LeasedTask:
        """Begin to work on a new task, of which this process holds the lease. A second call changes nothing.

        The caller holds `intake`, as inside `taking_in`.
        """
        self._wake.set()
        if record.key not in self._leased:
            log_step(record, self._now())
        return self._leased.setdefault(record.key, LeasedTask(record))

    @contextmanager
    def watched(self, keys: Collection[str]) -> Iterator[Watcher]:
        """Poll these tasks more often inside this context, because a caller waits for them."""
        with self._watchers.watching(keys) as watcher:
            self._wake.set()
            yield watcher

    def wake_callers(self) -> None:
        """Let every caller that waits look at its tasks again."""
        self._watchers.tell_all()

    def hurry(self, key: str) -> None:
        """Fetch the image of this task now if the next try was put off, because a caller waits for it."""
        if (leased := self._leased.get(key)) and leased.record.state is State.COMPLETED:
            # If a fetch is under way, it began before this call. If it fails, another follows at once.
            leased.hurried, leased.trouble = True, None
            if not leased.busy:
                self._afresh(leased)
            self._wake.set()

    def nudge(self, key: str) -> None:
        """Poll this task now, or as soon as it is sent, because RunAPI called back for it."""
        if leased := self._leased.get(key):
            leased.nudged = True
            self._wake.set()

    def without_callback(self) -> frozenset[str]:
        """Return the keys of this process's tasks that have no result yet and were made without a callback address.

        Those that are about to be sent count: a short task may end before a session is open that was begun after it.
        """
        return frozenset(
            key
            for key, leased in self._leased.items()
            if leased.record.state in BEFORE_RESULT
            and not (leased.record.request.callback_url or leased.record.push_url)
        )

    def leased(self, key: str) -> LeasedTask | None:
        """Return the task if this process holds its lease."""
        return self._leased.get(key)

    def expected(self, record: TaskRecord) -> float | None:
        """Return the expected remaining seconds of a task, from the history of its kind; None if unknown."""
        if record.submitted_at is None or record.state not in AT_RUNAPI:
            return None
        age = max(0.0, (self._now() - record.submitted_at).total_seconds())
        remaining = forecast.forecast(record.kind, self._history.get(record.kind, ())).expected(age * self._speed)
        return None if remaining is None else remaining / self._speed

    async def run(self) -> None:
        """Work on the tasks until cancelled, then release the leases."""
        while True:
            try:
                await self._run()
            except Exception:  # an unexpected error must not stop the work on tasks that are paid for
                log.exception("the runner starts again")
                await self._seam.sleep(self._seam.timing.restart_seconds)

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as group:
                self._background = group
                group.start_soon(self._learn)
                claim_at, holding = self._monotonic(), False
                while True:
                    if self._monotonic() >= claim_at:
                        # The journal may take long to answer: from the beginning of one claim to that of the next.
                        claim_at = self._monotonic() + self._seam.timing.claim_seconds
                        holding = self._hand_over or await self._claim()
                    self._wake = anyio.Event()
                    until = min(self._start_due(group), claim_at) if holding else claim_at
                    with anyio.move_on_after(max(0.0, until - self._monotonic())):
                        await self._wake.wait()
        finally:
            with anyio.CancelScope(shield=True), suppress(Flux2Error):
                await self._leases.release()

    async def _learn(self) -> None:
        with suppress(Flux2Error):  # the planner is better with the history, but works without it
            durations = await self._history_of.durations()
            self._history = {kind: tuple(each * self._speed for each in seconds) for kind, seconds in durations.items()}

    async def _claim(self) -> bool:
        """Renew the leases and take free tasks. False if the journal failed: without leases, nothing is polled."""
        async with self.intake:
            try:
                found = await self._leases.claim(take=not self._steps.key_refused)
                mine = {record.key: record for record in found}
                for key, record in mine.items():
                    if (known := self._leased.get(key)) is None or known.record.fence != record.fence:
                        log.info("taken over", extra=fields(task=record.task_id or key, state=record.state))
                        # The earlier process may have sent a create: only an answer of RunAPI settles that.
                        self._leased[key] = LeasedTask(record, lost=record.started)
                await self._drop(
                    [leased for key, leased in self._leased.items() if key not in mine and not leased.busy]
                )
            except Flux2Error as exc:
                self._outage.fails(exc.reason)
                return False
            self._outage.works()
        if mine:
            self._background.start_soon(self._share_out, len(mine))
        else:
            self._share = 1.0
        return True

    async def _share_out(self, mine: int) -> None:
        """Plan with this process's share of the rate. The limiter enforces the total. New tasks do not wait for this."""
        if self._sharing:
            return
        self._sharing = True
        try:
            with suppress(Flux2Error):
                self._share = mine / max(mine, await self._leases.unfinished())
        finally:
            self._sharing = False

    async def _drop(self, leased: Collection[LeasedTask]) -> None:
        """Drop ended tasks for which no caller waits, and tasks that another process took over."""
        taken = [task.record.key for task in leased if task.record.state.unfinished]
        known = {record.key for record in await self._tasks.find(taken)} if taken else set()
        for task in leased:
            key = task.record.key
            if task.record.state.unfinished and key not in known:
                log.warning("recorded again: the journal had lost it", extra=fields(task=task.record.task_id or key))
                task.record, task.lost = await self._restored(task.record), True
                if task.record.key != key:  # an adopted id: RunAPI has answered the create of this id in the meantime
                    del self._leased[key]
            elif task.record.state.unfinished or key not in self._watchers:
                del self._leased[key]

    async def _restored(self, record: TaskRecord) -> TaskRecord:
        """Write a task of this process into the new journal, after the broken file was moved aside."""
        intent = Intent.from_record(record)
        if record.task_id is not None:
            return await self._tasks.adopt(intent, record.task_id, at=record.created_at, location=record.location)
        at, free = record.created_at, self._in_flight
        return (await self._tasks.intend([intent], at=at, caps=Caps(), join=False, in_flight=free)).records[0]

    def _start_due(self, group: TaskGroup) -> float:
        """Start the steps that are due. Return the time of the next step or of the next claim, whichever is first."""
        now = self._monotonic()
        due, next_at, line = [], now + self._seam.timing.claim_seconds, False
        for leased in self._leased.values():
            if leased.in_line:
                if line:
                    continue  # the first asks for all: if each task looked for a place, the loop would do nothing else
                line = True
                if self._freed and not leased.busy:
                    self._freed, leased.not_before = False, None
            ready = leased.nudged or leased.record.state in self._at_once
            if ready and not leased.busy and leased.record.state in self._work:
                if (leased.not_before or now) <= now:
                    due.append(leased)
                else:
                    next_at = min(next_at, leased.not_before or next_at)
        asked = {
            key: None if leased.asked_at is None else leased.asked_at * self._speed
            for key, leased in self._leased.items()
            if leased.record.state in AT_RUNAPI - self._at_once and not leased.busy
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
        """Return the task for the planner, in seconds at the speed of the live service."""
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
        """Return when RunAPI took the task, in monotonic seconds. Computed once: the wall clock may jump later."""
        if leased.submitted is None:
            age = self._now() - (leased.record.submitted_at or leased.record.created_at)
            leased.submitted = now - max(0.0, age.total_seconds())
        return leased.submitted

    async def _work_on(self, leased: LeasedTask) -> None:
        """Do the step for the task's state. An error is noted, and the step is tried again later."""
        before, trouble = leased.record, leased.trouble
        try:
            await self._step_of(before)(leased)
            if leased.record.state is State.COMPLETED and before.state is not State.COMPLETED:
                await self._learn()
        except (LeaseLostError, IllegalTransitionError):  # the next claim reads its current state, if the lease is ours
            log.info("let go: another process has it", extra=fields(task=leased.record.task_id or leased.record.key))
            if self._leased.get(leased.record.key) is leased:
                del self._leased[leased.record.key]
        except Exception as exc:  # an error of one task, expected or not, must not stop the others
            log.warning("put off", extra=fields(task=leased.record.task_id or leased.record.key), exc_info=exc)
            error = exc if isinstance(exc, Flux2Error) else Flux2Error("The server failed on this task.")
            self._steps.put_off(leased, error)
        finally:
            leased.busy = False
            self._freed = self._freed or (before.state in BEFORE_RESULT and leased.record.state not in BEFORE_RESULT)
            if leased.hurried:
                self._afresh(leased)
            self._wake.set()
            key = leased.record.key
            if not leased.record.state.unfinished:
                for other in self._leased.values():
                    if other.record.follows == key and other.trouble is None:
                        other.not_before = None
            # Most answers change nothing.
            if self._leased.get(key) is not leased or leased.record is not before or leased.trouble is not trouble:
                self._watchers.tell(key)

    def _step_of(self, record: TaskRecord) -> Callable[[LeasedTask], Awaitable[None]]:
        if record.awaits_source:
            return self._leave if self._hand_over else self._following.supply
        return self._work[record.state]

    async def _leave(self, leased: LeasedTask) -> None:
        """Leave a task to another process: from now on this one reads the journal about it."""
        await self._leases.offer(leased.record)
        self._leased.pop(leased.record.key, None)

    @staticmethod
    def _afresh(leased: LeasedTask) -> None:
        """Forget earlier tries, so that the next try is due now."""
        leased.hurried, leased.not_before, leased.failures, leased.trouble = False, None, 0, None
