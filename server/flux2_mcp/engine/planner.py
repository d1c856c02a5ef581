"""When to ask RunAPI about which task: decided for all open tasks together, and when to decide again.

Theory
    An ask that finds a task still running leaves a delay to be expected: by the age t, of a task last asked about at the
    age a, it is the integral from a to t of 1 - S(u) / S(a), where S is the survival of its kind (`forecast`). The task is
    due when that *loss* reaches the price of a request. While chances are small this is the schedule with the least
    delay + price x GETs: n = sqrt(h / (2 price)) asks a second at a hazard h (Barlow, Hunter and Proschan, "Optimum
    checking procedures", 1963, with checks made continuous). It stays right where asks are few, too: a task that went
    unasked through its likely moment grows ever more urgent, though its hazard has fallen.

Rules
- `plan` is pure. Several processes may plan from the same records, and any may die: nothing is kept here.
- No task is asked about twice within `MIN_GAP_SECONDS`, and every task again within its floor.
- Where more is due than the rate allows, the greatest loss goes first. The rate limiter has the last word.
- A plan stands for `MIN_GAP_SECONDS`: else each ask among a thousand tasks would cost a plan of them all. New tasks join
  the plan at once.

Doubts
- `_PRICE` and `_CROWDING` are tuned against recorded durations of the sandbox, not of the live service.
- docs/decisions/04 says how far plain intervals are behind; `python -m bench.polling` measures it.

All times are seconds on one clock, which the caller reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from flux2_mcp.engine.forecast import Forecast, Kind, forecast

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

MIN_GAP_SECONDS = 0.15
"""Seconds that always lie between two asks about one task: a round trip, so nothing is learnt by less."""
FLOOR_FIRST_SECONDS, FLOOR_SHARE, FLOOR_LAST_SECONDS = 15.0, 1 / 60, 60.0
"""A task is due 15 s after it was last asked about; past 15 minutes a sixtieth of its age; past an hour 60 s."""

# What a request may cost in delay (s), for one task alone: about eight GETs for an image of 4 s. With fewer a user
# waits noticeably longer; with more, each gains less than a tenth of a round trip.
_PRICE = 0.02
# The price grows with the crowd: each of sixteen tasks at once gets half the GETs that one alone gets. So the total
# grows slower than their number, and a batch leaves room in the rate for other processes.
_CROWDING = 0.75
# Delay of a task that nobody waits for counts a tenth; past a minute, delay counts by the wait that was borne already.
_UNWATCHED = 0.1
_PATIENT = 60.0


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A task that is not known to have ended.

    `last_asked_at` is the last attempt, whether it was answered or not: a 503 or a timeout is an ask like another.
    `not_before` is when `Retry-After` allows the next. `watched` is False when nobody waits for the task now.
    """

    id: str
    kind: Kind
    submitted_at: float
    last_asked_at: float | None = None
    not_before: float | None = None
    watched: bool = True


@dataclass(frozen=True, slots=True)
class PollTime:
    """Ask about this task at this time."""

    task_id: str
    at: float


def plan(
    tasks: Collection[OpenTask], history: Mapping[Kind, Sequence[float]], *, now: float, rate: float
) -> tuple[PollTime, ...]:
    """Say when to ask about each task next, soonest first: one ask for each, never before `now`.

    `history` has the recorded durations of a kind, as `forecast` takes them; a kind without any gets the prior.
    `rate` is what the shared limiter has for polling, in requests a second: asks lie at least 1 / rate apart, and from
    the last that is on record (of a task that ended there is none: the limiter has the last word). An answer, a new
    task or another process changes what comes after: `Schedule` plans again in time.
    ValueError if the rate is not above zero, or a duration is negative or not finite.
    """
    if not rate > 0:
        raise ValueError("the rate is above zero")
    if not tasks:
        return ()
    known = {kind: forecast(kind, history.get(kind, ())) for kind in {task.kind for task in tasks}}
    crowd = _crowd([known[task.kind].hazard(now - task.submitted_at) for task in tasks])
    price = _PRICE * math.pow(crowd, _CROWDING)
    candidates = sorted(_candidate(task, known[task.kind], price, now) for task in tasks)
    slots = _in_time([candidate.at - now for candidate in candidates], 1 / rate)
    free = max(candidate.asked for candidate in candidates) + 1 / rate
    asks = []
    for slot, candidate in zip(slots, candidates, strict=True):
        asks.append(PollTime(candidate.task_id, max(now + slot, candidate.earliest, free)))
        free = asks[-1].at + 1 / rate
    return tuple(asks)


class _Candidate(NamedTuple):
    """When a task would be asked about if it were alone. The order of the fields is the order of the tasks' turns."""

    at: float
    patience: float
    task_id: str
    earliest: float
    asked: float


def _candidate(task: OpenTask, known: Forecast, price: float, now: float) -> _Candidate:
    # A time well ahead of now was written before the clock was set back. It counts as long ago, or the task would wait
    # until the clock is there again.
    ahead = now + FLOOR_FIRST_SECONDS
    asked = -math.inf if task.last_asked_at is None or task.last_asked_at > ahead else task.last_asked_at
    since = asked if task.submitted_at > ahead else max(asked, task.submitted_at)
    last = max(0.0, since - task.submitted_at)
    floor = min(max(FLOOR_FIRST_SECONDS, last * FLOOR_SHARE), FLOOR_LAST_SECONDS)
    price *= max(1.0, last / _PATIENT) / (1.0 if task.watched else _UNWATCHED)
    due = min(since + floor, task.submitted_at + known.due(last, price))
    urgency = max(known.loss(last, now - task.submitted_at) / price, (now - since) / floor) if due < now else 1.0
    earliest = max(now, asked + MIN_GAP_SECONDS, -math.inf if task.not_before is None else task.not_before)
    return _Candidate(max(due, earliest), -urgency, task.id, earliest, asked)


def _crowd(hazards: Sequence[float]) -> float:
    """Return how many tasks may well be the next to end: all if their hazards are equal, one if it outweighs the rest."""
    # Exact sums are the same in any order. No hazard is zero: a task may always be one of those that get stuck.
    return math.fsum(hazards) ** 2 / math.fsum(hazard**2 for hazard in hazards)


def _in_time(times: Sequence[float], step: float) -> list[float]:
    """Move sorted times apart to at least a step (s), each to its own or before, so that a bunch begins early.

    Rate that is not used is gone: asking the first of many ahead of time costs a request, asking the last late a delay.
    """
    slots = []
    free = math.inf
    for time in reversed(times):
        free = min(time, free)
        slots.append(free)
        free -= step
    return slots[::-1]


class Plan(Protocol):
    """See `plan`."""

    def __call__(
        self, tasks: Collection[OpenTask], history: Mapping[Kind, Sequence[float]], *, now: float, rate: float
    ) -> tuple[PollTime, ...]:
        """When to ask about each task."""
        ...


class Schedule:
    """The plan in force. No clock of its own: times are seconds on one clock, which the caller reads.

    Args:
        plan: Makes a plan.
    """

    def __init__(self, plan: Plan = plan) -> None:
        self._plan = plan
        self._asks: list[PollTime] = []  # the soonest is the last
        self._made_at = -math.inf
        self._whole = False

    def due(
        self,
        asked: Mapping[str, float | None],
        task: Callable[[str], OpenTask],
        history: Mapping[Kind, Sequence[float]],
        *,
        now: float,
        rate: float,
    ) -> list[str]:
        """Return the ids of the tasks to ask about now, and mark them as asked.

        `asked` has each open task's id and when it was last asked about; `task` is called for those to be planned.
        `history`, `rate` and ValueError as in `plan`.
        """
        due = self._taken(now)
        if renewed := now >= self._made_at + MIN_GAP_SECONDS:
            self._asks, self._made_at = [], now
        known = {*due, *(ask.task_id for ask in self._asks)}
        fresh = [task(key) for key, at in asked.items() if key not in known and (at is None or at < self._made_at)]
        if fresh:
            self._asks += self._plan(fresh, history, now=now, rate=rate)
            self._asks.sort(key=lambda ask: ask.at, reverse=True)
        due = due or self._taken(now)
        # Else there was news since the plan was made, or will be: the next plan is to know it.
        self._whole = renewed and asked.keys() <= {ask.task_id for ask in self._asks}
        return [key for key in due if key in asked]

    def next_at(self) -> float:
        """Return when to look again after `due`: infinity if there is nothing to ask."""
        soonest = self._asks[-1].at if self._asks else math.inf
        return soonest if self._whole else min(soonest, self._made_at + MIN_GAP_SECONDS)

    def _taken(self, now: float) -> list[str]:
        """Take from the plan what is due."""
        due = []
        while self._asks and self._asks[-1].at <= now:
            due.append(self._asks.pop().task_id)
        return due
