"""Forecasts how long tasks of a kind take, from the recorded durations: a survival function and its consequences. Pure.

It is a weighted mixture over log-durations: a broad prior, a kernel for each recorded duration, and a thin tail of
stuck tasks.

Doubts
- The prior is a guess: nothing is published about durations. It counts as two recorded tasks, so records soon outweigh
  it.
- The tail of stuck tasks is a guess, too. It keeps the hazard finite and above zero past the longest recorded duration.

All times are seconds on one clock, which the caller reads.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from flux2_mcp.journal.contract import MAX_DURATIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind: TypeAlias = tuple[str, str]
"""Model and output resolution, as in ("flux-2-pro-text-to-image", "1k"): tasks of one kind have similar durations."""

# Nothing is published about durations. The prior says that 80 % of images take 2.3 to 16 s (1k), or 3.4 to 24 s (2k:
# four times the pixels, but queueing and delivery do not grow with them). It is broad on purpose: a wrong median costs
# some requests or delay in the first few tasks, a wrong and narrow one costs far more.
_PRIOR_MEDIAN = {"1k": 6.0, "2k": 9.0}
_PRIOR_SPREAD = 0.75
# The prior counts as two recorded tasks. It keeps its spread, so that unseen durations stay possible, while its centre
# moves to the middle of the recorded ones.
_PRIOR_WEIGHT = 2.0
# The weight of a recorded duration halves every thirty tasks, because services change over time.
_HALF_LIFE = 30.0
# The minimum spread of a kernel, in log-seconds: after equal durations, the next is still not equal to the millisecond.
_NARROWEST = 0.1
# One task in fifty is stuck: its duration is log-logistic around eight times the usual, with a hazard that falls as
# 2 / age. So the hazard stays finite and above zero past the longest recorded duration.
_STUCK = 0.02
_STUCK_TIMES = 8.0

# Past two hours only the floor of `planner` makes polls.
_SHORTEST, _LONGEST, _STEPS = 0.2, 7200.0, 200
_AGES = (0.0, *(_SHORTEST * math.pow(_LONGEST / _SHORTEST, step / _STEPS) for step in range(_STEPS)), _LONGEST)
_POINTS = range(_STEPS + 2)


class Forecast(Struct, frozen=True):
    """How long tasks of a kind take: see `forecast`.

    A table over a grid of ages: survival and its integral (s) at the points, the hazard (1/s) in the cells.
    """

    survival: tuple[float, ...]
    lived: tuple[float, ...]
    hazards: tuple[float, ...]

    def hazard(self, age: float) -> float:
        """Return the rate (1/s) at which tasks of this age (s) end."""
        return self.hazards[_cell(age)]

    def loss(self, last: float, age: float) -> float:
        """Return the expected delay (s) at an age (s) of a task that still ran at the age of its last poll (s)."""
        last, age = min(last, _LONGEST), min(age, _LONGEST)
        alive, lived = self._at(last)
        return age - last - (self._at(age)[1] - lived) / alive

    def due(self, last: float, price: float) -> float:
        """Return the age (s) at which the loss since the last poll, at an age (s), reaches a price (s), or infinity."""
        ages, lived = _AGES, self.lived
        alive, until = self._at(last)
        base = last - until / alive
        end = bisect_left(_POINTS, price, _cell(last) + 1, key=lambda point: ages[point] - lived[point] / alive - base)
        if end == len(_POINTS):
            return math.inf
        # Within the cell, survival is a line and the loss is a parabola.
        start, here = ages[end - 1], self.survival[end - 1]
        left = price - (start - lived[end - 1] / alive - base)
        chance = 1 - here / alive
        growth = (here - self.survival[end]) / (ages[end] - start) / alive
        return start + 2 * left / (chance + math.sqrt(chance**2 + 2 * growth * left))

    def expected(self, age: float) -> float | None:
        """Return the median remaining seconds of a task of this age (s); None if it is probably stuck.

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
        """Return survival, which is linear within each cell, and its integral (s), at an age (s)."""
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


def _cell(age: float) -> int:
    """Return the cell of the grid that holds an age; an age outside belongs to the first or the last cell."""
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
    """Return the spread of the kernels by Silverman's rule of thumb; the quartiles make it robust to outliers."""
    middle = _mean(logs, weights)
    spread = math.sqrt(_mean([(log - middle) ** 2 for log in logs], weights))
    ordered = sorted(logs)
    quartiles = (ordered[len(ordered) * 3 // 4] - ordered[len(ordered) // 4]) / 1.34
    return max(_NARROWEST, 0.9 * min(spread, quartiles) * math.pow(sum(weights), -0.2))


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
