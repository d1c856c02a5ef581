"""Rows that share a reason are one test, which goes through all of them and tells each that failed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import pytest

Row = Callable[[object], AbstractContextManager[None]]
Test = TypeVar("Test", bound=Callable[..., Any])


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


def rows(
    names: str | Sequence[str], table: Iterable[object], *, ids: Callable[[Any], object] | Iterable[str] | None = None
) -> Callable[[Test], Test]:
    """As `pytest.mark.parametrize`, but the whole table is one test: for rows that leave nothing behind for the next.

    A fixture is that of the test, and so the same one for all rows. `ids` names each value or lists the rows' names; so does the
    `id` of a `pytest.param`.
    """
    arguments = [names] if isinstance(names, str) else [*names]
    listed = [_named(each, len(arguments), ids if callable(ids) else None) for each in table]
    if ids is not None and not callable(ids):
        listed = [(name, values) for name, (_, values) in zip(ids, listed, strict=True)]

    def decorate(test: Test) -> Test:
        signature = inspect.signature(test)

        def merged(given: dict[str, Any]) -> Iterator[tuple[object, dict[str, Any]]]:
            for name, values in listed:
                yield name, given | dict(zip(arguments, values, strict=True))

        @functools.wraps(test)
        def run(**given: Any) -> None:  # noqa: ANN401  # whatever fixtures are
            with each_row() as row:
                for name, all_of_them in merged(given):
                    with row(name):
                        test(**all_of_them)

        @functools.wraps(test)
        async def run_async(**given: Any) -> None:  # noqa: ANN401  # whatever fixtures are
            with each_row() as row:
                for name, all_of_them in merged(given):
                    with row(name):
                        await test(**all_of_them)

        whole: Any = run_async if inspect.iscoroutinefunction(test) else run
        left = [each for name, each in signature.parameters.items() if name not in arguments]
        whole.__signature__ = signature.replace(parameters=left)
        decorated: Test = whole
        return decorated

    return decorate


def _named(given: object, count: int, ids: Callable[[Any], object] | None) -> tuple[object, list[Any]]:
    """A row's name and values."""
    row: Any = given
    name = None
    if type(row) is type(pytest.param()):
        assert not row.marks, "a row of one test has no marks of its own"
        name, row = row.id, row.values if count > 1 else row.values[0]
    values = [row] if count == 1 else [*row]
    assert len(values) == count, values
    return name or (values if ids is None else [*map(ids, values)]), values
