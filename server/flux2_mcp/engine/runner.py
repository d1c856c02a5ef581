"""The keeper looks after open tasks in the background: one loop for a process, whoever is waiting.

A call that is cancelled or times out stops waiting, never the keeping. The keeper holds leases in the journal on what it
keeps, and takes over what dead processes left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import IllegalTransitionError, State
from flux2_mcp.engine import forecast
from flux2_mcp.engine.backend import Backend
from flux2_mcp.engine.planner import Schedule
from flux2_mcp.engine.steps import LeasedTask, TaskSteps, log_step
from flux2_mcp.errors import Flux2Error
from flux2_mcp.journal.records import Intent, Journal, LeaseLostError, TaskRecord
from flux2_mcp.system.logs import fields

log = logging.getLogger("flux2_mcp.tasks")

CLAIM_SECONDS = 2.0
"""Seconds between two looks for leases to renew and tasks to take over; a tenth of a lease."""
RESTART_SECONDS = 1.0
"""Seconds until the keeper starts again after something that nobody foresaw ended it."""
_TAKE_A_PLACE = frozenset({State.INTENT, State.SUBMITTED, State.PROCESSING})


@dataclass(slots=True, eq=False)
class Watcher:
    """Somebody who waits for tasks. `changed` is set when one of them has changed: take it before looking, wait on it after.

    Each has one of their own: else whoever waits would be woken by every task of everybody.
    """

    changed: anyio.Event = field(default_factory=anyio.Event)

    def tell(self) -> None:
        """There is news."""
        changed, self.changed = self.changed, anyio.Event()
        changed.set()


class TaskRunner:
    """Keeps this process's tasks.

    Args:
        journal: Where they are written down.
        gateway: The way to RunAPI.
        images: Folder for finished images.
        rate: Requests a second that all processes together may make.
        in_flight: Tasks that all processes together may have under way.
        speed: How many times faster than life tasks run: 1, but in the sandbox. The planner thinks in life's seconds.
        monotonic: Seconds on the machine's monotonic clock.
        now: UTC.
    """

    def __init__(
        self,
        journal: Journal,
        gateway: Backend,
        images: Path,
        *,
        rate: float,
        in_flight: int,
        speed: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._journal = journal
        self._worker = TaskSteps(journal, gateway, images, in_flight=in_flight, monotonic=monotonic, now=now)
        self._rate = rate
        self._in_flight = in_flight
        self._speed = speed
        self._monotonic = monotonic
        self._now = now
        self._share = 1.0
        self._kept: dict[str, LeasedTask] = {}
        self._watching: dict[str, list[Watcher]] = {}
        self._history: Mapping[forecast.Kind, tuple[float, ...]] = {}
        self._schedule = Schedule()
        self._wake = anyio.Event()
        self._freed = False  # a task of ours has left its place among those under way
        self.intake = anyio.Lock()
        """Held while tasks come into care, from the journal's writing to `keep`: so a claim meets no new task that is not
        kept yet, and what it finds unkept was begun by somebody else."""
        self._work: Mapping[State, Callable[[LeasedTask], Awaitable[None]]] = {
            State.INTENT: self._worker.send,
            State.SUBMITTED: self._worker.ask,
            State.PROCESSING: self._worker.ask,
            State.COMPLETED: self._worker.fetch,
        }

    def keep(self, entry: TaskRecord) -> LeasedTask:
        """Take a new task into care, whose lease is this process's; `intake` is held. The same task twice is the same care."""
        self._wake.set()
        if entry.key not in self._kept:
            log_step(entry, self._now())
        return self._kept.setdefault(entry.key, LeasedTask(entry))

    @contextmanager
    def watched(self, keys: Collection[str]) -> Iterator[Watcher]:
        """Somebody waits for these tasks meanwhile, so they are asked about more often."""
        watch = Watcher()
        for key in keys:
            self._watching.setdefault(key, []).append(watch)
        self._wake.set()
        try:
            yield watch
        finally:
            for key in keys:
                self._watching[key].remove(watch)
                if not self._watching[key]:
                    del self._watching[key]

    def hurry(self, key: str) -> None:
        """Somebody waits for this task: an image whose fetching was put off is fetched now."""
        if (kept := self._kept.get(key)) and kept.entry.state is State.COMPLETED:
            # A fetch under way began before it was asked for: if it fails, another follows at once, and its end is told.
            kept.hurried, kept.trouble = True, None
            if not kept.busy:
                self._afresh(kept)
            self._wake.set()

    def nudge(self, key: str) -> None:
        """RunAPI called back for this task: ask about it now, or as soon as it was sent."""
        if kept := self._kept.get(key):
            kept.nudged = True
            self._wake.set()

    def kept(self, key: str) -> LeasedTask | None:
        """The task, where it is in this process's care."""
        return self._kept.get(key)

    def expected(self, entry: TaskRecord) -> float | None:
        """About how many seconds a task still takes, from the history of its kind; None where nobody can say."""
        if entry.submitted_at is None or entry.state not in {State.SUBMITTED, State.PROCESSING}:
            return None
        age = max(0.0, (self._now() - entry.submitted_at).total_seconds())
        remaining = forecast.forecast(entry.kind, self._history.get(entry.kind, ())).expected(age * self._speed)
        return None if remaining is None else remaining / self._speed

    async def run(self) -> None:
        """Keep until cancelled, then give up the leases."""
        while True:
            try:
                await self._run()
            except Exception:  # whatever it was: what is paid for must be kept
                log.exception("the keeper starts again")
                await anyio.sleep(RESTART_SECONDS)

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as group:
                await self._learn()
                claim_at, holding = self._monotonic(), False
                while True:
                    if self._monotonic() >= claim_at:
                        holding = await self._claim()
                        claim_at = self._monotonic() + CLAIM_SECONDS
                    self._wake = anyio.Event()
                    until = min(self._start_due(group), claim_at) if holding else claim_at
                    with anyio.move_on_after(max(0.0, until - self._monotonic())):
                        await self._wake.wait()
        finally:
            with anyio.CancelScope(shield=True), suppress(Flux2Error):
                await self._journal.release()

    async def _learn(self) -> None:
        with suppress(Flux2Error):  # the history makes the planner better; it does without
            durations = await self._journal.durations()
            self._history = {kind: tuple(each * self._speed for each in seconds) for kind, seconds in durations.items()}

    async def _claim(self) -> bool:
        """Renew the leases and take what is free. False where the journal failed: without leases, nothing is asked."""
        async with self.intake:
            try:
                found = await self._journal.claim(take=not self._worker.key_refused)
                mine = {entry.key: entry for entry in found}
                # Each process plans with its part of the rate; the limiter has the last word.
                self._share = len(mine) / max(len(mine), await self._journal.unfinished()) if mine else 1.0
                for key, entry in mine.items():
                    if (known := self._kept.get(key)) is None or known.entry.fence != entry.fence:
                        log.info("taken over", extra=fields(task=entry.task_id or key, state=entry.state))
                        # Whether the process before us was heard can't be known: only an answer settles it.
                        self._kept[key] = LeasedTask(entry, lost=entry.started)
                await self._drop([kept for key, kept in self._kept.items() if key not in mine and not kept.busy])
            except Flux2Error as exc:
                log.warning("leases not renewed", extra=fields(reason=exc.message))
                return False
            return True

    async def _drop(self, kept: Collection[LeasedTask]) -> None:
        """Let go of what has ended and nobody waits for, and of what another process took while this one was stopped."""
        taken = [one for one in kept if one.entry.state.unfinished]
        known = {entry.key for entry in await self._journal.find([one.entry.key for one in taken])} if taken else set()
        for one in kept:
            key = one.entry.key
            if one.entry.state.unfinished and key not in known:
                log.warning("written down anew: the journal lost it", extra=fields(task=one.entry.task_id or key))
                one.entry, one.lost = await self._restored(one.entry), True
                if one.entry.key != key:  # an id that was adopted: its own create was answered since
                    del self._kept[key]
            elif one.entry.state.unfinished or key not in self._watching:
                del self._kept[key]

    async def _restored(self, entry: TaskRecord) -> TaskRecord:
        """The file was found broken and moved aside; what this process still knows of its open tasks goes into the new one."""
        intent = Intent(
            key=entry.key,
            request=entry.request,
            quoted_usd=entry.quoted_usd,
            reserved_usd=entry.reserved_usd,
            workspace=entry.workspace,
            client=entry.client,
            session=entry.session,
            push_url=entry.push_url,
            save=entry.save,
        )
        if entry.task_id is not None:
            return await self._journal.adopt(intent, entry.task_id, at=entry.created_at)
        at, free = entry.created_at, self._in_flight
        return (await self._journal.intend([intent], at=at, caps=Caps(), join=False, in_flight=free)).entries[0]

    def _start_due(self, group: TaskGroup) -> float:
        """Start the work that is due. Gives the time of the next, or of the next claim."""
        now = self._monotonic()
        due, next_at, line = [], now + CLAIM_SECONDS, False
        for kept in self._kept.values():
            if kept.in_line:
                if line:
                    continue  # the first asks for all: many that each look for a place would do nothing else
                line = True
                if self._freed and not kept.busy:
                    self._freed, kept.not_before = False, None
            ready = kept.nudged or kept.entry.state in {State.INTENT, State.COMPLETED}
            if ready and not kept.busy and kept.entry.state in self._work:
                if (kept.not_before or now) <= now:
                    due.append(kept)
                else:
                    next_at = min(next_at, kept.not_before or next_at)
        asked = {
            key: None if kept.asked_at is None else kept.asked_at * self._speed
            for key, kept in self._kept.items()
            if kept.entry.state in {State.SUBMITTED, State.PROCESSING} and not kept.busy
        }
        life, rate = now * self._speed, self._rate * self._share / self._speed
        to_ask = self._schedule.due(asked, partial(self._open, now=now), self._history, now=life, rate=rate)
        due += [self._kept[key] for key in to_ask if not self._kept[key].nudged]
        next_at = min(next_at, self._schedule.next_at() / self._speed)
        for kept in due:
            kept.busy = True
            group.start_soon(self._work_on, kept)
        return next_at

    def _open(self, key: str, now: float) -> forecast.OpenTask:
        """The task as the planner sees it, in life's seconds."""
        kept, speed = self._kept[key], self._speed
        return forecast.OpenTask(
            id=key,
            kind=kept.entry.kind,
            submitted_at=self._submitted(kept, now) * speed,
            last_asked_at=None if kept.asked_at is None else kept.asked_at * speed,
            not_before=None if kept.not_before is None else kept.not_before * speed,
            watched=key in self._watching,
        )

    def _submitted(self, kept: LeasedTask, now: float) -> float:
        """When RunAPI took the task, on the monotonic clock: told from the wall clock once, which may jump after."""
        if kept.submitted is None:
            age = self._now() - (kept.entry.submitted_at or kept.entry.created_at)
            kept.submitted = now - max(0.0, age.total_seconds())
        return kept.submitted

    async def _work_on(self, kept: LeasedTask) -> None:
        """Do what the task's state calls for. Trouble is noted and the work tried again: the task outlives it."""
        before, trouble, lost = kept.entry, kept.trouble, False
        try:
            await self._work[before.state](kept)
            if kept.entry.state is State.COMPLETED and before.state is not State.COMPLETED:
                await self._learn()
        except (LeaseLostError, IllegalTransitionError):  # the next claim brings it as it stands, if it is still ours
            log.info("let go: another process has it", extra=fields(task=kept.entry.task_id or kept.entry.key))
            if self._kept.get(kept.entry.key) is kept:
                del self._kept[kept.entry.key]
            lost = True
        except Exception as exc:  # one task's trouble, foreseen or not, must not end the keeping of the others
            log.warning("put off", extra=fields(task=kept.entry.task_id or kept.entry.key), exc_info=exc)
            foreseen = exc if isinstance(exc, Flux2Error) else Flux2Error("The server failed on this task.")
            self._worker.put_off(kept, foreseen)
        finally:
            kept.busy = False
            self._freed = self._freed or (before.state in _TAKE_A_PLACE and kept.entry.state not in _TAKE_A_PLACE)
            if kept.hurried:
                self._afresh(kept)
            self._wake.set()
            if lost or kept.entry is not before or kept.trouble is not trouble:  # most answers bring no news
                for watch in self._watching.get(kept.entry.key, ()):
                    watch.tell()

    @staticmethod
    def _afresh(kept: LeasedTask) -> None:
        """Forget earlier tries, so that the next is now."""
        kept.hurried, kept.not_before, kept.failures, kept.trouble = False, None, 0, None
