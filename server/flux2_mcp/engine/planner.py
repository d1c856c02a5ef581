"""Decides when to poll RunAPI about which task, for all open tasks together, and when to plan again.

Theory
    After a poll that finds a task still running, the end of the task may go unnoticed for some time. The expected delay
    at the age t, if the last poll was at the age a, is the integral from a to t of 1 - S(u) / S(a), where S is the
    survival function of the task's kind (`forecast`). The task is due when this *loss* reaches the price of a request.
    While the probabilities are small, this schedule minimizes delay + price x GETs: it makes n = sqrt(h / (2 price))
    polls a second at a hazard h (Barlow, Hunter and Proschan, "Optimum checking procedures", 1963, with continuous
    checks). It is also right when polls are rare: a task that was not polled around its most likely end becomes more
    and more urgent, although its hazard has fallen.

Rules
- `plan` is pure and keeps no state. Several processes may plan from the same records, and any of them may die.
- A task is never polled twice within `MIN_GAP_SECONDS`, and always again within its floor.
- If more polls are due than the rate allows, the task with the greatest loss is first. The rate limiter enforces the
  rate.
- A plan is valid for `MIN_GAP_SECONDS`: otherwise, with a thousand tasks, each poll would cost a new plan of all. New
  tasks join the plan at once.

Doubts
- `_PRICE` and `_CROWDING` are tuned against recorded durations of the sandbox, not of the live service.
- docs/decisions/04 compares this with plain intervals; `python -m bench.polling` measures the difference.

All times are seconds on one clock, which the caller reads.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

from msgspec import Struct

from flux2_mcp.engine.forecast import Forecast, Kind, forecast

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

MIN_GAP_SECONDS = 0.15
"""The minimum time between two polls of one task: about a round trip, so a shorter time brings no new information."""
FLOOR_FIRST_SECONDS, FLOOR_SHARE, FLOOR_LAST_SECONDS = 15.0, 1 / 60, 60.0
"""The floor: a task is due at the latest 15 s after its last poll; past an age of 15 minutes, a sixtieth of its age
after it; past an hour, 60 s after it."""

# The price of a request as delay (s), for a single task: about eight GETs for an image of 4 s. With fewer GETs a user
# waits noticeably longer; with more, each GET gains less than a tenth of a round trip.
_PRICE = 0.02
# The price grows with the number of tasks: each of sixteen simultaneous tasks gets half the GETs of a single task. So
# the total grows more slowly than the number of tasks, and a batch leaves room in the rate for other processes.
_CROWDING = 0.75
# The delay of a task counts a tenth if no caller waits for it. Past a minute, it counts relative to the wait so far.
_UNWATCHED = 0.1
_PATIENT = 60.0


class OpenTask(Struct, frozen=True):
    """A task that has not ended as far as is known.

    `last_asked_at` is the time of the last poll, even of one that failed with a 503 or a timeout. `not_before` is the
    earliest next poll that `Retry-After` allows. `watched` is False when no caller waits for the task now.
    """

    id: str
    kind: Kind
    submitted_at: float
    last_asked_at: float | None = None
    not_before: float | None = None
    watched: bool = True


class PollTime(Struct, frozen=True):
    """The time of the next poll of a task."""

    task_id: str
    at: float


def plan(
    tasks: Collection[OpenTask], history: Mapping[Kind, Sequence[float]], *, now: float, rate: float
) -> tuple[PollTime, ...]:
    """Return the next poll of each task, soonest first: one for each task, never before `now`.

    `history` has the recorded durations of each kind, as `forecast` takes them; a kind without durations gets the
    prior. `rate` is the share of the limiter's rate for polling, in requests a second: polls are at least 1 / rate
    apart, also from the last poll of these tasks. (The polls of ended tasks are not known here; the limiter counts
    them.) An answer, a new task or another process makes a plan outdated, so `Schedule` plans again in time.

    Raises:
        ValueError: The rate is not above zero, or a duration is negative or not finite.
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
    """The time at which a task would be polled if it were alone. Candidates are sorted by their fields, in order."""

    at: float
    patience: float
    task_id: str
    earliest: float
    asked: float


def _candidate(task: OpenTask, known: Forecast, price: float, now: float) -> _Candidate:
    # A time far in the future was recorded before the clock was set back. It counts as long ago. Otherwise the task
    # would wait until the clock reaches that time again.
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
    """Return the effective number of tasks that may end next: all if their hazards are equal, 1 if one dominates."""
    # `fsum` gives the same sum in any order. No hazard is zero, because each task may be a stuck one.
    return math.fsum(hazards) ** 2 / math.fsum(hazard**2 for hazard in hazards)


def _in_time(times: Sequence[float], step: float) -> list[float]:
    """Move sorted times at least a step (s) apart. A time may move earlier, never later, so a dense group begins early.

    Unused rate is lost. An early poll of the first in a group costs a request; a late poll of the last costs a delay.
    """
    slots = []
    free = math.inf
    for time in reversed(times):
        free = min(time, free)
        slots.append(free)
        free -= step
    return slots[::-1]


class Plan(Protocol):
    """The signature of `plan`."""

    def __call__(
        self, tasks: Collection[OpenTask], history: Mapping[Kind, Sequence[float]], *, now: float, rate: float
    ) -> tuple[PollTime, ...]:
        """Return the next poll of each task."""
        ...


class Schedule:
    """The current plan. It has no clock: times are seconds on one clock, which the caller reads.

    Args:
        plan: Makes a plan.
    """

    def __init__(self, plan: Plan = plan) -> None:
        self._plan = plan
        self._asks: list[PollTime] = []  # sorted; the soonest is last
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
        """Return the ids of the tasks to poll now, and remove their polls from the plan.

        `asked` has the id of each open task and the time of its last poll; `task` is called for each task to be
        planned. `history`, `rate` and ValueError are as in `plan`.
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
        # Otherwise a task was polled or is being polled since the plan was made, and the next plan must include it.
        self._whole = renewed and asked.keys() <= {ask.task_id for ask in self._asks}
        return [key for key in due if key in asked]

    def next_at(self) -> float:
        """Return when to call `due` again; infinity if there is nothing to poll."""
        soonest = self._asks[-1].at if self._asks else math.inf
        return soonest if self._whole else min(soonest, self._made_at + MIN_GAP_SECONDS)

    def _taken(self, now: float) -> list[str]:
        """Remove the due polls from the plan, and return their task ids."""
        due = []
        while self._asks and self._asks[-1].at <= now:
            due.append(self._asks.pop().task_id)
        return due
