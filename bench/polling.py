"""Measure the polling policy against fixed intervals, on simulated time: python -m bench.polling.

Each row has the delay (mean seconds from done to known), the GETs a task (with the one that finds it done) and their
product. Beside ours, over the same tasks and through the same limiter: what the vendor's clients do (a GET at once,
then one each 2 s or 5 s), and the fixed interval that makes as many GETs a task as ours, the first after one interval,
which is its best case. Exits with 1 when a figure that the policy has to reach is missed.
"""

from __future__ import annotations

import heapq
import math
import time
from dataclasses import asdict, dataclass
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bench.report import Reach, Report, end, options
from flux2_mcp.engine.planner import OpenTask, Schedule, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

KIND = ("flux-2-pro-text-to-image", "1k")
SEED = 2
SIMULATED = "simulated s"
RATE = 10.0
"""Requests a second that the limiter lets through. It binds with sixteen tasks at once: see the rows at 5 and 20."""
OTHER_RATES = (5.0, 20.0)
HISTORIES = (0, 20, 200)
CROWDS = {1: 1280, 16: 960}
"""Tasks open at once, and how many are measured in each row."""
QUICK = 0.7
"""Of the bimodal durations: how many did not stand in a queue."""
AFTER_ONE_HISTORY = 16
"""Tasks measured after one history, before another is drawn."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What polling some tasks came to: GETs a task, and the mean delay in seconds."""

    gets: float
    delay: float

    @property
    def product(self) -> float:
        """Delay x GETs a task, in seconds: what neither more requests nor fewer can buy."""
        return self.gets * self.delay


@dataclass(frozen=True, slots=True)
class Row:
    """One case: ours, the vendor's two intervals, and the interval (s) that needs as many GETs as ours."""

    durations: str
    at_once: int
    history: int
    rate: float
    ours: Outcome
    fixed_2s: Outcome
    fixed_5s: Outcome
    equal_interval: float
    equal: Outcome

    @property
    def share(self) -> float:
        """Our delay as a share of that of the fixed poller with as many GETs."""
        return self.ours.delay / self.equal.delay


def simulate(
    durations: Sequence[float], history: Sequence[float], *, rate: float = RATE, submitted: Sequence[float] = ()
) -> tuple[Outcome, tuple[tuple[float, int], ...]]:
    """Drive the policy over tasks that take `durations` seconds, submitted at once or at the times given.

    Returns the outcome and each GET as (time, index of the task).
    """
    arrivals = sorted(zip(submitted or [0.0] * len(durations), range(len(durations)), strict=True), reverse=True)
    tasks: dict[str, OpenTask] = {}
    delays: list[float] = []
    gets: list[tuple[float, int]] = []
    now, schedule = 0.0, Schedule()
    while tasks or arrivals:
        while arrivals and arrivals[-1][0] <= now:
            index = arrivals.pop()[1]
            tasks[str(index)] = OpenTask(str(index), KIND, now)
        asked = {key: task.last_asked_at for key, task in tasks.items()}
        due = schedule.due(asked, tasks.__getitem__, {KIND: history}, now=now, rate=rate)
        for key in due:
            # The shared limiter also counts the asks which found their task done; the plan no longer sees those.
            now = max(now, gets[-1][0] + 1 / rate) if gets else now
            index = int(key)
            gets.append((now, index))
            task = tasks.pop(key)
            delay = now - task.submitted_at - durations[index]
            if delay >= 0:
                delays.append(delay)
            else:
                tasks[key] = replace(task, last_asked_at=now)
        if not due:
            now = min(schedule.next_at(), arrivals[-1][0] if arrivals else math.inf)
    return Outcome(len(gets) / len(durations), fmean(delays)), tuple(gets)


def fixed(groups: Sequence[Sequence[float]], interval: float, *, first: float, rate: float) -> Outcome:
    """Poll each task of each group `first` seconds after its submission, then every `interval`, in turn."""
    gets, delays = 0, []
    for durations in groups:
        queue = [(first, index) for index in range(len(durations))]
        free = 0.0
        while queue:
            due, index = heapq.heappop(queue)
            now = max(due, free)
            free = now + 1 / rate
            gets += 1
            if now >= durations[index]:
                delays.append(now - durations[index])
            else:
                heapq.heappush(queue, (now + interval, index))
    return Outcome(gets / len(delays), fmean(delays))


def equal(groups: Sequence[Sequence[float]], gets: float, *, rate: float) -> tuple[float, Outcome]:
    """Return the longest interval (s) at which a fixed poller makes at least so many GETs a task, and what it gets."""
    low, high = 0.02, 60.0
    for _ in range(15):
        middle = math.sqrt(low * high)
        if fixed(groups, middle, first=middle, rate=rate).gets >= gets:
            low = middle
        else:
            high = middle
    return low, fixed(groups, low, first=low, rate=rate)


def _positive(random: Random, mean: float, deviation: float) -> float:
    while (value := random.gauss(mean, deviation)) <= 0:
        pass
    return value


def normal(random: Random, count: int) -> list[float]:
    return [_positive(random, 4, 1.5) for _ in range(count)]


def lognormal(random: Random, count: int) -> list[float]:
    return [random.lognormvariate(math.log(4), 0.5) for _ in range(count)]


def bimodal(random: Random, count: int) -> list[float]:
    """Seven in ten take 3 s, the rest stand in a queue and take 12 s."""
    return [_positive(random, 3, 0.6) if random.random() < QUICK else _positive(random, 12, 2) for _ in range(count)]


def drifting(random: Random, count: int) -> list[float]:
    """A median that starts between 2.5 and 6 s and wanders by 5 % a task, with a spread of a quarter around it."""
    level, durations = math.log(random.uniform(2.5, 6)), []
    for _ in range(count):
        level += random.gauss(0, 0.05)
        durations.append(random.lognormvariate(level, 0.25))
    return durations


DURATIONS: Mapping[str, Callable[[Random, int], list[float]]] = {
    "normal": normal,
    "lognormal": lognormal,
    "bimodal": bimodal,
    "drifting": drifting,
}


def measure(name: str, at_once: int, history: int, *, tasks: int, rate: float = RATE, seed: int = SEED) -> Row:
    """Measure one case over so many tasks, in groups that each follow a history of their own."""
    random = Random(f"{seed} {name} {at_once} {history}")
    groups: list[list[float]] = []
    outcomes: list[Outcome] = []
    for _ in range(tasks // AFTER_ONE_HISTORY):
        drawn = DURATIONS[name](random, history + AFTER_ONE_HISTORY)
        together = [drawn[first : first + at_once] for first in range(history, len(drawn), at_once)]
        outcomes += [simulate(group, drawn[:history], rate=rate)[0] for group in together]
        groups += together
    ours = Outcome(fmean(one.gets for one in outcomes), fmean(one.delay for one in outcomes))
    return Row(
        name,
        at_once,
        history,
        rate,
        ours,
        fixed(groups, 2, first=0, rate=rate),
        fixed(groups, 5, first=0, rate=rate),
        *equal(groups, ours.gets, rate=rate),
    )


def reaches(rows: Sequence[Row]) -> list[Reach]:
    """Compare the rows with what the policy has to reach.

    Each kind of durations is compared with fixed intervals over all its histories together: where sixteen tasks take
    up the whole rate, little is left to decide, and one row is as uncertain as the difference is large.
    """
    ours = {(row.durations, row.at_once, row.history): row.ours for row in rows if row.rate == RATE}
    new, alone, crowd = ours["normal", 1, 0], ours["normal", 1, 20], ours["normal", 16, 20]
    shares = [
        fmean(row.share for row in rows if (row.durations, row.at_once, row.rate) == (name, at_once, RATE))
        for name in DURATIONS
        for at_once in CROWDS
    ]
    return [
        Reach("product after 20 recorded tasks", alone.product, 1.9, SIMULATED),
        Reach("product with no history", new.product, 3.0, SIMULATED),
        Reach("one alone: delay", alone.delay, 0.22, SIMULATED),
        Reach("one alone: GETs", alone.gets, 9.0, "GETs"),
        Reach("16 at once: delay", crowd.delay, 0.6, SIMULATED),
        Reach("16 at once: GETs a task", crowd.gets, 4.0, "GETs"),
        Reach("worst share of a fixed poller's delay", max(shares), 1.0),
        Reach("plan of 1,000 tasks", plan_cost() * 1e3, 20.0, "ms"),
    ]


def plan_cost() -> float:
    """Return the seconds that planning 1,000 tasks of four kinds takes, the best of forty."""
    random = Random(SEED)
    kinds = [(model, resolution) for model in ("pro", "flex") for resolution in ("1k", "2k")]
    history = {kind: lognormal(random, 200) for kind in kinds}
    ages = [random.expovariate(0.05) for _ in range(1000)]
    tasks = [
        OpenTask(str(index), kinds[index % 4], 1e6 - age, 1e6 - random.random() * age) for index, age in enumerate(ages)
    ]
    seconds = []
    for _ in range(40):
        start = time.perf_counter()
        plan(tasks, history, now=1e6, rate=RATE)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


HEAD = (
    "durations", "at once", "history", "rate", "ours: GETs", "delay s", "product",
    "2 s (vendor's run): GETs", "delay s", "product", "5 s: GETs", "delay s", "product",
    "as many GETs as ours: every s", "delay s", "ours",
)  # fmt: skip


def line(row: Row) -> list[str | float]:
    """One row as the table has it."""
    three: list[float] = [
        figure for one in (row.ours, row.fixed_2s, row.fixed_5s) for figure in (one.gets, one.delay, one.product)
    ]
    least: list[str | float] = [row.equal_interval, row.equal.delay, f"{row.share - 1:+.0%}"]
    return [row.durations, row.at_once, row.history, row.rate, *(f"{each:.2f}" for each in three), *least]


def main() -> None:
    chosen = options("polling", __doc__, seed=SEED)
    cases = [(name, at_once, history, RATE) for name in DURATIONS for at_once in CROWDS for history in HISTORIES]
    cases += [("normal", 16, 20, rate) for rate in OTHER_RATES]
    rows = [
        measure(name, at_once, history, tasks=CROWDS[at_once], rate=rate, seed=chosen.seed)
        for name, at_once, history, rate in cases
    ]
    limits = (
        "Simulated time, drawn durations: the same on every machine. What a real service's durations are like is not known.",
        "The vendor SDK's `run` is the fixed interval of 2 s with a GET at once, its default; it is not held to a rate by itself.",
        "Reaches are of normal durations of 4 s with a deviation of 1.5 s; the share is of all.",
    )
    raw = [asdict(row) for row in rows]
    end(Report("polling", HEAD, [line(row) for row in rows], reaches(rows), limits, chosen.seed, raw), chosen)


if __name__ == "__main__":
    main()
