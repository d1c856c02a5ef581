"""When to ask about which task next: decided for all open tasks together, from nothing but the arguments.

An ask that finds a task still running leaves a delay to be expected: by the age t, of a task last asked about at the
age a, it is the integral from a to t of 1 - S(u) / S(a), where S is the survival of its kind. The task is due when that
*loss* reaches the price of a request. While chances are small this is the schedule with the least delay + price x GETs:
n = sqrt(h / (2 price)) asks a second at a hazard h (Barlow, Hunter and Proschan, "Optimum checking procedures", 1963,
with checks made continuous). It stays right where asks are few, too: a task that went unasked through its likely moment
grows ever more urgent, though its hazard has fallen. When more is due than the rate allows, the greatest loss goes first.

Every function is pure. Several processes may plan from the same rows, and any may die: nothing is kept here.
All times are seconds on one clock, which the caller reads.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

Kind: TypeAlias = tuple[str, str]
"""What tells durations apart: model and output resolution, as in ("flux-2-pro-text-to-image", "1k")."""

MIN_GAP_SECONDS = 0.15
"""Seconds that always lie between two asks about one task: a round trip, so nothing is learnt by less."""
FLOOR_FIRST_SECONDS, FLOOR_SHARE, FLOOR_LAST_SECONDS = 15.0, 1 / 60, 60.0
"""A task is due 15 s after it was last asked about; past 15 minutes a sixtieth of its age; past an hour 60 s."""
MAX_DURATIONS = 200
"""Durations that a forecast looks at: the last so many."""

# What a request may cost in delay (s), for one task alone: about eight GETs for an image of 4 s. With fewer a user
# waits noticeably longer; with more, each gains less than a tenth of a round trip.
_PRICE = 0.02
# The price grows with the crowd: each of sixteen tasks at once gets half the GETs that one alone gets. So the total
# grows slower than their number, and a batch leaves room in the rate for other processes.
_CROWDING = 0.75
# Delay of a task that nobody waits for counts a tenth; past a minute, delay counts by the wait that was borne already.
_UNWATCHED = 0.1
_PATIENT = 60.0

# Nothing is published about durations. The prior says that 80 % of images take 2.3 to 16 s (1k), or 3.4 to 24 s (2k:
# four times the pixels, but queueing and delivery do not grow with them). It is broad on purpose: a wrong median costs
# some requests or delay in the first few tasks, a wrong and narrow one costs far more.
_PRIOR_MEDIAN = {"1k": 6.0, "2k": 9.0}
_PRIOR_SPREAD = 0.75
# The prior counts as two recorded tasks. It keeps its spread, so that what was never seen stays possible, while its
# centre moves to the middle of what was seen.
_PRIOR_WEIGHT = 2.0
# A recorded duration counts half as much thirty tasks later: services drift.
_HALF_LIFE = 30.0
# The least spread of a kernel, in log-seconds: equal samples do not promise that the next is equal to the millisecond.
_NARROWEST = 0.1
# One task in fifty is stuck: log-logistic about eight times the usual, with a hazard that falls as 2 / age. So the
# hazard stays finite and above zero past the longest duration ever seen.
_STUCK = 0.02
_STUCK_TIMES = 8.0

# Past two hours only the floor asks.
_SHORTEST, _LONGEST, _STEPS = 0.2, 7200.0, 200
_AGES = (0.0, *(_SHORTEST * math.pow(_LONGEST / _SHORTEST, step / _STEPS) for step in range(_STEPS)), _LONGEST)
_POINTS = range(_STEPS + 2)


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


@dataclass(frozen=True, slots=True)
class Forecast:
    """How long tasks of a kind take: see `forecast`.

    Tabled over one grid of ages: survival and its integral (s) at the points, the hazard (1/s) in the cells.
    """

    survival: tuple[float, ...]
    lived: tuple[float, ...]
    hazards: tuple[float, ...]

    def hazard(self, age: float) -> float:
        """Return how often a second tasks of this age (s) end."""
        return self.hazards[_cell(age)]

    def loss(self, last: float, age: float) -> float:
        """Return the delay (s) to be expected by an age (s) of a task that still ran at the age of its last ask (s)."""
        last, age = min(last, _LONGEST), min(age, _LONGEST)
        alive, lived = self._at(last)
        return age - last - (self._at(age)[1] - lived) / alive

    def due(self, last: float, price: float) -> float:
        """Return the age (s) by which the loss since the last ask, at an age (s), reaches a price (s), or infinity."""
        ages, lived = _AGES, self.lived
        alive, until = self._at(last)
        base = last - until / alive
        end = bisect_left(_POINTS, price, _cell(last) + 1, key=lambda point: ages[point] - lived[point] / alive - base)
        if end == len(_POINTS):
            return math.inf
        # Within the cell, survival is a line and the loss a parabola.
        start, here = ages[end - 1], self.survival[end - 1]
        left = price - (start - lived[end - 1] / alive - base)
        chance = 1 - here / alive
        growth = (here - self.survival[end]) / (ages[end] - start) / alive
        return start + 2 * left / (chance + math.sqrt(chance**2 + 2 * growth * left))

    def expected(self, age: float) -> float | None:
        """Return the median of the seconds that a task of this age (s) still takes; None once it may as well be stuck.

        An age below zero (the clock was set back) counts as zero.
        """
        age = max(0.0, age)
        half = self._at(age)[0] / 2
        if half < max(_STUCK, self.survival[-1]):
            return None
        end = bisect_left(self.survival, -half, key=float.__neg__)
        share = (self.survival[end - 1] - half) / (self.survival[end - 1] - self.survival[end])
        return max(0.0, _AGES[end - 1] + share * (_AGES[end] - _AGES[end - 1]) - age)

    def _at(self, age: float) -> tuple[float, float]:
        """Return survival, a line within each cell, and its integral (s) at an age (s)."""
        age = min(age, _LONGEST)
        cell = _cell(age)
        start = self.survival[cell]
        past = age - _AGES[cell]
        alive = start + past / (_AGES[cell + 1] - _AGES[cell]) * (self.survival[cell + 1] - start)
        return alive, self.lived[cell] + past * (start + alive) / 2


def forecast(kind: Kind, durations: Sequence[float] = ()) -> Forecast:
    """Make the forecast of a kind from its recorded durations: seconds, oldest first. Recent ones weigh more.

    A weighted mixture over log-durations of the prior, a kernel for each record, and a thin tail of stuck tasks.
    Cached by value, so that asking again costs nothing. ValueError if a duration is negative or not finite.
    """
    return _forecast(kind, tuple(durations[-MAX_DURATIONS:]))


def plan(
    tasks: Collection[OpenTask], history: Mapping[Kind, Sequence[float]], *, now: float, rate: float
) -> tuple[PollTime, ...]:
    """Say when to ask about each task next, soonest first: one ask for each, never before `now`.

    `history` has the recorded durations of a kind, as `forecast` takes them; a kind without any gets the prior.
    `rate` is what the shared limiter has for polling, in requests a second: asks lie at least 1 / rate apart, and from
    the last that is on record (of a task that ended there is none: the limiter has the last word). An answer, a new
    task or another process changes what comes after: `schedule.Schedule` plans again in time.
    ValueError if the rate is not above zero, or a duration is negative or not finite.
    """
    if not rate > 0:
        raise ValueError("the rate is above zero")
    if not tasks:
        return ()
    known = {kind: forecast(kind, history.get(kind, ())) for kind in {task.kind for task in tasks}}
    crowd = _crowd([known[task.kind].hazard(now - task.submitted_at) for task in tasks])
    price = _PRICE * math.pow(crowd, _CROWDING)
    wishes = sorted(_wish(task, known[task.kind], price, now) for task in tasks)
    slots = _in_time([wish.at - now for wish in wishes], 1 / rate)
    free = max(wish.asked for wish in wishes) + 1 / rate
    asks = []
    for slot, wish in zip(slots, wishes, strict=True):
        asks.append(PollTime(wish.task_id, max(now + slot, wish.earliest, free)))
        free = asks[-1].at + 1 / rate
    return tuple(asks)


class _Candidate(NamedTuple):
    """When a task would be asked about if it were alone. The order of the fields is the order of the tasks' turns."""

    at: float
    patience: float
    task_id: str
    earliest: float
    asked: float


def _wish(task: OpenTask, known: Forecast, price: float, now: float) -> _Candidate:
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


def _cell(age: float) -> int:
    """Return the cell of the grid that holds an age; what lies outside belongs to the first or the last."""
    return bisect_right(_AGES, age, 1, _STEPS + 1) - 1


@lru_cache(maxsize=64)
def _forecast(kind: Kind, durations: tuple[float, ...]) -> Forecast:
    if not all(0 <= duration < math.inf for duration in durations):
        raise ValueError("durations are finite seconds, not below zero")
    logs = [math.log(min(max(duration, _SHORTEST), _LONGEST)) for duration in durations]
    weights = [math.pow(0.5, back / _HALF_LIFE) for back in reversed(range(len(logs)))]
    prior = math.log(_PRIOR_MEDIAN.get(kind[1], _PRIOR_MEDIAN["1k"]))
    centre = _mean([prior, *logs], [_PRIOR_WEIGHT, *weights])
    kernels = [(centre, _PRIOR_SPREAD * math.sqrt(2), _PRIOR_WEIGHT)]
    if logs:
        width = _width(logs, weights) * math.sqrt(2)
        kernels += [(log, width, weight) for log, weight in zip(logs, weights, strict=True)]
    total = _PRIOR_WEIGHT + sum(weights)
    survival = [1.0]
    for age in _AGES[1:]:
        at = math.log(age)
        usual = sum(weight * math.erfc((at - log) / width) for log, width, weight in kernels) / 2
        stuck = 1 / (1 + (age / (_STUCK_TIMES * math.exp(centre))) ** 2)
        survival.append((1 - _STUCK) * usual / total + _STUCK * stuck)
    spans = [end - start for start, end in pairwise(_AGES)]
    cells = [(before, after, span) for (before, after), span in zip(pairwise(survival), spans, strict=True)]
    lived = accumulate(((before + after) / 2 * span for before, after, span in cells), initial=0.0)
    hazards = (math.log(before / after) / span for before, after, span in cells)
    return Forecast(tuple(survival), tuple(lived), tuple(hazards))


def _width(logs: Sequence[float], weights: Sequence[float]) -> float:
    """Return the spread of the kernels by Silverman's rule of thumb, which quartiles keep safe from outliers."""
    middle = _mean(logs, weights)
    spread = math.sqrt(_mean([(log - middle) ** 2 for log in logs], weights))
    ordered = sorted(logs)
    quartiles = (ordered[len(ordered) * 3 // 4] - ordered[len(ordered) // 4]) / 1.34
    return max(_NARROWEST, 0.9 * min(spread, quartiles) * math.pow(sum(weights), -0.2))


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
