"""The contract's suite: the audit of a team. It can't differ from the tasks, and nothing in it is changed or deleted."""

from __future__ import annotations

import re
import sqlite3
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from flux2_mcp.domain.audit import MAX_CLIENT_CHARS, AuditEntry, AuditFilter, What, printable
from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.domain.people import Person
from flux2_mcp.errors import BudgetError, InvalidRequestError, JournalError
from flux2_mcp.journal.contract import Journal
from tests.support.journals import (
    AT,
    CAT,
    NO_CAPS,
    Home,
    PostgresHome,
    SqliteHome,
    in_new_schema,
    intend,
    intent,
    new,
    opened,
    steps,
)

pytestmark = pytest.mark.anyio

ADA, BEN = (Person(issuer="https://sso.example.com", subject=name).key for name in ("ada", "ben"))
EVERY = AuditFilter()
FIVE = Decimal("0.05")
CALL: dict[str, Any] = {"client": "claude-code 2.1.0", "address": "203.0.113.7"}
DOCS = Path(__file__).parents[2] / "docs/team.md"


async def audit(journal: Journal, **wanted: Any) -> tuple[AuditEntry, ...]:  # noqa: ANN401  # AuditFilter's own fields
    return await journal.audit.entries(AuditFilter(**wanted), limit=99)


def asked(person: str = ADA, **more: Any) -> AuditEntry:  # noqa: ANN401  # AuditEntry's own fields
    known: dict[str, Any] = {"at": AT, "what": "generate", "person": person, "task": "k", "usd": FIVE}
    return AuditEntry(**known | CALL | more)


async def test_each_task_of_a_person_has_an_entry_once_and_that_of_nobody_has_none(home: Home) -> None:
    journal = home.journal()
    ada = journal.of(ADA, **CALL)
    await new(ada, intent("k"))
    for _ in range(2):  # the same key again costs nothing
        await new(ada, intent("k"), intent("k2", usd="0.07"), intent("k2.1", follows="k2", usd="0.03"))
    assert (await intend(ada, intent("another"), join=True)).joined
    await new(journal, intent("nobodys"))
    await new(journal.of(BEN, sees_all=True), intent("b", usd=None))
    assert await audit(home.journal("b", account="runapi.ai:ba9876543210")) == (
        asked(BEN, task="b", usd=None, client=None, address=None),
        asked(task="k2.1", usd=Decimal("0.03")),
        asked(task="k2", usd=Decimal("0.07")),
        asked(),
    )


async def test_the_entry_has_what_the_task_reserves_also_where_that_is_more_than_the_quote(home: Home) -> None:
    ada = home.journal().of(ADA, **CALL)
    await new(ada, intent("k"))
    await steps(ada, "k", Event.ACCEPTED, Event.COMPLETED, usd="0.09")
    await new(ada, intent("k2"))
    assert (await audit(ada))[0].usd == Decimal("0.09")


@pytest.mark.parametrize(
    ("caps", "cap"),
    [
        (Caps(call_usd=Decimal("0.01")), "FLUX2_MAX_COST_USD"),
        (Caps(daily_usd=Decimal("0.01")), "FLUX2_DAILY_BUDGET_USD"),
        (Caps(monthly_usd=Decimal("0.01")), "FLUX2_MONTHLY_BUDGET_USD"),
        (Caps(person_daily_usd=Decimal("0.01")), "FLUX2_PERSON_DAILY_BUDGET_USD"),
    ],
)
async def test_what_a_cap_refuses_has_one_entry_with_the_cap_and_the_price_of_the_call(
    home: Home, caps: Caps, cap: str
) -> None:
    ada = home.journal().of(ADA, **CALL)
    assert (await intend(ada, intent("k"), intent("k2"), caps=caps)).over is not None
    assert await audit(ada) == (asked(task=None, usd=Decimal("0.10"), allowed=False, cap=cap),)
    assert (await intend(home.journal("b"), intent("nobodys"), caps=caps)).over is not None or cap.startswith(
        "FLUX2_PERSON"
    )
    assert len(await audit(ada)) == 1


async def test_a_call_without_a_known_price_is_refused_by_no_cap_in_particular(home: Home) -> None:
    ada = home.journal().of(ADA, **CALL)
    with pytest.raises(BudgetError, match="Nobody publishes a price"):
        await intend(ada, intent("k", usd=None), intent("k2", usd=None), caps=Caps(daily_usd=Decimal(9)))
    assert await audit(ada) == (asked(task=None, usd=Decimal(0), allowed=False),)
    with pytest.raises(InvalidRequestError, match="was used for another request"):
        await new(home.journal().of(BEN), *await new_then_other(ada))
    unless = BudgetError("The user was not asked.")
    with pytest.raises(BudgetError, match="was not asked"):
        await ada.tasks.intend([intent("k4")], at=AT, caps=NO_CAPS, join=False, in_flight=9, unless=unless)
    assert len(await audit(ada, refused=True)) == 1  # neither of these is a matter of money that is not there


async def new_then_other(journal: Journal) -> list[Any]:
    await new(journal, intent("k3"))
    return [intent("k3")]


async def test_a_later_step_has_an_entry_when_its_turn_comes_whoever_does_the_work(home: Home) -> None:
    journal = home.journal()
    ada = journal.of(ADA, **CALL)
    _, step = await new(ada, intent("k", client="claude-code"), intent("k.1", follows="k", client="claude-code"))
    _, nobodys = await new(journal, intent("n"), intent("n.1", follows="n"))
    source = replace(CAT, source_image_urls=("https://example.com/a.png",))
    later = AT + timedelta(minutes=1)
    over = Caps(person_daily_usd=Decimal("0.06"))
    with pytest.raises(BudgetError, match="used up"):
        await journal.tasks.supply(step, source, at=later, caps=over)
    for each in (step, nobodys):
        for _ in range(2):  # as where the connection broke after the first time
            await journal.tasks.supply(each, source, at=later, caps=NO_CAPS)
    entry = AuditEntry(at=later, what=What.STEP, person=ADA, client="claude-code", task="k.1", usd=FIVE)
    refused = replace(entry, allowed=False, cap="FLUX2_PERSON_DAILY_BUDGET_USD")
    assert (await audit(journal))[:-2] == (entry, refused)


@pytest.fixture(params=["postgres", "sqlite"])
async def own_home(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[PostgresHome | SqliteHome]:
    """A home whose tables the test may change."""
    async with (in_new_schema if request.param == "postgres" else opened)(tmp_path / "home") as home:
        yield home


FULL: dict[type[Home], tuple[Any, Any]] = {
    PostgresHome: (
        "CREATE TRIGGER full_disk BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION audit_kept()",
        "DROP TRIGGER full_disk ON audit",
    ),
    SqliteHome: (
        "CREATE TRIGGER full_disk BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END",
        "DROP TRIGGER full_disk",
    ),
}
"""Lets no entry be written, and lets it again."""


async def test_a_task_that_can_not_be_written_has_no_entry_and_without_an_entry_there_is_no_task(
    own_home: PostgresHome | SqliteHome,
) -> None:
    journal = own_home.journal()
    ada = journal.of(ADA, **CALL)
    await new(ada, intent("k"))
    with pytest.raises(InvalidRequestError):
        await new(ada, intent("k2"), intent("k", replace(CAT, prompt="a dog")))
    assert [entry.task for entry in await audit(ada)] == ["k"]
    closed, opened_again = FULL[type(own_home)]
    with own_home.connected() as connection:
        connection.execute(closed)
    with pytest.raises(JournalError):
        await new(ada, intent("k3"))
    with pytest.raises(JournalError):
        await journal.audit.note([shown("list", ADA, 0)])
    with pytest.raises(JournalError, match="What the team's audit must know of this call") as caught:
        await intend(ada, intent("k4"), caps=Caps(call_usd=Decimal(0)))
    assert caught.value.cost == "Nothing was sent and nothing was charged."
    await new(journal, intent("nobodys"))
    with own_home.connected() as connection:
        connection.execute(opened_again)
    assert await journal.tasks.find(["k2", "k3", "k4"]) == ()
    assert [entry.task for entry in await audit(ada)] == ["k"]


async def test_caps_of_a_person_that_change_have_an_entry_each_and_those_that_stay_have_none(home: Home) -> None:
    journal = home.journal()
    for name in ("ada", "ben"):
        await journal.people.meet(Person(issuer="https://sso.example.com", subject=name), at=AT)
    assert await journal.people.cap(ADA, daily_usd=Decimal(5), monthly_usd=Decimal(60), at=AT)
    assert await journal.people.cap(ADA, daily_usd=Decimal(5), monthly_usd=None, at=AT)
    assert not await journal.people.cap("nobody", daily_usd=Decimal(5), monthly_usd=None, at=AT)
    daily = AuditEntry(at=AT, what="caps", whose=ADA, usd=Decimal(5), cap="FLUX2_PERSON_DAILY_BUDGET_USD")
    monthly = replace(daily, usd=Decimal(60), cap="FLUX2_PERSON_MONTHLY_BUDGET_USD")
    assert await audit(journal) == (replace(monthly, usd=None), monthly, daily)
    assert await audit(journal, person=ADA) == await audit(journal)
    assert await audit(journal, person=BEN) == ()


def shown(what: str, person: str, minutes: int, **more: Any) -> AuditEntry:  # noqa: ANN401  # AuditEntry's own fields
    return AuditEntry(at=AT + timedelta(minutes=minutes), what=what, person=person, **more)


async def test_entries_are_found_by_time_person_task_and_refusal_newest_first(home: Home) -> None:
    journal = home.journal()
    entries = (
        shown("list", ADA, 0),
        shown("image", ADA, 3, task="k"),
        shown("generate", BEN, 1, allowed=False, cap="FLUX2_DAILY_BUDGET_USD", usd=FIVE),
        shown("task", BEN, 4, task="k", whose=ADA),
        shown("list", BEN, 4),
    )
    await journal.audit.note(())
    await journal.audit.note(entries[:2])
    await journal.audit.note(entries[2:])
    first, image, refused, looked, last = entries
    assert await audit(journal) == (last, looked, image, refused, first)
    assert await journal.audit.entries(EVERY, limit=2) == (last, looked)
    assert await audit(journal, since=AT + timedelta(minutes=3)) == (last, looked, image)
    assert await audit(journal, person=ADA) == (looked, image, first)
    assert await journal.audit.entries(AuditFilter(person=ADA), limit=1) == (looked,)
    assert await audit(journal, task="k") == (looked, image)
    assert await audit(journal, refused=True) == (refused,)
    assert await audit(journal, person=BEN, refused=True, since=AT) == (refused,)
    assert await audit(journal, person=ADA, task="k", since=AT + timedelta(minutes=4)) == (looked,)


async def test_what_a_client_says_of_itself_is_cut_and_can_not_steer(home: Home) -> None:
    journal = home.journal()
    await new(journal.of(ADA, client="a\x1b[31m\ud800\u202eb\n\tc " + "x" * 500, address="203.0.113.7\0"), intent("k"))
    (entry,) = await audit(journal)
    assert (entry.client, entry.address) == ("a[31mb c " + "x" * (MAX_CLIENT_CHARS - 9), "203.0.113.7")
    assert (printable("\n\0 ", 9), printable(None, 9)) == (None, None)


# --- nothing is changed or deleted ------------------------------------------------------------------------------------

CHANGES = (
    "UPDATE audit SET usd = 0",
    "UPDATE audit SET usd = 0 WHERE n = 1",
    "DELETE FROM audit",
    "DELETE FROM audit WHERE n = 1",
)


@pytest.fixture
async def sqlite_home(tmp_path: Path) -> AsyncIterator[SqliteHome]:
    async with opened(tmp_path / "home") as home:
        yield home


@pytest.fixture
async def postgres_home(tmp_path: Path) -> AsyncIterator[PostgresHome]:
    async with in_new_schema(tmp_path / "home") as home:
        yield home


async def test_sqlite_refuses_to_change_to_delete_and_to_replace_an_entry(sqlite_home: SqliteHome) -> None:
    journal = sqlite_home.journal()
    await new(journal.of(ADA, **CALL), intent("k"), intent("k2"))
    before = await audit(journal)
    for sql in (
        *CHANGES,
        "REPLACE INTO audit (n, at, what, outcome) VALUES (1, 1.5, 'list', 'allowed')",
        "INSERT INTO audit (n, at, what, outcome) VALUES (1, 1.5, 'list', 'allowed') ON CONFLICT (n) DO UPDATE SET usd = 0",
    ):
        with (
            closing(sqlite3.connect(sqlite_home.file)) as connection,
            pytest.raises(sqlite3.IntegrityError, match="the audit is append-only"),
        ):
            connection.execute(sql)
    assert await audit(journal) == before


async def test_postgresql_refuses_to_change_to_delete_and_to_empty(postgres_home: PostgresHome) -> None:
    journal = postgres_home.journal()
    await new(journal.of(ADA, **CALL), intent("k"), intent("k2"))
    before = await audit(journal)
    upsert = "INSERT INTO audit (n, at, what, outcome) VALUES (1, 1.5, 'list', 'allowed') ON CONFLICT (n) DO UPDATE SET usd = 0"
    for sql in (*CHANGES, "TRUNCATE audit", "TRUNCATE task, audit", "DELETE FROM audit WHERE FALSE", upsert):
        with (
            psycopg.connect(postgres_home.url) as connection,
            pytest.raises(psycopg.errors.RaiseException, match="the audit is append-only"),
        ):
            connection.execute(sql.encode())
    assert await audit(journal) == before


# --- a lost file ------------------------------------------------------------------------------------------------------


def broken(path: Path) -> None:
    """The next entry that is written meets the damage."""
    with closing(sqlite3.connect(path)) as database:
        ((page,),) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'audit_at'").fetchall()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)


@pytest.mark.parametrize("damage", [broken, Path.unlink], ids=["broken", "gone"])
async def test_after_a_lost_file_every_entry_is_there_once(
    sqlite_home: SqliteHome, damage: Callable[[Path], None]
) -> None:
    journal = sqlite_home.journal()
    ada = journal.of(ADA, **CALL)
    await new(ada, *(intent(f"k{number}") for number in range(300)))  # more than are read at once
    await journal.audit.note([shown("list", ADA, 1), shown("list", ADA, 2)])
    before = await audit(journal)
    with closing(sqlite3.connect(sqlite_home.file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damage(sqlite_home.file)
    await journal.salvage()
    assert await audit(journal) == before
    assert len(await journal.audit.entries(EVERY, limit=999)) == 302
    await journal.audit.note([shown("list", ADA, 3)])
    with closing(sqlite3.connect(sqlite_home.file)) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute("DELETE FROM audit")


async def test_an_entry_that_is_broken_is_left_behind_and_spoils_no_other(sqlite_home: SqliteHome) -> None:
    journal = sqlite_home.journal()
    await journal.audit.note([shown("list", ADA, minutes) for minutes in range(3)])
    await journal.close()
    with closing(sqlite3.connect(sqlite_home.file)) as connection:
        connection.executescript(
            "DROP TRIGGER audit_not_changed; PRAGMA ignore_check_constraints = ON; UPDATE audit SET at = 'then' WHERE n = 2"
        )
    await journal.salvage()
    assert await audit(journal) == (shown("list", ADA, 2), shown("list", ADA, 0))


# --- where a law wants it ---------------------------------------------------------------------------------------------


async def test_the_statements_of_the_documents_delete_what_is_old_and_close_the_audit_again(
    postgres_home: PostgresHome,
) -> None:
    journal, now = postgres_home.journal(), datetime.now(UTC)
    kept, old = (AuditEntry(at=now - timedelta(days=days), what="list", person=ADA) for days in (1, 3 * 366))
    await journal.audit.note([old, kept])
    (statements,) = re.findall(r"```sql\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    with psycopg.connect(postgres_home.url, autocommit=True) as connection:
        connection.execute(textwrap.dedent(statements).encode())
    assert await audit(journal) == (kept,)
    with psycopg.connect(postgres_home.url) as connection, pytest.raises(psycopg.errors.RaiseException):
        connection.execute("DELETE FROM audit")
