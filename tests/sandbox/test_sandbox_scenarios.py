from __future__ import annotations

import math

from flux2_mcp.sandbox.scenarios import MODERATED, SCENARIOS, Fault, Script, markers, read, unknown
from tests.support.rows import rows


def test_each_marker_stands_once_in_the_table_and_says_what_it_does_in_one_sentence() -> None:
    names = [scenario.marker for scenario in SCENARIOS]
    assert len(set(names)) == len(names)
    assert all(scenario.does.endswith(".") and "\n" not in scenario.does for scenario in SCENARIOS)


def test_no_two_rows_of_the_table_do_the_same() -> None:
    assert len({scenario.script for scenario in SCENARIOS}) == len(SCENARIOS)


def test_no_row_of_the_table_does_nothing() -> None:
    assert Script() not in {scenario.script for scenario in SCENARIOS}


def test_a_prompt_without_markers_goes_well() -> None:
    assert read("a cat [sic], and sandbox: none") == Script()


@rows("scenario", SCENARIOS, ids=lambda scenario: scenario.marker)
def test_a_marker_anywhere_in_the_prompt_brings_its_row(scenario: object) -> None:
    row = next(row for row in SCENARIOS if row is scenario)
    assert read(f"a cat[sandbox:{row.marker}] on a mat") == row.script


def test_markers_are_found_in_order_and_each_once() -> None:
    assert markers("[sandbox:slow] a cat [sandbox:corrupt][sandbox:slow]") == ["slow", "corrupt"]


def test_strangers_are_named() -> None:
    assert unknown("[sandbox:slow] [sandbox:Slow] [sandbox:] [sandbox:a b]") == ["Slow", "", "a b"]


def test_several_markers_add_up() -> None:
    prompt = "".join(
        f"[sandbox:{name}]"
        for name in (
            "create_503",
            "rate_limited",
            "poll_html",
            "poll_503",
            "slow",
            "moderation",
            "corrupt",
            "no_usage",
            "hybrid",
        )
    )
    assert read(prompt) == Script(
        creates=(Fault.UNAVAILABLE, Fault.BUSY),
        polls=(Fault.PAGE, Fault.UNAVAILABLE, Fault.UNAVAILABLE),
        seconds=30.0,
        failure=MODERATED,
        truncated=True,
        usage=False,
        hybrid=True,
    )


def test_the_longest_duration_counts() -> None:
    assert read("[sandbox:stuck][sandbox:instant][sandbox:slow]").seconds == math.inf
