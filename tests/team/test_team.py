"""What many servers on one database must keep, at length: `make test-team`. `make test` has a thin part of each."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from bench import caps_race, kill, team_kill
from bench.rows import KINDS, journal
from flux2_mcp.sandbox.server import Sandbox
from tests.conftest import environment
from tests.support import postgres
from tests.support.stdio import LEGACY, Host

pytestmark = pytest.mark.skipif(postgres.binaries() is None, reason="there is no PostgreSQL")


def test_servers_that_are_killed_on_a_database_that_falls_over_lose_nothing_and_pay_nothing_twice(
    tmp_path: Path,
) -> None:
    report = kill.run(2 * len(kill.STEPS), 11, tmp_path, kind="postgres")
    assert report.crashes
    assert report.good, report


def test_a_server_whose_database_is_away_says_so_and_brings_its_task_to_the_end_when_it_is_back(tmp_path: Path) -> None:
    with postgres.cluster() as cluster, Sandbox(tmp_path / "runapi", speed=20, rate=None, seed=1) as runapi:
        env = environment(tmp_path) | {
            "FLUX2_JOURNAL_URL": cluster.url,
            "RUNAPI_API_KEY": runapi.api_key,
            "RUNAPI_BASE_URL": runapi.base_url,
        }
        with Host(env, LEGACY, cwd=str(tmp_path)) as host:
            made = host.call("generate", prompt="a red fox [sandbox:slow]", wait_seconds=0)
            ids = [task["task_id"] for task in made["structuredContent"]["tasks"]]
            cluster.stop()
            refused = host.call("generate", prompt="a blue fox")
            listed = host.call("check_task")
            cluster.start()
            done = host.call("check_task", task_ids=ids, wait_seconds=60)
            errors = host.close()
        assert [task["status"] for task in done["structuredContent"]["tasks"]] == ["completed"]
        assert (runapi.creates(), len(runapi.tasks())) == (1, 1)
    assert refused["isError"] is True
    assert listed["isError"] is True
    for said in (refused["content"][0]["text"], listed["content"][0]["text"]):
        assert "The journal's database (PostgreSQL at " in said
        assert "FLUX2_JOURNAL_URL" in said
    assert "Nothing was sent and nothing was charged." in refused["content"][0]["text"]
    assert "Traceback" not in errors


def test_replicas_that_are_killed_with_the_database_and_the_store_falling_over_keep_every_promise(
    tmp_path: Path,
) -> None:
    report = team_kill.run(6, 1, 1, 3, tmp_path, Decimal(3), takeover_seconds=60)
    assert (report.kills, report.stops, report.store_stops) == (6, 1, 1)
    assert report.takeovers.count + report.takeovers_while_away.count
    assert report.delivered
    assert not report.wrong, report


@pytest.mark.parametrize("kind", KINDS)
def test_replicas_at_the_edge_of_a_cap_never_pass_it_by_a_cent_and_leave_nothing_reserved(
    kind: str, tmp_path: Path
) -> None:
    with journal(kind, tmp_path) as rows:
        report = caps_race.run(
            tmp_path, rows, replicas=4, people=40, calls=800, cap=Decimal("0.50"), person_cap=Decimal("0.10")
        )
    assert report.good, report
