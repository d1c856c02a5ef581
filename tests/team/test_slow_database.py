"""A database that takes 2 s for each statement, and one that is away for a minute: a server answers, says what is wrong, goes on.

What a client sends is 2 s on its way (`PgProxy`). The bounds are multiples of that time, and the deadline of the tests beside it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flux2_mcp.sandbox.server import Sandbox
from tests.support import postgres
from tests.support.pg_proxy import PgProxy
from tests.support.provider import Provider
from tests.support.stdio import DEADLINE, MODERN
from tests.support.team import Team, team_environment, until

DELAY_SECONDS = 2.0
AWAY_SECONDS = 60.0
LISTED_SECONDS = 10 * DELAY_SECONDS + DEADLINE
"""A list is answered within this time."""
WAIT_SECONDS = 45
MADE_SECONDS = WAIT_SECONDS + 5 * DELAY_SECONDS + DEADLINE
"""A call that waits `WAIT_SECONDS` is answered within this time."""
SLOW = re.compile(r"slow, takes \d\.\d s for a statement")


@pytest.fixture
def runapi(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "elsewhere", speed=50, rate=None, seed=1) as runapi:
        yield runapi


@pytest.fixture
def database() -> Iterator[PgProxy]:
    with PgProxy(postgres.shared().with_schema()) as database:
        yield database


def environment(tmp_path: Path, runapi: Sandbox, database: PgProxy) -> dict[str, str]:
    tmp_path.mkdir(exist_ok=True)
    return team_environment(
        tmp_path,
        RUNAPI_API_KEY=runapi.api_key,
        RUNAPI_BASE_URL=runapi.base_url,
        FLUX2_JOURNAL_URL=database.url,
        FLUX2_PERSON_DAILY_BUDGET_USD="5",
        FLUX2_LOG="info",
    )


def timed(team: Team, name: str, most: float, **arguments: object) -> list[dict[str, Any]]:
    """The tasks of an answer, which comes within so many seconds."""
    team.http.timeout = most
    tasks: list[dict[str, Any]] = team.tool(MODERN, name, **arguments)["structuredContent"]["tasks"]
    return tasks


def test_with_two_seconds_a_statement_it_answers_in_time_says_what_is_wrong_and_makes_a_picture_once(
    tmp_path: Path, runapi: Sandbox, database: PgProxy
) -> None:
    with Provider() as provider, Team(environment(tmp_path, runapi, database), provider) as team:
        timed(team, "generate", DEADLINE, prompt="a violet fox", preview=False, wait_seconds=20)
        database.delay_seconds = DELAY_SECONDS
        until(lambda: SLOW.fullmatch(team.http.get("/readyz").json()["checks"]["journal"]) is not None)
        ready = team.http.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["runapi"]) == (200, "ok")
        assert len(timed(team, "check_task", LISTED_SECONDS, limit=1)) == 1
        call = {"prompt": "a slow boat", "preview": False, "idempotency_key": "boat", "wait_seconds": WAIT_SECONDS}
        (made,) = timed(team, "generate", MADE_SECONDS, **call)
        assert made["task_id"]
        (done,) = timed(team, "check_task", 90 + MADE_SECONDS, task_ids=["boat"], wait_seconds=90)
        assert (done["status"], done["prompt"]) == ("completed", "a slow boat")
        assert runapi.creates() == 2
        database.delay_seconds = 0.0
        until(lambda: team.http.get("/readyz").json()["checks"]["journal"] == "ok")
        (again,) = timed(team, "generate", DEADLINE, **call)
        assert again["task_id"] == done["task_id"]
        timed(team, "generate", DEADLINE, prompt="a fast boat", preview=False, wait_seconds=20)
        assert (runapi.creates(), len(runapi.tasks())) == (3, 3)
        said = team.stop()
    assert said.count("the journal's database is slow") == said.count("the journal's database is no longer slow") == 1
    assert "leases not renewed" not in said
    assert "Traceback" not in said


def test_two_servers_on_a_slow_database_take_no_task_from_each_other(
    tmp_path: Path, runapi: Sandbox, database: PgProxy
) -> None:
    env, more = environment(tmp_path / "one", runapi, database), environment(tmp_path / "two", runapi, database)
    with Provider() as provider, Team(env, provider) as one, Team(more, provider) as two:
        for team in (one, two):
            timed(team, "generate", DEADLINE, prompt="a violet fox", preview=False, wait_seconds=20)
        database.delay_seconds = DELAY_SECONDS
        ids = [
            timed(team, "generate", MADE_SECONDS, prompt=f"{prompt} [sandbox:stuck]", preview=False, wait_seconds=30)[0]
            for team, prompt in ((one, "a grey owl"), (two, "a green frog"))
        ]
        wanted = [each["task_id"] for each in ids]
        found = timed(one, "check_task", MADE_SECONDS, task_ids=wanted, wait_seconds=WAIT_SECONDS)
        assert [each["status"] for each in found] == ["processing", "processing"]
        assert runapi.creates() == 4
        first, second = one.stop(), two.stop()
    assert not re.search("taken over|let go", first)
    assert second.count("taken over") <= 1  # what the first one has left at its end
    assert "let go" not in second


def test_a_database_that_is_away_for_a_minute_is_named_and_all_goes_on_when_it_is_back(
    tmp_path: Path, runapi: Sandbox, database: PgProxy
) -> None:
    with Provider() as provider, Team(environment(tmp_path, runapi, database), provider) as team:
        call = {"prompt": "a grey owl [sandbox:slow]", "preview": False, "wait_seconds": 0}
        (made,) = timed(team, "generate", DEADLINE, **call)
        database.lost = True
        database.cut()
        back = time.monotonic() + AWAY_SECONDS
        while time.monotonic() < back:
            refused = team.tool(MODERN, "generate", prompt="a green frog")
            assert refused["isError"]
            assert "The journal's database" in refused["content"][0]["text"]
            assert "Nothing was sent and nothing was charged." in refused["content"][0]["text"]
            assert team.http.get("/healthz").status_code == 200
            assert team.http.get("/readyz").json()["checks"]["journal"] == "can't be read"
            time.sleep(2)
        database.lost = False
        until(lambda: team.http.get("/readyz").status_code == 200)
        (done,) = timed(team, "check_task", 120.0, task_ids=[made["task_id"]], wait_seconds=60)
        assert done["status"] == "completed"
        assert (runapi.creates(), len(runapi.tasks())) == (1, 1)
        timed(team, "generate", DEADLINE, prompt="a violet fox", preview=False, wait_seconds=20)
        said = team.stop()
    assert "Traceback" not in said
