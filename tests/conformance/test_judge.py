"""What breaks `make conformance`, and the table it is held against."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conformance.judge import Check, Table, figures, problems
from tests.conformance.run import RUN_SECONDS, SKIPPED, table
from tests.support import forked

TABLE: Table = {"ping": {}, "logging": {"set-level": "deprecated"}, "skills": {"*": "not offered"}}
LISTED = ["ping", "logging", "skills"]
FINE = {
    "ping": [Check("ping", "SUCCESS")],
    "logging": [Check("set-level", "FAILURE", "Method not found"), Check("wire", "SUCCESS")],
    "skills": [Check("one", "SKIPPED"), Check("two", "SKIPPED"), Check("wire", "INFO")],
}


def test_what_is_as_the_table_says_is_no_problem() -> None:
    assert problems(TABLE, LISTED, FINE) == []
    assert figures(FINE) == "1 of 3 scenarios succeed in every check, and 3 of 6 checks altogether"


@pytest.mark.parametrize("status", ["FAILURE", "WARNING", "SKIPPED"])
def test_a_check_that_does_not_succeed_and_is_not_named_breaks_it(status: str) -> None:
    wrong = FINE | {"ping": [Check("ping", "SUCCESS"), Check("wire", status, "no result")]}
    assert problems(TABLE, LISTED, wrong) == [f"ping: wire: {status}: no result"]


def test_one_failure_of_two_under_one_name_breaks_it() -> None:
    wrong = FINE | {"ping": [Check("ping", "FAILURE", "in one era"), Check("ping", "SUCCESS")]}
    assert problems(TABLE, LISTED, wrong) == ["ping: ping: FAILURE: in one era"]


def test_a_check_that_is_named_and_succeeds_breaks_it() -> None:
    mended = FINE | {"logging": [Check("set-level", "SUCCESS")], "skills": [Check("one", "SUCCESS")]}
    assert problems(TABLE, LISTED, mended) == [
        "logging: set-level: named with a reason, and succeeds",
        "skills: *: named with a reason, and succeeds",
    ]


def test_a_new_scenario_breaks_it_and_so_does_one_that_is_gone_or_was_not_run() -> None:
    assert problems(TABLE, [*LISTED, "new"], FINE) == ["new: new in the suite; the table does not have it"]
    assert problems(TABLE, LISTED[1:], FINE) == ["ping: in the table, and the suite has no such scenario"]
    assert problems(TABLE, LISTED, {**FINE, "ping": []}) == ["ping: was not run"]


def test_the_table_names_both_versions_and_every_reason_is_used() -> None:
    found = table()
    assert set(found["suites"]) == set(found["runs"]) == {"0.1.16", "0.2.0-alpha.12"}
    used = {why for suite in found["suites"].values() for checks in suite.values() for why in checks.values()}
    assert used == set(found["reasons"])


def test_without_npm_the_target_says_so_and_is_not_taken_for_a_success(tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    root = Path(__file__).parents[2]
    code = f"import runpy, sys\nsys.path.insert(0, {str(root)!r})\nrunpy.run_module('tests.conformance.run', run_name='__main__')"
    done = forked.run([sys.executable, "-c", code], env, cwd=root, timeout=RUN_SECONDS)
    assert (done.returncode, done.stdout) == (SKIPPED, "conformance: skipped: npm is not installed\n"), done.stderr
