"""What was spent is kept as sums of hours, so that a cap reads no month of tasks: they are always what the tasks say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from flux2_mcp.domain.budget import Caps, SpentSums
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.domain.models import SANDBOX
from flux2_mcp.domain.people import Person
from flux2_mcp.journal.contract import Journal
from tests.support import journals
from tests.support.journals import AT, Home, PostgresHome, SqliteHome, intent, new, steps

pytestmark = pytest.mark.anyio

ALL = Caps(monthly_usd=Decimal(9), person_daily_usd=Decimal(9), person_monthly_usd=Decimal(9))
DAY, MONTH, HOUR = timedelta(hours=24), timedelta(days=30), timedelta(hours=1)
FULL_HOUR = AT.replace(minute=0, second=0, microsecond=0)
INSTANT = timedelta(microseconds=1)
ADA, BEN, IDLE = (Person(issuer="https://sso.example.com", subject=name) for name in ("ada", "ben", "idle"))
PEOPLE = [None, ADA, BEN]
Made = tuple[datetime, Person | None, Decimal]
"""When a task was made, whose it is, and what it counts."""


def journal_of(journal: Journal, person: Person | None) -> Journal:
    return journal if person is None else journal.of(person.key)


async def made(journal: Journal, key: str, at: datetime, person: Person | None, dice: Random) -> Made:
    """A task that has come so far as it may have: reserved, charged with that, with less or with more, or failed."""
    usd, theirs = dice.choice(["0.03", "0.05", "0.07"]), journal_of(journal, person)
    (record,) = await new(theirs, intent(key, usd=usd), at=at)
    way = dice.choice(["open", "failed", "charged"])
    if way != "open":
        charged = dice.choice(["0.01", usd, "0.09"])
        await steps(journal, key, Event.ACCEPTED, at=at)
        event = Event.FAILED if way == "failed" else Event.COMPLETED
        record = await steps(journal, key, event, at=at, usd=None if way == "failed" else charged)
    return at, person, record.counted_usd


def summed(tasks: list[Made], at: datetime, length: timedelta, whose: Callable[[Person | None], bool]) -> Decimal:
    return sum((usd for when, person, usd in tasks if when > at - length and whose(person)), Decimal(0))


def expected(tasks: list[Made], at: datetime, person: Person | None) -> SpentSums:
    def theirs(one: Person | None) -> bool:
        return one == person

    def anybodys(_: Person | None) -> bool:
        return True

    return SpentSums(
        daily_usd=summed(tasks, at, DAY, anybodys),
        monthly_usd=summed(tasks, at, MONTH, anybodys),
        person_daily_usd=None if person is None else summed(tasks, at, DAY, theirs),
        person_monthly_usd=None if person is None else summed(tasks, at, MONTH, theirs),
        member=person is not None,
    )


async def test_a_rolling_day_and_a_rolling_month_are_exact_at_every_moment(home: Home) -> None:
    journal, dice = home.journal(), Random(5)  # noqa: S311  # the same each time
    moments = [AT, FULL_HOUR, FULL_HOUR - INSTANT, FULL_HOUR + INSTANT]
    times = [
        at - length + more for at in moments for length in (DAY, MONTH) for more in (-INSTANT, 0 * INSTANT, INSTANT)
    ]
    times += [AT - dice.random() * (MONTH + 2 * HOUR) for _ in range(30)] + [AT - HOUR, AT, AT + 2 * DAY]
    tasks = [await made(journal, f"k{number}", at, dice.choice(PEOPLE), dice) for number, at in enumerate(times)]
    await new(home.journal("sandboxes", account=SANDBOX), intent("sandbox", usd="1.00"))
    looked = [
        *moments,
        *(at + length + more for at in times[::5] for length in (DAY, MONTH) for more in (-INSTANT, 0 * INSTANT)),
    ]
    for at in looked:
        for person in PEOPLE:
            found = await journal_of(journal, person).money.spent(at=at, session=None, caps=ALL)
            assert found == expected(tasks, at, person), (at, person)


async def test_what_each_person_has_spent_is_one_question(home: Home) -> None:
    journal, dice, tasks = home.journal(), Random(7), list[Made]()  # noqa: S311  # as above
    for person in (ADA, BEN, IDLE):
        await journal.people.meet(person, at=AT)
    assert await journal.money.of_people(at=AT) == {one.key: (Decimal(0), Decimal(0)) for one in (ADA, BEN, IDLE)}
    for number in range(24):
        at = AT - dice.choice([DAY, MONTH]) + dice.choice([-1, 1]) * dice.random() * 2 * HOUR
        tasks.append(await made(journal, f"k{number}", at, dice.choice(PEOPLE), dice))
    await new(home.journal("sandboxes", account=SANDBOX).of(IDLE.key), intent("sandbox", usd="1.00"))
    sums = {one.key: expected(tasks, AT, one) for one in (ADA, BEN, IDLE)}
    assert await journal.money.of_people(at=AT) == {
        key: (each.person_daily_usd, each.person_monthly_usd) for key, each in sums.items()
    }
    with connected(home) as connection:  # what a lost file held may have been anybody's
        lost = f"INSERT INTO lost (name, found_at, missing) VALUES ('lost', {AT.timestamp()}, 250000)"  # noqa: S608  # a number
        connection.execute(lost)
    counted = await journal.of(BEN.key).money.spent(at=AT, session=None, caps=ALL)
    assert (await journal.money.of_people(at=AT))[BEN.key] == (counted.person_daily_usd, counted.person_monthly_usd)
    assert counted.person_daily_usd == (sums[BEN.key].person_daily_usd or 0) + Decimal("0.25")


def connected(home: Home) -> AbstractContextManager[Any]:
    assert isinstance(home, SqliteHome | PostgresHome)
    return home.connected()


COUNTED = "CASE WHEN state IN ('failed', 'rejected') THEN 0 ELSE coalesce(charged, reserved, quoted, 0) END"
RECOUNTED = f"""
SELECT account = 'sandbox', whose, floor(created_at / 3600), sum({COUNTED})
FROM (SELECT task.*, '' AS whose FROM task UNION ALL SELECT task.*, person FROM task WHERE person IS NOT NULL) AS each
GROUP BY 1, 2, 3 HAVING sum({COUNTED}) <> 0 ORDER BY 1, 2, 3
"""  # noqa: S608  # constants of this module
KEPT = "SELECT sandbox, whose, hour, usd FROM spent WHERE usd <> 0 ORDER BY 1, 2, 3"
WRITES = (
    "UPDATE task SET charged = 90000",
    "UPDATE task SET state = 'failed' WHERE key = 'k2'",
    "UPDATE task SET state = 'submitted'",
    "UPDATE task SET charged = NULL",
    "UPDATE task SET reserved = 10000",
    "UPDATE task SET reserved = NULL",
    "UPDATE task SET quoted = 20000",
    "UPDATE task SET person = 'somebody' WHERE key IN ('k0', 'k4')",
    "UPDATE task SET person = NULL WHERE key = 'k5'",
    "UPDATE task SET account = 'sandbox' WHERE key IN ('k5', 'k6')",
    "UPDATE task SET created_at = created_at - 7200 WHERE key = 'k7'",
    "DELETE FROM task WHERE key IN ('k7', 'k8')",
    "DELETE FROM task",
)
"""As an earlier version, which does not know of the sums, or whoever repairs the tables by hand."""


def recounted(connection: Any) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:  # noqa: ANN401  # of either database
    return connection.execute(KEPT).fetchall(), connection.execute(RECOUNTED).fetchall()


async def test_whoever_writes_tasks_the_sums_are_what_the_tasks_say(home: Home) -> None:
    journal, dice = home.journal(), Random(11)  # noqa: S311  # as above
    for number in range(9):
        await made(journal, f"k{number}", AT - number * HOUR / 2, PEOPLE[number % 3], dice)
    with connected(home) as connection:
        kept, counted = recounted(connection)
        assert kept == counted
        assert {row[1] for row in kept} == {"", ADA.key, BEN.key}
        for write in WRITES:
            connection.execute(write)
            kept, counted = recounted(connection)
            assert kept == counted, write
        assert kept == []


@pytest.mark.parametrize(
    ("kind", "forgotten"),
    [
        (journals.opened, [f"DROP TRIGGER task_spent_{name}" for name in ("more", "less", "anew")]),
        (
            journals.in_new_schema,
            ["DROP FUNCTION task_spent() CASCADE", "DROP INDEX task_sums_of_person, task_uncounted"],
        ),
    ],
)
async def test_tasks_of_before_there_were_sums_count(
    kind: Callable[[Path], Any], forgotten: list[str], tmp_path: Path
) -> None:
    dice = Random(13)  # noqa: S311  # as above
    async with kind(tmp_path / "home") as home:
        before = home.journal("before")
        tasks = [await made(before, f"k{number}", AT - number * DAY, PEOPLE[number % 3], dice) for number in range(35)]
        await before.close()
        with connected(home) as connection:
            for sql in (*forgotten, "DROP TABLE spent", "DELETE FROM migration WHERE name = 'spent'"):
                connection.execute(sql)
        after = home.journal("after")
        for person in PEOPLE:
            found = await journal_of(after, person).money.spent(at=AT, session=None, caps=ALL)
            assert found == expected(tasks, AT, person)


async def test_a_task_without_a_valid_time_counts_against_every_cap(tmp_path: Path) -> None:
    async with journals.opened(tmp_path / "home") as home:
        journal = home.journal()
        await new(journal.of(ADA.key), intent("k", usd="0.05"), at=AT - 2 * MONTH)
        assert (await journal.money.spent(at=AT, session=None, caps=ALL)).monthly_usd == 0
        with home.connected() as connection:
            connection.execute("UPDATE task SET created_at = 'yesterday'")
        found = await journal.of(ADA.key).money.spent(at=AT, session=None, caps=ALL)
        assert (found.daily_usd, found.monthly_usd, found.person_monthly_usd) == (Decimal("0.05"),) * 3
