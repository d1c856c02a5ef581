"""Tasks without a server: their progress, their idempotency and scripts, and their money."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest
from msgspec.structs import replace

from flux2_mcp.domain import catalog
from flux2_mcp.domain.models import SERVICE, Action, Status
from flux2_mcp.sandbox import pictures, tasks
from flux2_mcp.sandbox.drawing import draw
from flux2_mcp.sandbox.http import HttpError
from flux2_mcp.sandbox.scenarios import Fault
from flux2_mcp.sandbox.state import Money, SandboxState
from flux2_mcp.sandbox.tasks import OTHER_MEDIAN_SECONDS, UNPRICED_CENTS, TaskOrder
from tests.support.sandbox_folder import NOON, Clock, make, opened, order

# --- progress ---------------------------------------------------------------------------------------------------------

MEDIANS = {
    (model.variant, resolution): catalog.variant_notes(model.variant)
    .get("sandbox", {})
    .get("median_seconds", {})
    .get(resolution, OTHER_MEDIAN_SECONDS)
    for model in catalog.models().values()
    for resolution in model.resolutions
}


def test_a_tasks_status_follows_from_its_row_and_the_time(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        task = replace(make(state), starts_at=NOON + 1, ends_at=NOON + 4)
    seen = [task.status(NOON + second) for second in (0, 0.9, 1, 3.9, 4, 1e9)]
    assert seen == [
        *(Status.PENDING, Status.PENDING, Status.PROCESSING, Status.PROCESSING, Status.COMPLETED, Status.COMPLETED),
    ]


def test_a_stuck_task_never_ends(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        task = make(state, order("[sandbox:stuck] a cat"))
    assert [task.status(NOON + second) for second in (0, 1, 1e12)] == [
        Status.PENDING,
        Status.PROCESSING,
        Status.PROCESSING,
    ]


def test_an_instant_task_is_done_at_once_and_a_slow_one_after_thirty_seconds_by_speed(tmp_path: Path) -> None:
    with opened(tmp_path, speed=10.0) as state:
        assert make(state, order("[sandbox:instant] a cat")).ends_at == NOON
        assert make(state, order("[sandbox:slow] a cat")).ends_at == NOON + 3


def test_a_seed_makes_durations_follow_from_it_and_the_tasks_number(tmp_path: Path) -> None:
    def ends(name: str, seed: int | None) -> list[float | None]:
        (tmp_path / name).mkdir()
        with opened(tmp_path / name, seed=seed) as state:
            return [make(state).ends_at for _ in range(3)]

    assert ends("a", 7) == ends("b", 7)
    assert len(set(ends("c", 7))) == 3
    assert ends("d", 8) != ends("e", 7)
    assert ends("f", None) != ends("g", None)


def test_pro_flex_and_max_have_a_pace_of_their_own_each() -> None:
    paces = {catalog.variant_notes(variant)["sandbox"]["median_seconds"]["1k"] for variant in ("pro", "flex", "max")}
    assert len(paces) == 3


@pytest.mark.parametrize(("variant", "resolution"), MEDIANS)
def test_durations_spread_around_their_median(tmp_path: Path, variant: str, resolution: str) -> None:
    with opened(tmp_path, seed=1, opening_cents=100_000) as state:
        made = [make(state, order(variant=variant, resolution=resolution)) for _ in range(100)]
    seconds = [math.log((task.ends_at or 0) - task.created_at) for task in made]
    assert statistics.fmean(seconds) == pytest.approx(math.log(MEDIANS[variant, resolution]), abs=0.12)
    assert statistics.stdev(seconds) == pytest.approx(0.3, abs=0.1)


def test_a_source_that_cannot_be_had_fails_the_task_when_its_time_has_come(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        task = make(state, replace(order("[sandbox:slow] a cat"), failure="Source image 1 can't be used."))
    assert (task.status(NOON), task.status(NOON + 30)) == (Status.PENDING, Status.FAILED)


# --- idempotency and scripts ------------------------------------------------------------------------------------------


def test_the_same_key_and_body_bring_the_same_task(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        first, again = make(state, order(key="k")), make(state, order(key="k"))
        assert (again.id, again.creates) == (first.id, 2)
        assert len(tasks.every(state)) == 1


def test_the_order_of_a_bodys_fields_does_not_matter(tmp_path: Path) -> None:
    wanted = order(key="k")
    turned = replace(wanted, body=dict(reversed(list(wanted.body.items()))))
    with opened(tmp_path) as state:
        assert make(state, turned).id == make(state, wanted).id


@pytest.mark.parametrize(
    "other", [order("a dog", key="k"), replace(order(key="k"), action=Action.REMIX_IMAGE)], ids=["body", "endpoint"]
)
def test_the_same_key_with_another_request_conflicts_and_makes_nothing(tmp_path: Path, other: TaskOrder) -> None:
    with opened(tmp_path) as state:
        make(state, order(key="k"))
        with pytest.raises(HttpError) as caught:
            tasks.create(state, other, NOON)
        assert (caught.value.status, len(tasks.every(state))) == (409, 1)


def test_without_a_key_each_create_makes_a_task(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        assert make(state).id != make(state).id


def statuses(state: SandboxState, wanted: TaskOrder, times: int) -> list[int]:
    """What that many creates meet: 0 for a task, 1 for a task and a lost connection, else the status."""
    met = []
    for _ in range(times):
        try:
            _, fault = tasks.create(state, wanted, NOON)
            met.append(0 if fault is None else 1)
        except HttpError as exc:
            met.append(exc.status)
    return met


def test_faults_of_a_create_come_in_order_and_then_it_passes_for_good(tmp_path: Path) -> None:
    wanted = order("[sandbox:rate_limited] a cat [sandbox:create_503][sandbox:create_html]", key="k")
    with opened(tmp_path) as state:
        assert statuses(state, wanted, 5) == [429, 503, 502, 0, 0]
        assert [task.creates for task in tasks.every(state)] == [2]


def test_without_a_key_faults_are_counted_by_the_body_and_play_again(tmp_path: Path) -> None:
    wanted = order("[sandbox:create_503] a cat")
    with opened(tmp_path) as state:
        assert statuses(state, wanted, 2) == [503, 0]
        assert statuses(state, order("[sandbox:create_503] a dog"), 2) == [503, 0]
        assert statuses(state, wanted, 2) == [503, 0]


def test_a_lost_create_has_made_its_task(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        lost, fault = tasks.create(state, order("[sandbox:create_lost] a cat", key="k"), NOON)
        assert fault is Fault.LOST
        assert make(state, order("[sandbox:create_lost] a cat", key="k")).id == lost.id


def test_polls_are_counted_and_meet_their_faults_in_order(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        task = make(state, order("[sandbox:poll_html][sandbox:poll_503] a cat"))
        met = []
        for _ in range(3):
            with pytest.raises(HttpError) as caught:
                tasks.poll(state, task.endpoint, task.id, NOON)
            met.append(caught.value.status)
        assert met == [502, 503, 503]
        assert tasks.poll(state, task.endpoint, task.id, NOON).polls == 4


def test_a_task_answers_only_to_its_own_endpoint(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        task = make(state)
        with pytest.raises(HttpError) as caught:
            tasks.poll(state, (SERVICE, Action.REMIX_IMAGE), task.id, NOON)
        assert caught.value.status == 404


# --- money ------------------------------------------------------------------------------------------------------------


def test_open_tasks_reserve_completed_ones_are_spent_and_failed_ones_are_free(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock, opening_cents=100) as state:
        make(state, order("[sandbox:slow] a cat", resolution="2k"))
        make(state, order("[sandbox:slow][sandbox:moderation] a cat"))
        make(state, order("[sandbox:stuck] a cat"))
        assert state.money() == Money(opening=100, spent=0, spent_today=0, reserved=7 + 5 + 5)
        clock.now += 30
        assert state.money() == Money(opening=100, spent=7, spent_today=7, reserved=5)
        clock.now += 86_400
        assert state.money() == Money(opening=100, spent=7, spent_today=0, reserved=5)
        assert state.money().balance == 93


def test_what_is_reserved_cannot_be_spent_twice(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock, opening_cents=9) as state:
        make(state, order("[sandbox:slow][sandbox:moderation] a cat"))
        with pytest.raises(HttpError) as caught:
            tasks.create(state, order(), NOON)
        assert caught.value.status == 402
        clock.now += 30
        make(state, order())


def test_the_opening_balance_is_set_once(tmp_path: Path) -> None:
    with opened(tmp_path, opening_cents=9) as state:
        assert state.money().opening == 9
    with opened(tmp_path) as state:
        assert state.money().opening == 9


def test_prices_are_the_published_ones_and_the_sandboxs_own_where_none_is() -> None:
    prices = {
        (model.variant, name): tasks.cents(model, name)
        for model in catalog.models().values()
        for name in model.resolutions
    }
    known = {
        ("pro", "1k"): 5,
        ("pro", "2k"): 7,
        ("flex", "1k"): 14,
        ("flex", "2k"): 24,
        ("max", "1k"): UNPRICED_CENTS,
    }
    assert {one: cents for one, cents in prices.items() if one[0] in {"pro", "flex", "max"}} == known
    assert prices == {
        (model.variant, name): model.published_cents.get(name, UNPRICED_CENTS)
        for model in catalog.models().values()
        for name in model.resolutions
    }


# --- the picture ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("speed", "plain"), [(99.0, False), (100.0, True)])
def test_from_a_speed_of_a_hundred_on_a_picture_is_plain(tmp_path: Path, speed: float, *, plain: bool) -> None:
    with opened(tmp_path, speed=speed) as state:
        task = make(state, order("[sandbox:instant] a cat"))
        drawn = draw.render(
            prompt=task.body["prompt"], variant="pro", model=task.model, action=task.action,
            aspect_ratio=task.aspect_ratio, output_resolution=task.resolution, take=task.idempotency_key or "",
            accent=pictures.accent("pro"), plain=plain,
        )  # fmt: skip
        assert pictures.delivered(state, task) == drawn
