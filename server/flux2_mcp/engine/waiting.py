"""Waiting for tasks: in this process's care, or in another's through the journal. Cancelling it stops the waiting alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.runner import TaskRunner, Watcher
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
from flux2_mcp.journal.records import Journal, TaskMatches, TaskRecord
from flux2_mcp.system.logs import fields

log = logging.getLogger("flux2_mcp.tasks")

ANSWER_SECONDS = 10.0
"""However short the caller's wait: so long, since the task was asked for, until RunAPI has taken it. Its id is what the
caller needs most."""
LOOK_SECONDS = 0.05
"""How often the journal is looked at for the news of another process."""
PROGRESS_SECONDS = 1.0
MAX_IDS = 64
"""Tasks that one call can ask about by their ids."""
QUIET_SECONDS = 5.0
"""How long news is waited for where nobody wants progress. Without news, only one thing can have happened: another process has
the task now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How a wait stands: seconds since it began, seconds it may still take (None: nobody knows), tasks by state."""

    elapsed: float
    remaining: float | None
    states: tuple[State, ...]


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A task as a caller is told of it: its entry, what stands in its way just now, about how many seconds it still takes."""

    entry: TaskRecord
    trouble: Flux2Error | None = None
    remaining: float | None = None

    @property
    def settled(self) -> bool:
        """Whether waiting longer brings nothing: it has ended, or what stands in its way does not go by itself.

        An image that did not come is soon tried again, until it is written down that it can't be had.
        """
        if not self.entry.state.unfinished:
            return True
        if self.entry.state is State.COMPLETED:
            soon = isinstance(self.trouble, DeliveryError) and not isinstance(self.trouble, StorageError)
            return self.trouble is not None and not (soon and self.entry.error is None)
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
    """About how many seconds it takes until all have settled; None where nobody can say, or where all have."""
    each = [told.remaining for told in tasks if not told.settled]
    known = [seconds for seconds in each if seconds is not None]
    return max(known) if known and len(known) == len(each) else None


def refusal(tasks: Sequence[TaskReport]) -> Flux2Error | None:
    """The error of a call whose every task was refused: RunAPI has made none of them, and charges nothing."""
    if not tasks or any(told.entry.state is not State.REJECTED for told in tasks):
        return None
    first = tasks[0]
    return first.trouble or TaskFailedError(first.entry.error or "RunAPI refused it.", cost=NOTHING_CHARGED)


OnProgress = Callable[[Progress], Awaitable[None]]


class Waiter:
    """Waits for tasks.

    Args:
        journal: Tells of tasks that other processes keep.
        keeper: Tells of those that this one keeps.
    """

    def __init__(self, journal: Journal, keeper: TaskRunner) -> None:
        self._journal = journal
        self._keeper = keeper

    async def wait(
        self, entries: Sequence[TaskRecord], wait_seconds: float, on_progress: OnProgress | None
    ) -> tuple[TaskReport, ...]:
        """Wait until all tasks have settled or the time is over, whichever comes first; tell how they stand then.

        Args:
            entries: As just read from the journal.
            wait_seconds: 0 waits for no more than RunAPI's answer to what was sent just now.
            on_progress: Told about once a second, and at each change.
        """
        with self._keeper.watched([entry.key for entry in entries]) as watch:
            told = await self._until_settled(entries, wait_seconds, on_progress, watch)
        if ended := [one.entry.key for one in told if not one.entry.state.unfinished and one.entry.readable]:
            try:
                await self._journal.told(ended, at=datetime.now(UTC))
            except JournalError as exc:  # at worst, the next identical call is given these
                log.warning("not noted that tasks were told", extra=fields(reason=exc.message))
        return told

    async def _until_settled(
        self, entries: Sequence[TaskRecord], wait_seconds: float, on_progress: OnProgress | None, watch: Watcher
    ) -> tuple[TaskReport, ...]:
        begun = time.monotonic()
        ages = [(datetime.now(UTC) - entry.created_at).total_seconds() for entry in entries]
        answer_seconds = ANSWER_SECONDS - max(0.0, min(ages, default=0.0))
        told = tuple(TaskReport(entry) for entry in entries)
        while True:
            try:
                # Both are taken before looking, so that no news falls between.
                changed = watch.changed
                version = await self._journal.version() if self._foreign(told) else None
                told = await self._look(told)
                elapsed = time.monotonic() - begun
                answered = all(one.entry.task_id or one.trouble for one in told)
                left = (wait_seconds if answered else max(wait_seconds, answer_seconds)) - elapsed
                if left <= 0 or all(one.settled for one in told):
                    return told
                if on_progress is not None:
                    await on_progress(self._progress(told, elapsed))
                await self._news(
                    changed, version, min(left, QUIET_SECONDS if on_progress is None else PROGRESS_SECONDS)
                )
            except JournalError as exc:  # the tasks were sent all the same, and their ids are worth most
                return tuple(one if one.settled else TaskReport(one.entry, exc) for one in told)

    def _foreign(self, told: Sequence[TaskReport]) -> bool:
        """Whether another process may have news of these tasks: only the journal tells then, at the price of a thread."""
        return any(self._keeper.kept(one.entry.key) is None for one in told if not one.settled)

    async def _news(self, changed: anyio.Event, version: int | None, seconds: float) -> None:
        """Return when there may be news: of our own tasks, or, given a version, in the journal; or when time is over."""
        with anyio.move_on_after(seconds):
            if version is None:
                await changed.wait()
            while not changed.is_set() and await self._journal.version() == version:
                with anyio.move_on_after(LOOK_SECONDS):
                    await changed.wait()

    async def _look(self, told: Sequence[TaskReport]) -> tuple[TaskReport, ...]:
        """How the tasks stand: those in our care from memory, the rest from the journal."""
        keys = [one.entry.key for one in told]
        ours = {key: kept for key in keys if (kept := self._keeper.kept(key))}
        rest = [key for key in keys if key not in ours]
        read = {entry.key: self._told(entry) for entry in await self._journal.find(rest)} if rest else {}
        known = read | {key: self._told(kept.entry, kept.trouble) for key, kept in ours.items()}
        lost = JournalError("The journal's file was found broken, and this task was in it.")
        return tuple(known.get(one.entry.key) or TaskReport(one.entry, lost) for one in told)

    def _told(self, entry: TaskRecord, trouble: Flux2Error | None = None) -> TaskReport:
        return TaskReport(entry, trouble, self._keeper.expected(entry))

    @staticmethod
    def _progress(told: Sequence[TaskReport], elapsed: float) -> Progress:
        states = tuple(one.entry.state for one in told)
        return Progress(elapsed=elapsed, remaining=remaining(told), states=states)
