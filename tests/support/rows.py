"""Rows that share a reason are one test, which goes through all of them and tells each that failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

Row = Callable[[object], AbstractContextManager[None]]


@contextmanager
def each_row() -> Iterator[Row]:
    """Collects what fails within `with row(NAME):`, and fails with all of it at the end, each with its name.

    A row of its own for the runner costs 10 ms where several processes run the tests, and this some microseconds.
    """
    failed: list[BaseException] = []

    @contextmanager
    def row(name: object) -> Iterator[None]:
        try:
            yield
        except (Exception, pytest.fail.Exception) as exc:  # noqa: BLE001  # whatever a test fails with
            exc.add_note(f"Row: {name}")
            failed.append(exc)

    yield row
    if failed:
        raise BaseExceptionGroup(f"{len(failed)} rows failed", failed)
