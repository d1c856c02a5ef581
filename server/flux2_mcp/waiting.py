"""Waiting for tasks: in this process's care, or in another's through the journal. Cancelling it stops the waiting alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio

from flux2_mcp.errors import AuthenticationError, Flux2Error, JournalError
from flux2_mcp.journal.entry import Entry, Journal
from flux2_mcp.keeper import Keeper
from flux2_mcp.lifecycle import State

log = logging.getLogger("flux2_mcp.tasks")

ANSWER_SECONDS = 10.0
"""However short the caller's wait: so long for RunAPI to take the task, since its id is what the caller needs most."""
LOOK_SECONDS = 0.05
"""How often the journal is looked at for the news of another process."""
PROGRESS_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How a wait stands: seconds since it began, seconds it may still take (None: nobody knows), tasks by state."""

    elapsed: float
    remaining: float | None
    states: tuple[State, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """A task as a caller is told of it: its entry, and what stands in its way just now."""

    entry: Entry
    trouble: Flux2Error | None = None

    @property
    def settled(self) -> bool:
        """Whether waiting longer brings nothing: it has ended, or what stands in its way does not go by itself."""
        if not self.entry.state.unfinished:
            return True
        if self.entry.state is State.COMPLETED:
            return self.trouble is not None
        return isinstance(self.trouble, AuthenticationError | JournalError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a call. `joined`: an identical call was under way, and this is its task. `notice`: see the journal's."""

    tasks: tuple[Told, ...]
    sandbox: bool
    joined: bool = False
    notice: str | None = None


OnProgress = Callable[[Progress], Awaitable[None]]


class Waiter:
    """Waits for tasks.

    Args:
        journal: Tells of tasks that other processes keep.
        keeper: Tells of those that this one keeps.
    """

    def __init__(self, journal: Journal, keeper: Keeper) -> None:
        self._journal = journal
        self._keeper = keeper

    async def wait(
        self, entries: Sequence[Entry], wait_seconds: float, on_progress: OnProgress | None
    ) -> tuple[Told, ...]:
        """Wait until all tasks have settled or the time is over, whichever comes first; tell how they stand then.

        Args:
            entries: As just read from the journal.
            wait_seconds: 0 waits for no more than RunAPI's answer to what was just sent.
            on_progress: Told about once a second, and at each change.
        """
        with self._keeper.watched([entry.key for entry in entries]):
            told = await self._until_settled(entries, wait_seconds, on_progress)
        if ended := [one.entry.key for one in told if not one.entry.state.unfinished]:
            try:
                await self._journal.told(ended, at=datetime.now(UTC))
            except JournalError as exc:  # at worst, the next identical call is given these
                log.warning("not noted that tasks were told: %s", exc.message)
        return told

    async def _until_settled(
        self, entries: Sequence[Entry], wait_seconds: float, on_progress: OnProgress | None
    ) -> tuple[Told, ...]:
        begun = time.monotonic()
        told = tuple(Told(entry) for entry in entries)
        while True:
            try:
                # Both are taken before looking, so that no news falls between.
                changed, version = self._keeper.changed, await self._journal.version()
                told = await self._look(told)
                elapsed = time.monotonic() - begun
                answered = all(one.entry.task_id or one.trouble for one in told)
                left = (wait_seconds if answered else max(wait_seconds, ANSWER_SECONDS)) - elapsed
                if left <= 0 or all(one.settled for one in told):
                    return told
                if on_progress is not None:
                    await on_progress(self._progress(told, elapsed))
                foreign = any(self._keeper.kept(one.entry.key) is None for one in told if not one.settled)
                await self._news(changed, version if foreign else None, min(left, PROGRESS_SECONDS))
            except JournalError as exc:  # the tasks were sent all the same, and their ids are worth most
                return tuple(one if one.settled else Told(one.entry, exc) for one in told)

    async def _news(self, changed: anyio.Event, version: int | None, seconds: float) -> None:
        """Return when there may be news: of our own tasks, or, given a version, in the journal; or when time is over."""
        with anyio.move_on_after(seconds):
            if version is None:
                await changed.wait()
            while not changed.is_set() and await self._journal.version() == version:
                with anyio.move_on_after(LOOK_SECONDS):
                    await changed.wait()

    async def _look(self, told: Sequence[Told]) -> tuple[Told, ...]:
        """How the tasks stand: those in our care from memory, the rest from the journal."""
        keys = [one.entry.key for one in told]
        ours = {key: kept for key in keys if (kept := self._keeper.kept(key))}
        rest = [key for key in keys if key not in ours]
        read = {entry.key: Told(entry) for entry in await self._journal.find(rest)} if rest else {}
        known = read | {key: Told(kept.entry, kept.trouble) for key, kept in ours.items()}
        lost = JournalError("The journal's file was found broken, and this task was in it.")
        return tuple(known.get(one.entry.key) or Told(one.entry, lost) for one in told)

    def _progress(self, told: Sequence[Told], elapsed: float) -> Progress:
        remaining = [self._keeper.expected(one.entry) for one in told if not one.settled]
        known = [seconds for seconds in remaining if seconds is not None]
        return Progress(
            elapsed=elapsed,
            remaining=max(known) if known and len(known) == len(remaining) else None,
            states=tuple(one.entry.state for one in told),
        )
