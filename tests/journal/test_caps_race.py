"""Processes at the edge of a cap: the thin part of `bench.caps_race`."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from bench import caps_race
from bench.rows import KINDS, DatabaseRows, FileRows
from tests.support import postgres
from tests.support.deep import deep_but


@pytest.mark.parametrize("kind", deep_but(KINDS, "postgres"))
def test_processes_at_the_edge_of_a_cap_never_pass_it_by_a_cent_and_leave_nothing_reserved(
    kind: str, tmp_path: Path
) -> None:
    rows = FileRows(tmp_path) if kind == "sqlite" else DatabaseRows(postgres.shared().with_schema())
    report = caps_race.run(
        tmp_path, rows, replicas=2, people=8, calls=48, cap=Decimal("0.30"), person_cap=Decimal("0.08")
    )
    assert report.good, report
