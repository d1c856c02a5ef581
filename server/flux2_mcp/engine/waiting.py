"""Waits for tasks in this process's care, or through the journal for those in another's. A cancelled wait cancels no task."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.runner import TaskRunner
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.steps import explained
from flux2_mcp.engine.watchers import Watcher
from flux2_mcp.errors import (
    NOTHING_CHARGED,
    AuthenticationError,
    DeliveryError,
    Flux2Error,
    JournalError,
    SettingsError,
    StorageError,
    TaskFailedError,
)
from flux2_mcp.journal.records import TaskMatches, TaskRecord
from flux2_mcp.system.logs import fields

log = logging.getLogger("flux2_mcp.tasks")

LOOK_SECONDS = 0.05
"""How often the journal is looked at for the news of another process."""
PROGRESS_SECONDS = 1.0
MAX_IDS = 64
"""Tasks that one call can ask about by their ids."""
QUIET_SECONDS = 5.0
"""How long a caller that wants no progress waits for news. Without news only one thing can have happened: another process
has the task now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How a wait stands: seconds since it began, seconds it may still take (None: not known), tasks by state."""

    elapsed: float
    remaining: float | None
    states: tuple[State, ...]


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A task as a caller is told of it: its record, what stands in its way just now, about how many seconds it still takes."""

    record: TaskRecord
    trouble: Flux2Error | None = None
    remaining: float | None = None

    @property
    def error(self) -> str | None:
        """Why it failed or can't be had, as the journal has it, in words that each face can say in its own names."""
        return None if self.record.error is None else explained(self.record.error)

    @property
    def settled(self) -> bool:
        """Whether waiting longer brings nothing: it has ended, or what stands in its way does not go by itself.

        An image that did not come is soon tried again, until it is written down that it can't be had.
        """
        if not self.record.state.unfinished:
            return True
        if self.record.state is State.COMPLETED:
            soon = isinstance(self.trouble, DeliveryError) and not isinstance(self.trouble, StorageError)
            return self.trouble is not None and not (soon and self.record.error is None)
        return isinstance(self.trouble, AuthenticationError | JournalError | SettingsError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a call. `joined`: an identical call was under way, and this is its task. `notice`: see the journal's.

    `matched` is what all tasks come to that were asked about, where only the newest of them are listed, and `unended` the newest
    that have not ended, listed or not, as far as one call can ask about them.
    """

    tasks: tuple[TaskReport, ...]
    sandbox: bool
    joined: bool = False
    notice: str | None = None
    matched: TaskMatches | None = None
    unended: tuple[TaskRecord, ...] = ()


def remaining(tasks: Sequence[TaskReport]) -> float | None:
    """About how many seconds it takes until all have settled; None where that is not known, or where all have."""
    each = [report.remaining for report in tasks if not report.settled]
    known = [seconds for seconds in each if seconds is not None]
    return max(known) if known and len(known) == len(each) else None


def refusal(tasks: Sequence[TaskReport]) -> Flux2Error | None:
    """The error of a call whose every task was refused: RunAPI has made none of them, and charges nothing."""
    if not tasks or any(report.record.state is not State.REJECTED for report in tasks):
        return None
    first = tasks[0]
    return first.trouble or TaskFailedError(first.record.error or "RunAPI refused it.", cost=NOTHING_CHARGED)


OnProgress = Callable[[Progress], Awaitable[None]]


class Waiter:
    """Waits for tasks.

    Args:
        seam: The journal, which tells of tasks that other processes look after; the clocks.
        runner: Tells of those in this process's care.
    """

    def __init__(self, seam: Seam, runner: TaskRunner) -> None:
        self._tasks = seam.journal.tasks
        self._leases = seam.journal.leases
        self._monotonic = seam.monotonic
        self._now = seam.now
        self._answer_seconds = seam.timing.answer_seconds
        self._runner = runner

    async def wait(
        self, records: Sequence[TaskRecord], wait_seconds: float, on_progress: OnProgress | None
    ) -> tuple[TaskReport, ...]:
        """Wait until all tasks have settled or the time is over, whichever comes first; tell how they stand then.

        Args:
            records: As just read from the journal.
            wait_seconds: 0 waits for no more than RunAPI's answer to what was sent just now.
            on_progress: Told about once a second, and at each change.
        """
        with self._runner.watched([record.key for record in records]) as watcher:
            reports = await self._until_settled(records, wait_seconds, on_progress, watcher)
        if ended := [one.record.key for one in reports if not one.record.state.unfinished and one.record.readable]:
            try:
                await self._tasks.mark_reported(ended, at=self._now())
            except JournalError as exc:  # at worst, the next identical call is given these
                log.warning("it could not be noted that tasks were reported", extra=fields(reason=exc.reason))
        return reports

    async def _until_settled(
        self, records: Sequence[TaskRecord], wait_seconds: float, on_progress: OnProgress | None, watcher: Watcher
    ) -> tuple[TaskReport, ...]:
        begun = self._monotonic()
        ages = [(self._now() - record.created_at).total_seconds() for record in records]
        answer_seconds = self._answer_seconds - max(0.0, min(ages, default=0.0))
        reports = tuple(TaskReport(record) for record in records)
        while True:
            try:
                # Both are taken before looking, so that no news falls between.
                changed = watcher.changed
                version = await self._leases.version() if self._foreign(reports) else None
                reports = await self._look(reports)
                elapsed = self._monotonic() - begun
                answered = all(one.record.task_id or one.trouble for one in reports)
                left = (wait_seconds if answered else max(wait_seconds, answer_seconds)) - elapsed
                if left <= 0 or all(one.settled for one in reports):
                    return reports
                if on_progress is not None:
                    await on_progress(self._progress(reports, elapsed))
                await self._news(
                    changed, version, min(left, QUIET_SECONDS if on_progress is None else PROGRESS_SECONDS)
                )
            except JournalError as exc:  # the tasks were sent all the same, and their ids are worth most
                return tuple(one if one.settled else TaskReport(one.record, exc) for one in reports)

    def _foreign(self, reports: Sequence[TaskReport]) -> bool:
        """Whether another process may have news of these tasks: only the journal tells then, at the price of a thread."""
        return any(self._runner.leased(one.record.key) is None for one in reports if not one.settled)

    async def _news(self, changed: anyio.Event, version: int | None, seconds: float) -> None:
        """Return when there may be news: of our own tasks, or, given a version, in the journal; or when time is over."""
        with anyio.move_on_after(seconds):
            if version is None:
                await changed.wait()
            while not changed.is_set() and await self._leases.version() == version:
                with anyio.move_on_after(LOOK_SECONDS):
                    await changed.wait()

    async def _look(self, reports: Sequence[TaskReport]) -> tuple[TaskReport, ...]:
        """How the tasks stand: those in our care from memory, the rest from the journal."""
        keys = [one.record.key for one in reports]
        ours = {key: leased for key in keys if (leased := self._runner.leased(key))}
        rest = [key for key in keys if key not in ours]
        read = {record.key: self._report(record) for record in await self._tasks.find(rest)} if rest else {}
        known = read | {key: self._report(leased.record, leased.trouble) for key, leased in ours.items()}
        lost = JournalError("The journal's file was found broken, and this task was in it.")
        return tuple(known.get(one.record.key) or TaskReport(one.record, lost) for one in reports)

    def _report(self, record: TaskRecord, trouble: Flux2Error | None = None) -> TaskReport:
        return TaskReport(record, trouble, self._runner.expected(record))

    @staticmethod
    def _progress(reports: Sequence[TaskReport], elapsed: float) -> Progress:
        states = tuple(one.record.state for one in reports)
        return Progress(elapsed=elapsed, remaining=remaining(reports), states=states)
