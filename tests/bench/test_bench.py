"""What is made of measurements: the page, what is recorded, what counts as worse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench import all as every
from bench.report import Reach, Report, certain, percentile, ratio
from tests.support.rows import rows

CALL = Reach("a call", 1.2, 1.5)
RATE = Reach("throughput", 0.97, 0.95, least=True)
START = Reach("a start", 70.0, 60.0, "ms")


def found(*reaches: Reach) -> dict[str, Any]:
    return {"reaches": [asdict(reach) for reach in reaches]}


@rows(
    ("reach", "now", "is_worse"),
    [(CALL, 1.31, False), (CALL, 1.33, True), (CALL, 0.5, False), (RATE, 0.89, False), (RATE, 0.87, True)],
)
def test_only_a_figure_more_than_a_tenth_worse_is_told(reach: Reach, now: float, is_worse: bool) -> None:
    measured = Reach(reach.what, now, reach.bound, reach.unit, reach.least)
    told = every.worse(found(measured), every.lasting(found(reach)))
    assert [line.partition(":")[0] for line in told] == ([reach.what] if is_worse else [])


def test_what_was_recorded_and_is_not_measured_any_more_is_told() -> None:
    assert every.worse(found(CALL), {"a call": 1.2, "gone": 1.0}) == ["gone: recorded, and not measured any more"]


def test_milliseconds_are_not_recorded_since_another_machine_has_others() -> None:
    assert every.lasting(found(CALL, START, RATE)) == {"a call": 1.2, "throughput": 0.97}


@pytest.mark.parametrize(("runs", "failures"), [([2.0, 2.0, 1.2], 0), ([2.0, 2.0, 2.0], 1)])
def test_a_check_fails_where_a_figure_is_worse_each_of_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: list[float], failures: int
) -> None:
    file = tmp_path / "recorded.json"
    file.write_text(json.dumps({"calls": {"a call": 1.2}}), "utf-8")
    monkeypatch.setattr(every, "RECORDED", file)
    left: Iterator[float] = iter(runs)
    monkeypatch.setattr(every, "run", lambda _: found(Reach("a call", next(left), 1.5)))
    assert every.check(["calls"]) == failures


def test_the_page_says_what_was_missed_when_and_where_and_the_limits(tmp_path: Path) -> None:
    file = tmp_path / "calls.json"
    report = Report("calls", ("who", "ms"), [("ours", 1.234), ("theirs", 12_345.6)], (CALL, START), ("one machine",), 7)
    assert report.tell(file) == 1
    told = json.loads(file.read_text("utf-8"))
    page = every.page({"calls": told})
    assert "- a start: 70 ms, at most 60: **missed**" in page.partition("## ")[0]
    assert "- a call: 1.2 x, at most 1.5: reached" in page
    assert "| ours | 1.234 |\n| theirs | 12,346 |" in page
    assert f"{told['at']}, seed 7; {told['machine']}" in page
    assert "Limits:\n\n- one machine\n" in page


def test_a_section_stays_where_nothing_was_measured_anew(tmp_path: Path) -> None:
    report = Report("calls", ("who", "ms"), [("ours", 1.0)], (START,), ("one machine",), 7)
    report.tell(tmp_path / "calls.json")
    calls = json.loads((tmp_path / "calls.json").read_text("utf-8"))
    both = every.page({"calls": calls, "team_rate": calls})
    assert both.count("- a start: 70 ms, at most 60: **missed**\n") == 4
    assert every.page({"team_rate": calls}, both) == every.page({"calls": calls}, both) == every.page({}, both) == both
    assert every.page({}, every.PAGE.read_text("utf-8")) == every.PAGE.read_text("utf-8")


def test_every_measurement_on_the_page_is_recorded() -> None:
    recorded = json.loads(every.RECORDED.read_text("utf-8"))
    page = every.PAGE.read_text("utf-8")
    assert (
        list(recorded) == [name for name in every.BENCHES if f"`python -m bench.{name}`" in page] == list(every.BENCHES)
    )


def test_ratios_are_of_pairs_and_percentiles_of_what_there_is() -> None:
    assert ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == 3.0
    assert percentile([float(n) for n in range(100, 0, -1)], 0.99) == 100.0
    assert percentile([5.0], 0.99) == 5.0


@rows(("rounds", "between"), [(4, (1, 4)), (6, (1, 6)), (21, (6, 16)), (100, (40, 61))])
def test_a_median_is_told_with_what_the_sign_test_can_say_of_it(rounds: int, between: tuple[float, float]) -> None:
    """The ranks are those of every table of the sign test."""
    ratios = [float(rank) for rank in range(rounds, 0, -1)]
    assert certain(ratios, [1.0] * rounds) == between


@pytest.mark.parametrize(("least", "ok"), [(0.99, True), (1.0, True), (1.001, False)])
def test_what_has_to_be_no_later_is_missed_where_it_surely_is_later(least: float, ok: bool) -> None:
    reach = Reach("first call", 1.01, 1.0, between=(least, 1.02))
    assert reach.ok is ok
    assert str(reach).endswith(f"first call: 1.01 x (between {least:g} and 1.02), at most 1")
