"""Each mutant still has its place in the code, and its tests are there. Whether they notice it, `make mutants` finds out."""

from __future__ import annotations

from collections import Counter

from tests.mutants.run import ROOT, SERVER, changed, table


def test_each_mutant_has_one_place_and_tests_that_are_there() -> None:
    for mutant in table():
        assert changed((ROOT / SERVER / mutant.file).read_text("utf-8"), mutant)
        assert mutant.tests
        assert [path for path in mutant.tests if not (ROOT / path).is_file()] == [], mutant.name


def test_no_two_mutants_share_a_name_and_each_says_what_breaks() -> None:
    mutants = table()
    assert [name for name, count in Counter(mutant.name for mutant in mutants).items() if count > 1] == []
    assert all(mutant.breaks and "|" not in mutant.breaks + mutant.name for mutant in mutants)
