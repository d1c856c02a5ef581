"""Turns: what costs time or memory is done for few at once, and those who wait are served in turn, not their calls.

Whoever asks for a hundred things waits for the hundred alone: each of the others comes after one of them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")


class Turns:
    """Gives turns to people.

    Args:
        most_of_one: The maximum number of turns of one person at once.
        most: The maximum number of all; None: only those of each person are bounded.
    """

    def __init__(self, most_of_one: int, most: int | None = None) -> None:
        self._most_of_one, self._most = most_of_one, most
        self._under_way = Counter[str | None]()
        self._lines: dict[str | None, deque[anyio.Event]] = {}  # who is served next stands first
        self._threads: anyio.CapacityLimiter | None = None

    @property
    def under_way(self) -> int:
        """The number of turns that are taken."""
        return self._under_way.total()

    @property
    def waiting(self) -> int:
        """The number of calls that wait for one."""
        return sum(map(len, self._lines.values()))

    async def take(self, person: str | None) -> Callable[[], None]:
        """Wait for a turn, and return what ends it. Who is cancelled while waiting leaves the line.

        Args:
            person: Whose turn it is. None stands for one person, too.
        """
        mine = anyio.Event()
        self._lines.setdefault(person, deque()).append(mine)
        self._give()
        try:
            await mine.wait()
        except BaseException:  # it was cancelled
            if mine.is_set():
                self._end(person)
            else:
                self._leave(person, mine)
            raise
        return partial(self._end, person)

    @asynccontextmanager
    async def one(self, person: str | None) -> AsyncIterator[None]:
        """Have a turn in this context."""
        end = await self.take(person)
        try:
            yield
        finally:
            end()

    async def run(self, person: str | None, work: Callable[[], T]) -> T:
        """Do work as one turn, in a thread that is none of those that all share.

        Of a caller that is cancelled while it waits, nothing is begun. What has begun keeps its turn until it ends.
        """
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(float("inf") if self._most is None else self._most)
        async with self.one(person):
            return await anyio.to_thread.run_sync(work, limiter=self._threads)

    def _give(self) -> None:
        while self._lines and (self._most is None or self.under_way < self._most):
            ready = [each for each in self._lines if self._under_way[each] < self._most_of_one]
            if not ready:
                return
            person, *_ = ready
            first = self._lines[person].popleft()
            self._tidy(person, last=True)
            self._under_way[person] += 1
            first.set()

    def _end(self, person: str | None) -> None:
        self._under_way[person] -= 1
        if not self._under_way[person]:
            del self._under_way[person]
        self._give()

    def _leave(self, person: str | None, place: anyio.Event) -> None:
        self._lines[person].remove(place)
        self._tidy(person)

    def _tidy(self, person: str | None, *, last: bool = False) -> None:
        """Forget a line that is empty. With `last`, another one goes behind the lines of all others."""
        line = self._lines[person]
        if not line or last:
            del self._lines[person]
        if line and last:
            self._lines[person] = line
