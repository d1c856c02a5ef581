"""Tables of which `make test` runs a thin part and `make test-deep` the whole."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import hypothesis
import pytest


def deep_but(names: Iterable[object], *kept: object) -> list[Any]:
    """The same for one argument."""
    return [name if name in kept else pytest.param(name, marks=pytest.mark.deep) for name in names]


def thin(rows: Iterable[Sequence[Any]], *, kept: Collection[Sequence[Any]]) -> list[Any]:
    """All rows as `parametrize` takes them; those that are not in `kept` are marked deep."""
    rows, kept = [tuple(row) for row in rows], {tuple(row) for row in kept}
    assert kept <= set(rows), kept - set(rows)
    return [row if row in kept else pytest.param(*row, marks=pytest.mark.deep) for row in rows]


def few(examples: int) -> hypothesis.settings:
    """So many examples of what is dear to make; in `make fuzz` as many as of all else."""
    return hypothesis.settings() if os.environ.get("FLUX2_TESTS_FUZZ") else hypothesis.settings(max_examples=examples)
