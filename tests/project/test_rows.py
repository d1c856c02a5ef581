"""What `tests/support/rows.py` promises: a table is one test, and fails with every row that does."""

from __future__ import annotations

import inspect

import pytest

from tests.support.rows import rows


def test_every_row_is_run_and_each_that_fails_is_named() -> None:
    seen = []

    @rows("second", [False, True])
    @rows(("first", "text"), [(1, "a"), pytest.param(2, "b", id="the two"), (3, "c")])
    def one(first: int, text: str, second: bool, fixture: str) -> None:  # as pytest gives it
        seen.append((first, text, second, fixture))
        assert first != 2

    assert [*inspect.signature(one).parameters] == ["fixture"]
    with pytest.raises(BaseExceptionGroup) as failed:
        one(fixture="given")  # type: ignore[call-arg]  # the rows give the rest
    assert len(seen) == 6
    assert {each[3] for each in seen} == {"given"}
    (row, _) = failed.value.exceptions
    assert isinstance(row, BaseExceptionGroup)
    assert row.exceptions[0].__notes__ == ["Row: the two"]


@rows("number", [1, 2])
@pytest.mark.anyio
async def test_a_test_that_awaits_may_have_rows(number: int) -> None:
    assert number


def test_a_row_has_no_marks_and_as_many_values_as_names() -> None:
    with pytest.raises(AssertionError):
        rows("one", [pytest.param(1, marks=pytest.mark.deep)])
    with pytest.raises(AssertionError):
        rows(("one", "two"), [(1, 2, 3)])
