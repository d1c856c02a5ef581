"""Waits for tasks: for this process's own in memory, for another process's through the journal.

A cancelled wait does not cancel a task.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

import anyio
from msgspec import Struct
from msgspec.structs import replace

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
"""The interval at which the journal is checked for changes by another process, seconds."""
PROGRESS_SECONDS = 1.0
MAX_IDS = 64
"""The maximum number of task ids in one call."""
MAX_LISTED = 8
"""The maximum number of task ids that a notice names."""
REPLAYED = "RunAPI knew the idempotency key of {ids} already: nothing new was made, and it is paid once."
QUIET_SECONDS = 5.0
"""The interval at which a wait without progress reports checks the tasks although no change was signalled, seconds.
Only a task that another process has taken over changes without a signal."""


class Progress(Struct, frozen=True, kw_only=True):
    """The progress of a wait: seconds since its start, expected seconds to its end (None: unknown), state per task."""

    elapsed: float
    remaining: float | None
    states: tuple[State, ...]


class TaskReport(Struct, frozen=True):
    """The report on one task: its record, the error that holds it up now, and its expected remaining seconds.

    `steps` has the tasks of the same call whose images led to this one's, first to last. `held_up`: the trouble is that of
    the step before, and does not end without help.
    """

    record: TaskRecord
    trouble: Flux2Error | None = None
    remaining: float | None = None
    steps: tuple[TaskReport, ...] = ()
    held_up: bool = False

    @property
    def error(self) -> str | None:
        """The recorded reason why the task failed or its image is lost. Each face can put in its own names."""
        return None if self.record.error is None else explained(self.record.error)

    @property
    def settled(self) -> bool:
        """Whether a longer wait is useless: the task has ended, or its trouble does not end without help.

        A failed download is soon tried again, so it does not settle the task until the journal records it as lost.
        """
        if not self.record.state.unfinished:
            return True
        if self.held_up:
            return True
        if self.record.state is State.COMPLETED:
            soon = isinstance(self.trouble, DeliveryError) and not isinstance(self.trouble, StorageError)
            return self.trouble is not None and not (soon and self.record.error is None)
        return isinstance(self.trouble, AuthenticationError | JournalError | SettingsError)


class Outcome(Struct, frozen=True, kw_only=True):
    """The result of a call. `joined`: the task is that of an identical call under way. `notice`: see `Journal`.

    `repeated`: the tasks are those of an earlier call with the same yes of the user's.

    For a list, `matched` sums up all tasks that match, shown or not, and `unended` has the newest of them that have not
    ended, up to `MAX_IDS`. `before` is the id of the oldest task that is shown, if older ones match. `nothing` says why
    there are no tasks, if there are none.
    """

    tasks: tuple[TaskReport, ...]
    sandbox: bool
    joined: bool = False
    repeated: bool = False
    notice: str | None = None
    matched: TaskMatches | None = None
    before: str | None = None
    nothing: str = "There are no tasks yet."
    unended: tuple[TaskRecord, ...] = ()


def by_picture(reports: Sequence[TaskReport]) -> tuple[TaskReport, ...]:
    """Return one report for each picture: of the last task that led to it, with those before as its `steps`."""
    known = {report.record.key: report for report in reports}
    followed = {report.record.follows for report in reports}
    last = []
    for report in reports:
        if report.record.key in followed:
            continue
        steps: list[TaskReport] = []
        before = known.get(report.record.follows or "")
        while before is not None and before not in steps:
            steps.insert(0, before)
            before = known.get(before.record.follows or "")
        last.append(replace(report, steps=tuple(steps)))
    return tuple(last) or tuple(reports)  # a broken file may make tasks follow each other


def with_steps(tasks: Sequence[TaskReport]) -> tuple[TaskReport, ...]:
    """Return the reports of all tasks, those that led to a picture before the picture's own."""
    return tuple(each for report in tasks for each in (*report.steps, report))


def remaining(tasks: Sequence[TaskReport]) -> float | None:
    """Return the expected seconds until all tasks have settled; None if unknown, or if all have settled."""
    each = [report.remaining for report in tasks if not report.settled]
    known = [seconds for seconds in each if seconds is not None]
    return max(known) if known and len(known) == len(each) else None


def refusal(tasks: Sequence[TaskReport]) -> Flux2Error | None:
    """Return the error of a call if RunAPI refused all of its tasks, and so charges nothing; otherwise None."""
    if not tasks or any(report.record.state is not State.REJECTED for report in tasks):
        return None
    first = tasks[0]
    return first.trouble or TaskFailedError(first.record.error or "RunAPI refused it.", cost=NOTHING_CHARGED)


def replays(tasks: Sequence[TaskReport]) -> str | None:
    """Return the proof that the tasks whose create was sent more than once are paid once; None without such a task."""
    ids = [report.record.task_id or report.record.key for report in tasks if report.record.replayed]
    more = f" and {len(ids) - MAX_LISTED} more" if len(ids) > MAX_LISTED else ""
    return REPLAYED.format(ids=", ".join(ids[:MAX_LISTED]) + more) if ids else None


OnProgress = Callable[[Progress], Awaitable[None]]


class Waiter:
    """Waits for tasks.

    Args:
        seam: The journal, which has the state of other processes' tasks; the clocks.
        runner: Has the state of this process's tasks.
        stopping: Set when no call is to wait any more.
    """

    def __init__(self, seam: Seam, runner: TaskRunner, stopping: anyio.Event) -> None:
        self._tasks = seam.journal.tasks
        self._leases = seam.journal.leases
        self._monotonic = seam.monotonic
        self._now = seam.now
        self._answer_seconds = seam.timing.answer_seconds
        self._runner = runner
        self._stopping = stopping

    def stop(self) -> None:
        """End all waits now, with the present state of their tasks. A task that was just sent gets its id first."""
        self._stopping.set()
        self._runner.wake_callers()

    async def wait(
        self,
        records: Sequence[TaskRecord],
        wait_seconds: float,
        on_progress: OnProgress | None,
        *,
        first: bool = False,
        begun: float | None = None,
    ) -> tuple[TaskReport, ...]:
        """Wait until all tasks have settled or the time is over, and report on each task.

        Args:
            records: As just read from the journal.
            wait_seconds: 0 waits only for RunAPI's answer to tasks that were just sent.
            on_progress: Called about once a second, and at each change.
            first: Wait only until one task has settled.
            begun: When the caller began to wait, in monotonic seconds: what was done since then counts; None: now.
        """
        with self._runner.watched([record.key for record in records]) as watcher:
            reports = await self._until_settled(
                records,
                wait_seconds,
                on_progress,
                watcher,
                enough=any if first else all,
                begun=self._monotonic() if begun is None else begun,
            )
        records = [report.record for report in reports]
        if ended := [record.key for record in records if not record.state.unfinished and record.readable]:
            try:
                await self._tasks.mark_reported(ended, at=self._now())
            except JournalError as exc:  # at worst, the next identical call returns these tasks
                log.warning("it could not be noted that tasks were reported", extra=fields(reason=exc.reason))
        return reports

    async def _until_settled(
        self,
        records: Sequence[TaskRecord],
        wait_seconds: float,
        on_progress: OnProgress | None,
        watcher: Watcher,
        *,
        enough: Callable[[Iterable[bool]], bool],
        begun: float,
    ) -> tuple[TaskReport, ...]:
        written = self._monotonic()
        ages = [(self._now() - record.created_at).total_seconds() for record in records]
        answer_seconds = self._answer_seconds - max(0.0, min(ages, default=0.0))
        reports = tuple(TaskReport(record) for record in records)
        while True:
            try:
                # Both are read before `_look`, so that no change is missed between the two.
                changed = watcher.changed
                version = await self._leases.version() if self._foreign(reports) else None
                reports = await self._look(reports)
                elapsed = self._monotonic() - begun
                answered = all(
                    report.record.task_id or report.trouble or report.settled or report.record.awaits_source
                    for report in reports
                )
                wanted = 0.0 if self._stopping.is_set() else wait_seconds
                left = wanted - elapsed
                if (
                    not answered and wanted < answer_seconds
                ):  # who asks for less waits for the id, from when it was written
                    left = max(left, answer_seconds - (self._monotonic() - written))
                if left <= 0 or not reports or enough(report.settled for report in by_picture(reports)):
                    return reports
                if on_progress is not None:
                    await on_progress(self._progress(reports, elapsed))
                await self._news(
                    changed, version, min(left, QUIET_SECONDS if on_progress is None else PROGRESS_SECONDS)
                )
            except JournalError as exc:  # the tasks may be sent already, so their ids must reach the caller
                return tuple(report if report.settled else TaskReport(report.record, exc) for report in reports)

    def _foreign(self, reports: Sequence[TaskReport]) -> bool:
        """Whether another process may change these tasks. Then the journal must be read, which costs a thread."""
        return any(self._runner.leased(report.record.key) is None for report in reports if not report.settled)

    async def _news(self, changed: anyio.Event, version: int | None, seconds: float) -> None:
        """Wait until our own tasks or, if a version is given, the journal may have changed; at most `seconds`."""
        with anyio.move_on_after(seconds):
            if version is None:
                await changed.wait()
            while not changed.is_set() and await self._leases.version() == version:
                with anyio.move_on_after(LOOK_SECONDS):
                    await changed.wait()

    async def _look(self, reports: Sequence[TaskReport]) -> tuple[TaskReport, ...]:
        """Report on the tasks: on our own from memory, on the others from the journal."""
        keys = [report.record.key for report in reports]
        ours = {key: leased for key in keys if (leased := self._runner.leased(key))}
        rest = [key for key in keys if key not in ours]
        read = {record.key: self._report(record) for record in await self._tasks.find(rest)} if rest else {}
        known = read | {key: self._report(leased.record, leased.trouble) for key, leased in ours.items()}
        lost = JournalError("The journal's file was found broken, and this task was in it.")
        found = {
            key: known.get(key) or TaskReport(report.record, lost) for key, report in zip(keys, reports, strict=True)
        }
        for key, report in found.items():  # a step stands after the one that it follows
            before = found.get(report.record.follows or "")
            if before is not None and before.record.state.unfinished and before.settled and report.record.awaits_source:
                found[key] = replace(report, trouble=before.trouble, held_up=True)
        return tuple(found.values())

    def _report(self, record: TaskRecord, trouble: Flux2Error | None = None) -> TaskReport:
        return TaskReport(record, trouble, self._runner.expected(record))

    @staticmethod
    def _progress(reports: Sequence[TaskReport], elapsed: float) -> Progress:
        states = tuple(report.record.state for report in reports)
        return Progress(elapsed=elapsed, remaining=remaining(reports), states=states)
