from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bench.polling import DURATIONS, KIND, RATE, Outcome, measure, simulate
from flux2_mcp.engine.forecast import forecast
from flux2_mcp.engine.planner import (
    FLOOR_FIRST_SECONDS,
    FLOOR_LAST_SECONDS,
    FLOOR_SHARE,
    MIN_GAP_SECONDS,
    OpenTask,
    PollTime,
    plan,
)
from flux2_mcp.journal.contract import MAX_DURATIONS
from tests.support.deep import deep_but
from tests.support.rows import rows

NOW = 1_700_000_000.0
LARGE = ("flux-2-pro-text-to-image", "2k")
OTHER = ("flux-2-flex-remix-image", "1k")
NEW = ("a-model-of-tomorrow", "8k")

durations = st.lists(st.floats(0, 1e7), max_size=30)
histories = st.fixed_dictionaries({}, optional={KIND: durations, LARGE: durations, OTHER: durations})
rates = st.floats(0.05, 1000)


@st.composite
def open_tasks(draw: st.DrawFn, name: str = "task") -> OpenTask:
    age = draw(st.one_of(st.floats(0, 30), st.floats(0, 1e5)))
    return OpenTask(
        id=name,
        kind=draw(st.sampled_from([KIND, LARGE, OTHER, NEW])),
        submitted_at=NOW - age,
        last_asked_at=draw(st.one_of(st.none(), st.floats(NOW - age, NOW))),
        not_before=draw(st.one_of(st.none(), st.floats(NOW - 10, NOW + 1000))),
        watched=draw(st.booleans()),
    )


task_lists = st.lists(open_tasks(), max_size=25).map(
    lambda tasks: [replace(task, id=str(index)) for index, task in enumerate(tasks)]
)
PATHOLOGICAL = {
    "none": [],
    "one": [4.0],
    "one of zero": [0.0],
    "zeros": [0.0] * 50,
    "equal": [4.0] * 200,
    "huge": [1e12] * 200,
    "tiny and huge": [1e-9, 1e300] * 30,
    "one outlier": [4.0] * 20 + [1e6],
    "more than are looked at": [float(second % 9) for second in range(1000)],
}


@given(task_lists, histories, rates)
def test_a_plan_has_one_ask_for_each_task_soonest_first_and_none_in_the_past(
    tasks: list[OpenTask], history: dict[tuple[str, str], list[float]], rate: float
) -> None:
    asks = plan(tasks, history, now=NOW, rate=rate)
    assert sorted(ask.task_id for ask in asks) == sorted(task.id for task in tasks)
    assert [NOW, *(ask.at for ask in asks)] == sorted([NOW, *(ask.at for ask in asks)])


@given(task_lists, histories, rates)
def test_retry_after_and_the_gap_between_two_asks_are_kept_to_the_last_digit(
    tasks: list[OpenTask], history: dict[tuple[str, str], list[float]], rate: float
) -> None:
    at = {ask.task_id: ask.at for ask in plan(tasks, history, now=NOW, rate=rate)}
    for task in tasks:
        assert task.not_before is None or at[task.id] >= task.not_before
        assert task.last_asked_at is None or at[task.id] >= task.last_asked_at + MIN_GAP_SECONDS


@given(task_lists, histories, rates)
def test_no_window_of_a_plan_holds_more_asks_than_the_rate(
    tasks: list[OpenTask], history: dict[tuple[str, str], list[float]], rate: float
) -> None:
    asked = max((task.last_asked_at for task in tasks if task.last_asked_at is not None), default=-math.inf)
    times = [asked, *(ask.at for ask in plan(tasks, history, now=NOW, rate=rate))]
    assert all(later - earlier >= 1 / rate - 1e-6 for earlier, later in pairwise(times))


@given(task_lists, histories, rates)
def test_no_task_waits_longer_than_its_floor_and_its_turn(
    tasks: list[OpenTask], history: dict[tuple[str, str], list[float]], rate: float
) -> None:
    at = {ask.task_id: ask.at for ask in plan(tasks, history, now=NOW, rate=rate)}
    for task in tasks:
        since = task.submitted_at if task.last_asked_at is None else task.last_asked_at
        floor = min(max(FLOOR_FIRST_SECONDS, (since - task.submitted_at) * FLOOR_SHARE), FLOOR_LAST_SECONDS)
        latest = max(NOW, since + floor, since + MIN_GAP_SECONDS, task.not_before or NOW)
        assert at[task.id] <= latest + len(tasks) / rate + 1e-6


@given(task_lists.flatmap(lambda tasks: st.tuples(st.just(tasks), st.permutations(tasks))), histories, rates)
def test_a_plan_depends_on_nothing_but_its_arguments_and_not_on_their_order(
    both: tuple[list[OpenTask], list[OpenTask]], history: dict[tuple[str, str], list[float]], rate: float
) -> None:
    tasks, shuffled = both
    copied = {kind: tuple(seconds) for kind, seconds in reversed(history.items())}
    assert plan(tasks, history, now=NOW, rate=rate) == plan(shuffled, copied, now=NOW, rate=rate)


@given(st.sampled_from([KIND, LARGE]), durations, st.floats(0, 3600), st.floats(1e-3, 10))
def test_a_task_is_due_when_the_loss_since_its_last_ask_reaches_the_price(
    kind: tuple[str, str], history: list[float], last: float, price: float
) -> None:
    known = forecast(kind, history)
    due = known.due(last, price)
    assert due > last
    if due < math.inf:
        assert known.loss(last, due) == pytest.approx(price, rel=1e-3, abs=1e-6)


@rows("history", PATHOLOGICAL.values(), ids=PATHOLOGICAL.keys())
def test_any_history_leaves_a_chance_that_is_neither_nothing_nor_infinite(history: list[float]) -> None:
    known = forecast(KIND, history)
    assert all(1 >= before >= after > 0 for before, after in pairwise(known.survival))
    assert all(0 <= known.hazard(age) < 100 for age in (0.0, 1.0, 4.0, 60.0, 1e4, 1e9))
    assert all(known.hazard(age) > 0 for age in (60.0, 1e3, 7e3))
    for submitted in (NOW, NOW - 20):
        ask = plan([OpenTask("a", KIND, submitted, NOW)], {KIND: history}, now=NOW, rate=5)[0]
        assert NOW + MIN_GAP_SECONDS <= ask.at <= NOW + FLOOR_FIRST_SECONDS


@rows("wrong", [math.nan, math.inf, -math.inf, -1.0])
def test_a_duration_that_is_not_one_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        forecast(KIND, [4.0, wrong])


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan])
def test_a_rate_that_lets_nothing_through_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        plan([], {}, now=NOW, rate=rate)


def test_nothing_open_needs_no_plan() -> None:
    assert plan([], {KIND: [4.0]}, now=NOW, rate=5) == ()


def test_what_is_expected_is_the_median_of_what_was_seen_less_the_age() -> None:
    known = forecast(KIND, [3.0, 3.5, 4.0, 4.5, 5.0] * 20)
    assert known.expected(0) == pytest.approx(4.0, abs=0.2)
    assert known.expected(2) == pytest.approx(2.0, abs=0.2)
    assert known.expected(-5) == known.expected(0)


def test_nothing_is_expected_of_a_task_that_looks_stuck() -> None:
    known = forecast(KIND, [4.0] * 100)
    assert [known.expected(age) for age in (30, 600, 7200, 1e9)] == [None] * 4
    assert forecast(KIND, [1e9] * 100).expected(7000) is None


def test_past_two_hours_only_the_floor_asks() -> None:
    known = forecast(KIND, [4.0] * 20)
    assert (known.due(8000, 0.02), known.loss(8000, 9000)) == (math.inf, 0)


@rows(("age", "floor"), [(900, 15), (1800, 30), (3600, 60), (7200, 60), (90_000, 60)])
def test_the_floor_of_a_stuck_task_grows_with_its_age_up_to_a_minute(age: float, floor: float) -> None:
    stuck = OpenTask("a", KIND, NOW - age, NOW, watched=False)
    assert plan([stuck], {KIND: [4.0] * 20}, now=NOW, rate=5) == (PollTime("a", NOW + floor),)


def test_a_task_that_is_almost_surely_done_is_asked_about_once_in_a_gap() -> None:
    likely = OpenTask("a", KIND, NOW - 4.4, NOW)
    assert plan([likely], {KIND: [4.0] * 200}, now=NOW, rate=1000) == (PollTime("a", NOW + MIN_GAP_SECONDS),)


def test_tasks_that_are_stuck_do_not_make_requests_dearer_for_a_fresh_one() -> None:
    fresh = OpenTask("fresh", KIND, NOW - 3, NOW)
    stuck = [OpenTask(str(index), KIND, NOW - 3600, NOW) for index in range(100)]
    alone, among = (plan(tasks, {}, now=NOW, rate=1e6)[0] for tasks in ([fresh], [fresh, *stuck]))
    assert among.at == pytest.approx(alone.at, abs=0.25)


def test_a_crowd_is_as_large_in_any_order() -> None:
    # At small times, whose last bits tell of the last bits of the crowd.
    crowd, dice = [OpenTask(f"{number:02}", KIND, -0.3 - number * 0.37) for number in range(40)], Random(1)  # noqa: S311  # to be repeated
    plans = {plan(dice.sample(crowd, len(crowd)), {}, now=0.0, rate=1e6) for _ in range(20)}
    assert len(plans) == 1


@given(durations, st.floats(0, 1e5))
def test_what_is_expected_is_never_in_the_past(history: list[float], age: float) -> None:
    assert (forecast(KIND, history).expected(age) or 0) >= 0


def test_before_any_history_an_image_takes_seconds_and_a_large_one_longer() -> None:
    small, large, unknown = (forecast(kind).expected(0) for kind in (KIND, LARGE, NEW))
    assert 3 < (small or 0) < (large or 0) < 15
    assert unknown == small


def test_only_the_last_durations_count_and_the_recent_ones_more() -> None:
    assert forecast(KIND, [1.0] * 1000 + [4.0] * MAX_DURATIONS) == forecast(KIND, [4.0] * MAX_DURATIONS)
    assert forecast(KIND, [4.0] * 100 + [9.0] * 60).expected(0) == pytest.approx(9.0, abs=0.6)


def test_requests_go_first_to_the_task_most_likely_done() -> None:
    history = {KIND: [4.0, 4.2, 3.8, 4.1, 3.9] * 10}
    likely = OpenTask("likely", KIND, NOW - 5, NOW - 2)
    tasks = [
        OpenTask("early", KIND, NOW - 1),
        OpenTask("late", KIND, NOW - 40, NOW - 1),
        OpenTask("unwatched", KIND, NOW - 5, NOW - 2, watched=False),
        likely,
        replace(likely, id="refused", not_before=NOW + 30),
    ]
    asks = plan(tasks, history, now=NOW, rate=1)
    assert [ask.task_id for ask in asks] == ["likely", "unwatched", "late", "early", "refused"]
    assert (asks[0], asks[-1]) == (PollTime("likely", NOW), PollTime("refused", NOW + 30))


def test_a_task_nobody_waits_for_is_asked_about_later() -> None:
    watched = OpenTask("a", KIND, NOW - 4, NOW)
    sooner, later = (plan([task], {}, now=NOW, rate=5)[0].at for task in (watched, replace(watched, watched=False)))
    assert later - NOW > 2 * (sooner - NOW)


def test_a_crowd_is_asked_about_less_often_each() -> None:
    crowd = [OpenTask(str(index), KIND, NOW - 4, NOW - 0.1) for index in range(16)]
    assert plan(crowd[:1], {}, now=NOW, rate=1000)[0].at < plan(crowd, {}, now=NOW, rate=1000)[0].at


def test_a_bunch_that_will_be_due_together_begins_early() -> None:
    crowd = [OpenTask(str(index), KIND, NOW) for index in range(16)]
    free, bound = (plan(crowd, {}, now=NOW, rate=rate) for rate in (1000, 10))
    assert bound[0].at < free[0].at - 1
    assert bound[-1].at == pytest.approx(free[-1].at)


def test_a_failed_poll_is_an_ask_like_another_and_the_wait_goes_on() -> None:
    task = OpenTask("a", KIND, NOW)
    now = NOW
    for _ in range(50):
        ask = plan([task], {KIND: [4.0] * 20}, now=now, rate=5)[0]
        assert now < ask.at <= now + FLOOR_FIRST_SECONDS
        now = ask.at
        task = replace(task, last_asked_at=now)


def test_times_from_before_the_clock_was_set_back_do_not_hold_a_task_up() -> None:
    ahead = OpenTask("a", KIND, NOW + 3600, NOW + 3610)
    assert plan([ahead], {}, now=NOW, rate=5) == (PollTime("a", NOW),)
    asked = replace(ahead, last_asked_at=NOW)
    assert plan([asked], {}, now=NOW + 1, rate=5) == (PollTime("a", NOW + FLOOR_FIRST_SECONDS),)


def test_stuck_tasks_neither_starve_nor_hold_up_a_fresh_one() -> None:
    stuck = [OpenTask(str(index), KIND, NOW - 3600 - index, NOW - index / 5) for index in range(150)]
    tasks, now, gets = {task.id: task for task in [*stuck, OpenTask("fresh", KIND, NOW - 2)]}, NOW, 0
    for _ in range(300):
        ask = plan(tasks.values(), {KIND: [4.0] * 20}, now=now, rate=2)[0]
        now = max(ask.at, now + 1 / 2)
        gets += ask.task_id == "fresh" and now < NOW + 6
        tasks[ask.task_id] = replace(tasks[ask.task_id], last_asked_at=now)
    assert gets >= 4
    assert all((task.last_asked_at or 0) > NOW for task in tasks.values())


def test_simulated_time_is_told_as_it_is() -> None:
    outcome, gets = simulate([0.001], [])
    assert outcome == Outcome(1.0, gets[0][0] - 0.001)
    assert {index for at, index in simulate([3.0, 3.0], [], submitted=[100.0, 0.0])[1] if at < 100} == {1}


def test_delay_and_requests_stay_within_the_reach() -> None:
    new, alone = measure("normal", 1, 0, tasks=400).ours, measure("normal", 1, 20, tasks=800).ours
    crowd = measure("normal", 16, 20, tasks=320).ours
    assert new.product <= 3.0
    assert alone.product <= 1.9
    assert (alone.delay <= 0.22, alone.gets <= 9) == (True, True), alone
    assert (crowd.delay <= 0.6, crowd.gets <= 4) == (True, True), crowd


@pytest.mark.parametrize("history", [0, 20])
@pytest.mark.parametrize("name", deep_but(DURATIONS, "bimodal", "lognormal"))
def test_a_fixed_interval_with_as_many_requests_is_later(name: str, history: int) -> None:
    row = measure(name, 1, history, tasks=320, rate=RATE)
    assert row.equal.gets >= row.ours.gets
    assert row.ours.delay < row.equal.delay
