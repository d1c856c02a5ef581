"""When to plan again: a plan of the polling stands for `polling.GAP`, within which no task is asked about twice.

Else each ask among a thousand tasks would cost a plan of them all, and come late by it. What is new joins the plan at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flux2_mcp.engine import forecast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Schedule:
    """The plan in force. No clock of its own: times are seconds on one clock, which the caller reads."""

    def __init__(self) -> None:
        self._asks: list[forecast.PollTime] = []  # the soonest is the last
        self._made_at = -math.inf
        self._whole = False

    def due(
        self,
        asked: Mapping[str, float | None],
        task: Callable[[str], forecast.OpenTask],
        history: Mapping[forecast.Kind, Sequence[float]],
        *,
        now: float,
        rate: float,
    ) -> list[str]:
        """Return the ids of the tasks to ask about now, and take it that they are.

        `asked` has each open task's id and when it was last asked about; `task` is called for those to be planned.
        `history`, `rate` and ValueError as in `polling.plan`.
        """
        due = self._taken(now)
        if renewed := now >= self._made_at + forecast.MIN_GAP_SECONDS:
            self._asks, self._made_at = [], now
        known = {*due, *(ask.task_id for ask in self._asks)}
        fresh = [task(key) for key, at in asked.items() if key not in known and (at is None or at < self._made_at)]
        if fresh:
            self._asks += forecast.plan(fresh, history, now=now, rate=rate)
            self._asks.sort(key=lambda ask: ask.at, reverse=True)
        due = due or self._taken(now)
        # Else there was news since the plan was made, or will be: the next plan is to know it.
        self._whole = renewed and asked.keys() <= {ask.task_id for ask in self._asks}
        return [key for key in due if key in asked]

    def next_at(self) -> float:
        """Return when to look again after `due`: infinity if there is nothing to ask."""
        soonest = self._asks[-1].at if self._asks else math.inf
        return soonest if self._whole else min(soonest, self._made_at + forecast.MIN_GAP_SECONDS)

    def _taken(self, now: float) -> list[str]:
        """Take from the plan what is due."""
        due = []
        while self._asks and self._asks[-1].at <= now:
            due.append(self._asks.pop().task_id)
        return due
