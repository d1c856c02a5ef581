"""The plan in force: how long it stands, what joins it, when to look again."""

from __future__ import annotations

import math

from msgspec.structs import replace

from bench.polling import KIND
from flux2_mcp.engine.planner import MIN_GAP_SECONDS, OpenTask, Schedule, plan

NOW = 1_700_000_000.0


class Clerk:
    """A schedule, its tasks, and how often each of them was planned."""

    def __init__(self, *tasks: OpenTask) -> None:
        self.schedule = Schedule()
        self.tasks = {task.id: task for task in tasks}
        self.planned: list[str] = []

    def task(self, key: str) -> OpenTask:
        self.planned.append(key)
        return self.tasks[key]

    def due(self, now: float, rate: float = 1000) -> list[str]:
        asked = {task.id: task.last_asked_at for task in self.tasks.values()}
        due = self.schedule.due(asked, self.task, {KIND: [4.0] * 20}, now=now, rate=rate)
        for key in due:
            self.tasks[key] = replace(self.tasks[key], last_asked_at=now)
        return due


def test_a_schedule_asks_when_the_plan_says() -> None:
    fresh = OpenTask("a", KIND, NOW)
    clerk, (ask,) = Clerk(fresh), plan([fresh], {KIND: [4.0] * 20}, now=NOW, rate=1000)
    assert clerk.due(NOW) == []
    assert clerk.schedule.next_at() == ask.at
    assert clerk.due(ask.at) == ["a"]
    assert clerk.planned == ["a"]
    assert clerk.schedule.next_at() == ask.at + MIN_GAP_SECONDS


def test_nothing_open_is_never_looked_at_again() -> None:
    clerk = Clerk()
    assert (clerk.due(NOW), clerk.schedule.next_at()) == ([], math.inf)


def test_a_plan_stands_while_no_task_could_be_asked_again_and_is_made_anew_after() -> None:
    clerk = Clerk(*(OpenTask(str(index), KIND, NOW - 4) for index in range(20)))
    first = clerk.due(NOW, rate=100)
    assert len(first) == 1
    assert len(clerk.planned) == 20
    now = NOW
    while (now := clerk.schedule.next_at()) < NOW + MIN_GAP_SECONDS:
        assert len(clerk.due(now, rate=100)) == 1
    assert len(clerk.planned) == 20
    assert now == NOW + MIN_GAP_SECONDS
    clerk.due(now, rate=100)
    assert len(clerk.planned) > 20


def test_a_new_task_joins_the_plan_at_once() -> None:
    clerk = Clerk(OpenTask("old", KIND, NOW))
    clerk.due(NOW)
    clerk.tasks["new"] = OpenTask("new", KIND, NOW - 4)
    assert clerk.due(NOW + MIN_GAP_SECONDS / 2) == ["new"]
    assert clerk.planned == ["old", "new"]


def test_a_task_that_was_busy_when_the_plan_was_made_joins_it_when_it_comes_back() -> None:
    clerk = Clerk(OpenTask("a", KIND, NOW))
    clerk.due(NOW)
    clerk.tasks["back"] = OpenTask("back", KIND, NOW - 4, NOW - MIN_GAP_SECONDS)
    assert clerk.due(NOW + MIN_GAP_SECONDS / 2) == ["back"]


def test_what_ended_is_not_asked_about() -> None:
    clerk = Clerk(OpenTask("a", KIND, NOW - 1), OpenTask("b", KIND, NOW - 1.1))
    assert clerk.due(NOW) == []
    soonest = clerk.schedule.next_at()
    del clerk.tasks["b"]
    assert clerk.due(soonest) == []
    assert clerk.due(soonest + 10) == ["a"]


def test_on_a_clock_that_stands_the_next_ask_is_not_lost() -> None:
    """The answer may come within one tick of a coarse clock."""
    clerk = Clerk(OpenTask("a", KIND, NOW - 4))
    assert clerk.due(NOW) == ["a"]
    assert clerk.due(NOW) == []
    assert clerk.schedule.next_at() == NOW + MIN_GAP_SECONDS
    clerk.due(NOW + MIN_GAP_SECONDS)
    assert NOW + MIN_GAP_SECONDS < clerk.schedule.next_at() < math.inf


def test_news_is_in_a_plan_within_the_gap() -> None:
    clerk = Clerk(OpenTask("a", KIND, NOW, watched=False))
    clerk.due(NOW)
    late = clerk.schedule.next_at()
    clerk.tasks["a"] = replace(clerk.tasks["a"], watched=True)
    clerk.due(NOW + MIN_GAP_SECONDS / 2)
    assert clerk.schedule.next_at() == NOW + MIN_GAP_SECONDS
    clerk.due(NOW + MIN_GAP_SECONDS)
    assert clerk.schedule.next_at() < late
