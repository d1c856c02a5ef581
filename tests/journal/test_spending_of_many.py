"""`flux2-mcp spend` over very many tasks: the groups are what the tasks say, and no more is read and sorted than is needed."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import SpendingBy, SpendingGroup
from flux2_mcp.domain.lifecycle import Event, State
from flux2_mcp.journal.postgres import connection as pg
from flux2_mcp.journal.postgres.history import spending as in_postgres
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.journal.sql.people import Rows
from flux2_mcp.journal.sqlite.history import spending as in_sqlite
from tests.support import journals, postgres
from tests.support.journals import AT, Home, intent, new, steps

pytestmark = pytest.mark.anyio

PEOPLE = (None, "ada", "ben")
REQUESTS = [catalog.request(prompt="a dog", variant=variant) for variant in ("pro", "flex")]
UNPAID = {State.FAILED, State.REJECTED}
SINCE = AT - timedelta(days=30)


def summed(tasks: list[tuple[str | None, TaskRecord]], since: datetime | None) -> dict[str | None, SpendingGroup]:
    """The sums of each person, counted one by one."""
    found: dict[str | None, SpendingGroup] = {}
    for name in {name for name, _ in tasks}:
        theirs = [one for each, one in tasks if each == name and (since is None or one.created_at >= since)]
        paid = [one for one in theirs if one.state not in UNPAID]
        if theirs:
            found[name] = SpendingGroup(
                name=name,
                tasks=len(theirs),
                failed=len(theirs) - len(paid),
                open=sum(one.charged_usd is None for one in paid),
                unquoted=sum(one.quoted_usd is None for one in theirs),
                quoted_usd=sum((one.quoted_usd or Decimal(0) for one in theirs), Decimal(0)),
                charged_usd=sum((one.charged_usd or Decimal(0) for one in paid), Decimal(0)),
                models=frozenset(one.request.model for one in theirs),
            )
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_the_groups_are_what_the_tasks_say(home: Home, seed: int) -> None:
    journal, dice = home.journal(), Random(seed)  # noqa: S311  # the same each time
    tasks = list[tuple[str | None, TaskRecord]]()
    for number in range(24):
        person, key = dice.choice(PEOPLE), f"k{number}"
        theirs = journal if person is None else journal.of(person)
        at = SINCE + dice.choice([-1, 0, 1]) * dice.random() * timedelta(days=2)
        quoted = dice.choice([None, "0.03", "0.05"])
        (record,) = await new(theirs, intent(key, dice.choice(REQUESTS), quoted), at=at)
        way = dice.choice(["open", "refused", "failed", "charged", "untold"])
        if way == "refused":
            record = await steps(journal, key, Event.REFUSED, at=at)
        elif way != "open":
            await steps(journal, key, Event.ACCEPTED, at=at)
            event = Event.FAILED if way == "failed" else Event.COMPLETED
            record = await steps(journal, key, event, at=at, usd="0.07" if way in {"charged", "failed"} else None)
        tasks.append((person, record))
    for since in (None, SINCE, SINCE + timedelta(days=1)):
        found = await journal.history.spending(SpendingBy.PERSON, since)
        assert {group.name: group for group in found} == summed(tasks, since)
        assert [group.charged_usd for group in found] == sorted((group.charged_usd for group in found), reverse=True)
        for by in (SpendingBy.DAY, SpendingBy.VARIANT, SpendingBy.WORKSPACE):
            groups = await journal.history.spending(by, since)
            assert sum(group.charged_usd for group in groups) == sum(group.charged_usd for group in found)
            assert sum(group.tasks for group in groups) == sum(group.tasks for group in found)


async def test_a_month_reads_no_tasks_of_before_it_in_a_file(tmp_path: Path) -> None:
    async with journals.opened(tmp_path / "home") as home:
        await new(home.journal(), intent())
        for by in SpendingBy:
            sql = in_sqlite(Rows(journals.ACCOUNT), by, SINCE)
            values = {"account": journals.ACCOUNT, "since": 0, "models": "[]"}
            with home.connected() as connection:
                plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
            assert "SEARCH task USING INDEX task_recent (account=? AND created_at>?)" in plan


@pytest.mark.skipif(postgres.binaries() is None, reason="there is no PostgreSQL")
async def test_a_database_sorts_groups_and_no_tasks(tmp_path: Path) -> None:
    """So it needs no disk for it, and can use several processes."""
    async with journals.in_new_schema(tmp_path / "home") as home:
        journal = home.journal()
        await new(journal.of("ada"), intent("first"))
        columns = "account, state, request, digest, model, resolution, quoted, reserved, created_at, person"
        copied = (
            f"INSERT INTO task (key, {columns}) SELECT 'k' || i, {columns.removesuffix(', person')}, 'p' || i % 9"  # noqa: S608  # constants
            " FROM task, generate_series(1, 5000) AS i"
        )
        with home.connected() as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute(copied.encode())
        with pg.connected(home.url) as own:
            own.execute("ANALYZE task")
            own.execute("SET work_mem = '64kB'")
            for by in (SpendingBy.PERSON, SpendingBy.WORKSPACE, SpendingBy.VARIANT):
                sql = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {in_postgres(Rows(journals.ACCOUNT), by, SINCE)}"
                values: dict[str, pg.Given] = {
                    "account": journals.ACCOUNT,
                    "since": 0.0,
                    "models": list(catalog.all_models()),
                }
                (row,) = pg.Database(own).read(sql, values)
                told = row[0] if isinstance(row[0], list) else json.loads(row[0])
                assert told[0]["Plan"]["Temp Written Blocks"] == 0, by
