"""What many servers on one database must keep, at length: `make test-team`. `make test` has a thin part of each."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from bench import caps_race, kill
from bench.rows import KINDS, journal
from tests.support import postgres

pytestmark = pytest.mark.skipif(postgres.binaries() is None, reason="there is no PostgreSQL")


def test_servers_that_are_killed_on_a_database_that_falls_over_lose_nothing_and_pay_nothing_twice(
    tmp_path: Path,
) -> None:
    report = kill.run(2 * len(kill.STEPS), 11, tmp_path, kind="postgres")
    assert report.crashes
    assert report.good, report


@pytest.mark.parametrize("kind", KINDS)
def test_replicas_at_the_edge_of_a_cap_never_pass_it_by_a_cent_and_leave_nothing_reserved(
    kind: str, tmp_path: Path
) -> None:
    with journal(kind, tmp_path) as rows:
        report = caps_race.run(tmp_path, rows, replicas=4, people=40, calls=800, cap=Decimal("0.50"))
    assert report.good, report
