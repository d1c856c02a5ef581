"""The page about the soak and about a team's servers says what the runs measured, and the verdict sees what is wrong."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from bench import team_report
from bench.soak import DOCS, SOAK, TEAM, Report, page
from tests.support.rows import rows

TOLD: dict[str, Any] = json.loads((DOCS / SOAK).read_text("utf-8"))
OF_TEAM = team_report.read(json.loads((DOCS / TEAM).read_text("utf-8")))


def test_the_page_is_the_two_runs_and_nothing_else() -> None:
    assert (DOCS / "reliability.md").read_text("utf-8") == page(TOLD) + team_report.page(OF_TEAM)
    assert OF_TEAM.reached
    assert not OF_TEAM.wrong
    assert set(TOLD) == {field.name for field in fields(Report)}
    assert Report(**TOLD).wrong() == []


@rows(
    ("worse", "named"),
    [
        ({"made_twice": 1}, ["made_twice"]),
        ({"answered_but_unknown": 1}, ["answered_but_unknown"]),
        ({"completed_but_not_delivered": 1}, ["completed_but_not_delivered"]),
        ({"broken_files": 1, "other_files": 2}, ["broken_files", "other_files"]),
        ({"ends": {"delivered": 3, "submitted": 1}}, ["left submitted"]),
        ({"integrity": "row 3 missing"}, ["integrity"]),
        ({"memory_kb": [1, 100, 111]}, ["memory"]),
        ({"descriptors": [1, 12, 16]}, ["descriptors"]),
    ],
)
def test_a_run_that_went_wrong_says_what_was_wrong(worse: dict[str, Any], named: list[str]) -> None:
    assert Report(**(TOLD | worse)).wrong() == named
    assert f"**wrong: {', '.join(named)}**" in page(TOLD | worse)
