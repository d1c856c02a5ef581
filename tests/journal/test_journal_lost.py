"""A journal that was broken, moved or deleted reopens no cap: what can be read goes on, and the rest closes the day."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from flux2_mcp.domain import budget, catalog, personal_tokens
from flux2_mcp.domain.budget import CapRoom, Caps, SpentSums
from flux2_mcp.domain.lifecycle import Event, State
from flux2_mcp.domain.personal_tokens import TokenRecord
from flux2_mcp.journal.sqlite.migrations import MIGRATIONS
from flux2_mcp.journal.sqlite.store import SqliteJournal
from tests.support.journals import ACCOUNT, AT, SqliteHome, intend, intent, new, opened, steps

pytestmark = pytest.mark.anyio

PAGE = 4096
LONG = catalog.request(prompt="x" * 3000)
DAY = Caps(daily_usd=Decimal("0.40"))
CAT_TOO = catalog.request(prompt="a cat, too")
JUNK = b"no database any more " * 500
GONE = "journal.sqlite3 (begun "
ON_IT = ["task_recent", "task_unfinished"]
"""Indices that each new task is written into."""


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[SqliteHome]:
    async with opened(tmp_path / "home") as home:
        yield home


async def filled(home: SqliteHome, count: int = 6) -> Path:
    """A closed journal with this many tasks of five cents in it, the first of them charged."""
    journal = home.journal("before")
    await new(journal, *(intent(f"k{number}", LONG) for number in range(count)))
    await steps(journal, "k0", Event.ACCEPTED, Event.COMPLETED, usd="0.05")
    await journal.close()
    return journal.path


def write_over(path: Path, offset: int) -> None:
    """Break the page that this byte is on."""
    with path.open("r+b") as file:
        file.seek(offset // PAGE * PAGE)
        file.write(b"\xff" * PAGE)


def break_indices(path: Path) -> None:
    """The next task that is written meets the damage; no task is hurt."""
    with closing(sqlite3.connect(path)) as database:
        found = dict(database.execute("SELECT name, rootpage FROM sqlite_master").fetchall())
    for name in ON_IT:
        write_over(path, (found[name] - 1) * PAGE)


def aside(home: SqliteHome) -> str:
    (found,) = home.path.glob("journal-broken-*.sqlite3")
    return found.name


async def spent(journal: SqliteJournal, session: str | None = "s") -> SpentSums:
    return await journal.money.spent(at=datetime.now(UTC), session=session)


async def lost_name(journal: SqliteJournal) -> str:
    """What a vanished file is called: there may be several in a day."""
    name = (await spent(journal)).lost
    assert name is not None
    assert name.startswith(GONE)
    return name


async def closed(journal: SqliteJournal, lost: str) -> None:
    """The day's cap takes nothing, whatever it costs; without such a cap all goes on."""
    for usd in ("0.05", "0"):
        over = (await intend(journal, intent(f"refused {usd}", usd=usd), caps=DAY)).over
        assert over == CapRoom("FLUX2_DAILY_BUDGET_USD", Decimal("0.40"), Decimal(0), lost)
    await new(journal, intent("no cap"))


# --- what can be read ---


async def test_a_file_whose_tasks_can_all_be_read_goes_on_with_them(home: SqliteHome) -> None:
    break_indices(await filled(home))
    journal = home.journal()
    now = datetime.now(UTC)
    await new(journal, intent("k6"), intent("k7"), at=now)
    assert await spent(journal) == SpentSums(session_usd=Decimal("0.40"), daily_usd=Decimal("0.10"))
    assert journal.notice == (
        f"The journal was broken. It was moved aside as {aside(home)} and a new one begun."
        " Of its tasks, 6 could be read and were kept."
    )
    k0, k1 = await journal.tasks.find(["task-k0", "k1"])
    assert (k0.state, k0.charged_usd, k0.request) == (State.COMPLETED, Decimal("0.05"), LONG)
    assert (k1.state, k1.reserved_usd, k1.started) == (State.INTENT, Decimal("0.05"), True)
    assert [record.key for record in await journal.tasks.recent(limit=9)] == [
        f"k{number}" for number in range(7, -1, -1)
    ]


async def test_people_with_their_caps_tokens_and_facts_go_over_into_the_new_file(home: SqliteHome) -> None:
    path = await filled(home)
    before = home.journal("team")
    await before.people.meet(ada := personal_tokens.person("ada"), at=AT)
    await before.people.cap(ada.key, daily_usd=Decimal(2), monthly_usd=None, at=AT)
    for digest in ("a" * 64, "b" * 64):
        await before.tokens.add(TokenRecord(digest=digest, name="ada", created_at=AT))
    await before.tokens.revoke("b" * 64, at=AT)
    await before.facts.put("store", "its mark")
    people, tokens = await before.people.known(), await before.tokens.all()
    await before.close()
    break_indices(path)
    journal = home.journal()
    await new(journal, intent("k6"))
    assert aside(home)
    assert (await journal.people.known(), await journal.tokens.all()) == (people, tokens)
    assert await journal.facts.get("store") == "its mark"


async def test_of_a_file_that_is_broken_in_its_middle_both_ends_count_and_the_day_is_closed(home: SqliteHome) -> None:
    path = await filled(home, 40)
    data = path.read_bytes()
    write_over(path, data.index(f"k20{ACCOUNT}".encode()))  # as its row has it
    break_indices(path)
    journal = home.journal()
    await new(journal, intent("k40"))
    kept = {record.key for record in await journal.tasks.recent(limit=100)}
    assert {"k0", "k1", "k38", "k39", "k40"} <= kept
    assert 36 <= len(kept) <= 40
    assert (await spent(journal)).session_usd == Decimal("0.05") * len(kept)
    await closed(journal, aside(home))


async def test_a_record_that_only_a_newer_version_can_read_is_taken_over_as_it_is_and_counts(home: SqliteHome) -> None:
    path = await filled(home)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE task SET state = 'upscaling' WHERE key = 'k3'")
    break_indices(path)
    journal = home.journal()
    await new(journal, intent("k6"))
    assert await spent(journal) == SpentSums(session_usd=Decimal("0.35"))
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT state FROM task WHERE key = 'k3'").fetchone() == ("upscaling",)


@pytest.mark.parametrize(
    "damage", ["reserved = 'much'", "quoted = -1", "charged = 9e999", "created_at = 'once'", "created_at = 9e999"]
)
async def test_a_record_whose_money_or_date_can_not_be_counted_goes_on_and_closes_the_day(
    home: SqliteHome, damage: str
) -> None:
    path = await filled(home)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE task SET {damage} WHERE key = 'k3'")  # noqa: S608  # of this test's own words
    break_indices(path)
    journal = home.journal()
    await new(journal, intent("k6"))
    assert (await spent(journal)).lost == aside(home)
    (k3,) = await journal.tasks.find(["k3"])
    assert (k3.state, k3.request, k3.readable) == (State.INTENT, LONG, True)
    home.clock.now += 1000  # nobody renews its lease
    assert "k3" in [record.key for record in await journal.leases.claim()]


async def test_a_record_without_a_date_counts_from_now_on(home: SqliteHome) -> None:
    path = await filled(home, 1)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE task SET created_at = 'once'")
    break_indices(path)
    journal = home.journal()
    await new(journal, intent("k6"))
    await journal.money.settle(Decimal(0))
    assert await spent(journal) == SpentSums(session_usd=Decimal("0.10"), daily_usd=Decimal("0.05"))


async def test_a_record_that_nobody_could_find_again_closes_the_day(home: SqliteHome) -> None:
    path = await filled(home)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE task SET key = x'00' WHERE key = 'k3'")
    break_indices(path)
    journal = home.journal()
    await new(journal, intent("k6"))
    assert await spent(journal) == SpentSums(session_usd=Decimal("0.30"), lost=aside(home))


# --- what can't ---


async def test_where_nothing_can_be_read_the_day_is_closed_until_the_user_tells_what_was_spent(
    home: SqliteHome,
) -> None:
    (await filled(home)).write_bytes(JUNK)
    journal, other = home.journal("a"), home.journal("b", account="another")
    await new(journal, intent("first"))
    for one in (journal, other):
        await closed(one, aside(home))
    assert await journal.money.settle(Decimal("0.35"))
    assert (await spent(other)).daily_usd == Decimal("0.35")
    await new(other, intent("fits"), at=datetime.now(UTC), caps=DAY)
    assert (await intend(other, intent("more"), at=datetime.now(UTC), caps=DAY)).over is not None


async def test_what_the_user_has_told_counts_for_a_day_and_may_be_told_again(home: SqliteHome) -> None:
    (await filled(home)).write_bytes(JUNK)
    journal = home.journal()
    for usd in ("0.25", "0.35"):
        assert await journal.money.settle(Decimal(usd))
        assert await spent(journal) == SpentSums(daily_usd=Decimal(usd))
    later = await journal.money.spent(at=datetime.now(UTC) + timedelta(hours=25), session="s")
    assert later == SpentSums()


async def test_where_nothing_was_lost_there_is_nothing_to_tell(home: SqliteHome) -> None:
    await filled(home)
    assert not await home.journal().money.settle(Decimal(1))


def test_the_refusal_of_a_closed_day_names_the_command_that_opens_it() -> None:
    over = CapRoom("FLUX2_DAILY_BUDGET_USD", Decimal("0.40"), Decimal(0), "journal-broken-1.sqlite3")
    error = budget.refusal(Decimal("0.05"), over, None)
    assert error.message == (
        "What was spent in the last 24 hours can't be told: journal-broken-1.sqlite3 was lost, and not all of it could"
        " be read. FLUX2_DAILY_BUDGET_USD is closed."
    )
    assert "flux2-mcp spend --lost USD" in error.next_step


async def test_a_day_that_is_closed_stays_so_when_the_next_journal_is_lost_too(home: SqliteHome) -> None:
    path = await filled(home)
    path.write_bytes(JUNK)
    journal = home.journal()
    await new(journal, intent("first"))
    name = aside(home)
    await journal.close()
    break_indices(path)
    await new(journal, intent("second"))
    await closed(journal, name)


async def test_a_session_counts_what_its_own_process_knows_of_a_file_that_can_not_be_read(home: SqliteHome) -> None:
    journal = home.journal()
    await new(journal, *(intent(f"k{number}") for number in range(4)))
    await steps(journal, "k0", Event.ACCEPTED, Event.COMPLETED, usd="0.03")
    await steps(journal, "k1", Event.ACCEPTED, Event.FAILED)
    await new(journal, intent("theirs", session="t"))
    await journal.close()
    journal.path.write_bytes(JUNK)
    assert (await spent(journal)).session_usd == Decimal("0.13")
    await new(journal, intent("k2"), intent("new"))  # one that is open was written down anew
    assert (await spent(journal)).session_usd == Decimal("0.18")
    assert (await spent(home.journal("b"))).session_usd == Decimal("0.10")


# --- what is gone ---


def leave_a_log(home: SqliteHome, tmp_path: Path) -> Path:
    """The home as a killed process leaves it, without its main file."""
    left = tmp_path / "left"
    shutil.copytree(home.path, left)
    assert (left / "journal.sqlite3-wal").stat().st_size > 0
    (left / "journal.sqlite3").unlink()
    return left


async def test_the_log_of_a_file_that_has_vanished_is_kept_and_not_read_into_the_new_one(
    home: SqliteHome, tmp_path: Path
) -> None:
    await new(home.journal(), *(intent(f"k{number}", LONG) for number in range(20)))
    left = leave_a_log(home, tmp_path)
    log = (left / "journal.sqlite3-wal").read_bytes()
    async with opened(left) as other:
        journal = other.journal("b")
        await new(journal, intent("first"))
        assert [record.key for record in await journal.tasks.recent(limit=99)] == ["first"]
        assert await spent(journal) == SpentSums(session_usd=Decimal("0.05"), lost=await lost_name(journal))
        await journal.close()
        with closing(sqlite3.connect(journal.path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (kept,) = left.glob("journal-broken-*.sqlite3-wal")
        assert kept.read_bytes() == log


async def test_a_vanished_file_that_another_process_still_has_whole_closes_the_day_only_until_that_looks(
    home: SqliteHome,
) -> None:
    running = home.journal("a")
    await new(running, *(intent(f"k{number}") for number in range(3)))
    running.path.unlink()
    other = home.journal("b")
    await new(other, intent("first"))
    assert (await spent(other)).lost is not None
    await running.leases.claim()  # the runner's look, every other second
    assert await spent(other) == SpentSums(session_usd=Decimal("0.20"))
    assert len(await other.tasks.recent(limit=9)) == 4


async def test_a_process_with_an_older_file_opens_no_day_that_a_later_one_has_closed(home: SqliteHome) -> None:
    running = home.journal("a")
    await new(running, intent("before"))
    running.path.unlink()
    between = home.journal("b")
    await new(between, intent("between"))
    await between.close()
    between.path.unlink()
    journal = home.journal("c")
    await new(journal, intent("after"))
    await running.leases.claim()
    assert (await spent(journal)).lost is not None


async def test_a_home_that_vanishes_under_a_running_process_comes_back_with_everybodys_tasks(home: SqliteHome) -> None:
    journal, other = home.journal("a"), home.journal("b", account="another")
    await new(journal, intent("ours"))
    await new(other, intent("theirs", usd="0.30"))
    await other.close()
    shutil.rmtree(home.path)
    assert (await intend(journal, intent("more", usd="0.10"), caps=DAY)).over is not None
    assert [record.key for record in await other.tasks.recent(limit=9)] == ["theirs"]
    assert (journal.notice, other.notice) == (None, None)


async def test_what_a_running_process_has_of_a_vanished_home_counts_in_the_one_that_others_have_begun(
    home: SqliteHome,
) -> None:
    journal = home.journal("a")
    await new(journal, intent("before", usd="0.30"))
    shutil.rmtree(home.path)
    other = home.journal("b")
    await new(other, intent("after"))
    await journal.leases.claim()  # the runner's look, every other second
    over = (await intend(other, intent("more", usd="0.10"), caps=DAY)).over
    assert over == CapRoom("FLUX2_DAILY_BUDGET_USD", Decimal("0.40"), Decimal("0.05"))
    await new(journal, intent("fits"), caps=DAY)


async def test_a_file_that_has_vanished_from_its_home_closes_the_day_of_the_next_process(home: SqliteHome) -> None:
    """Deleted by hand, or moved aside by a process that was killed before the new one stood in its place."""
    (await filled(home)).unlink()
    journal = home.journal()
    await new(journal, intent("first"))
    await closed(journal, await lost_name(journal))
    assert journal.notice == "The journal has vanished from FLUX2_HOME, and a new one was begun."


def empty(path: Path) -> None:
    path.write_bytes(b"")


def put_another(path: Path) -> None:
    """Another program's database in its place."""
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE theirs (n INTEGER)")


def drop_tasks(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE task")


@pytest.mark.parametrize("damage", [empty, put_another, drop_tasks])
async def test_a_file_without_our_tables_where_a_journal_was_is_no_new_journal(
    home: SqliteHome, damage: Callable[[Path], None]
) -> None:
    path = await filled(home)
    damage(path)
    data = path.read_bytes()
    journal, other = home.journal("a"), home.journal("b")
    await new(journal, intent("first"))
    for one in (journal, other):
        await closed(one, aside(home))
    assert journal.notice == f"The journal was broken. It was moved aside as {aside(home)} and a new one begun."
    if damage is empty:  # what is opened at least once is in WAL mode since
        assert (home.path / aside(home)).read_bytes() == data


def left_by_a_killed_process(home: SqliteHome, tmp_path: Path) -> Path:
    left = tmp_path / "left"
    shutil.copytree(home.path, left)
    return left / "journal.sqlite3"


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [Path.unlink, zero])
async def test_a_file_whose_log_was_lost_with_tasks_in_it_closes_the_day(
    home: SqliteHome, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    before = home.journal("before")
    await new(before, intent("k0"))
    await before.close()
    await new(before, intent("k1"))
    path = left_by_a_killed_process(home, tmp_path)
    damage(path.with_name("journal.sqlite3-wal"))
    async with opened(path.parent) as left:
        journal = left.journal("a")
        await new(journal, intent("first"))
        assert [record.key for record in await journal.tasks.recent(limit=9)] == ["first", "k0"]
        await closed(journal, aside(left))


async def test_tables_stand_in_the_file_itself_once_it_is_made(home: SqliteHome, tmp_path: Path) -> None:
    await home.journal().tasks.recent(limit=1)
    path = left_by_a_killed_process(home, tmp_path)
    path.with_name("journal.sqlite3-wal").unlink()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM task").fetchall() == [(0,)]


async def test_what_a_process_wrote_stands_in_the_file_itself_once_that_has_ended(
    home: SqliteHome, tmp_path: Path
) -> None:
    ends, stays = home.journal("a"), home.journal("b")
    await new(ends, intent("k"))
    await stays.tasks.recent(limit=1)
    await ends.close()
    path = left_by_a_killed_process(home, tmp_path)
    path.with_name("journal.sqlite3-wal").unlink()
    async with opened(path.parent) as left:
        assert [record.key for record in await left.journal().tasks.recent(limit=9)] == ["k"]


async def test_a_killed_process_whose_log_is_there_has_lost_nothing(home: SqliteHome, tmp_path: Path) -> None:
    await new(home.journal(), intent("k0"), intent("k1"))
    async with opened(left_by_a_killed_process(home, tmp_path).parent) as left:
        journal = left.journal()
        assert [record.key for record in await journal.tasks.recent(limit=9)] == ["k1", "k0"]
        assert (journal.notice, (await spent(journal)).lost) == (None, None)


async def test_a_journal_whose_tasks_were_deleted_by_hand_closes_the_day(home: SqliteHome) -> None:
    path = await filled(home)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM task WHERE n > 2")
    journal = home.journal()
    await new(journal, intent("first"))
    await closed(journal, aside(home))


def names(kind: str) -> list[str]:
    with closing(sqlite3.connect(":memory:")) as database:
        for _, script in MIGRATIONS:
            database.executescript(script)
        sql = "SELECT name FROM sqlite_schema WHERE type = ? AND tbl_name = 'task' ORDER BY name"
        return [row[0] for row in database.execute(sql, (kind,))]


@pytest.mark.parametrize("name", [*names("index"), "task"])
async def test_an_empty_page_in_the_place_of_an_index_or_of_the_tasks_is_no_sound_journal(
    home: SqliteHome, name: str
) -> None:
    before = home.journal("before")
    await new(before, intent("k", push_url="https://here.example/k", follows="gone", person="somebody"))
    await steps(before, "k", Event.ACCEPTED, Event.COMPLETED, usd="0.05")
    await before.close()
    with closing(sqlite3.connect(before.path)) as database:
        sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        page = (database.execute(sql, (name,)).fetchone()[0] - 1) * PAGE
    with before.path.open("r+b") as file:
        file.seek(page)
        # A leaf without a row: SQLite reads it as well as any other.
        file.write((b"\x0d" if name == "task" else b"\x0a") + bytes(4) + PAGE.to_bytes(2) + bytes(PAGE - 7))
    journal = home.journal()
    await new(journal, intent("first", CAT_TOO))
    assert aside(home)
    if name == "task":
        await closed(journal, aside(home))
    else:
        assert [record.key for record in await journal.tasks.recent(limit=9)] == ["first", "k"]
        assert await spent(journal) == SpentSums(session_usd=Decimal("0.10"))


async def test_a_file_that_is_emptied_under_a_running_process_is_no_new_journal(home: SqliteHome) -> None:
    running = home.journal("a")
    await new(running, *(intent(f"k{number}") for number in range(6)))
    await running.file.run(lambda database: database.read("PRAGMA wal_checkpoint(TRUNCATE)"))
    running.path.write_bytes(b"")
    other = home.journal("b")
    await new(other, intent("first"))
    await closed(other, aside(home))


async def test_a_process_that_is_killed_while_it_puts_the_new_file_in_place_leaves_the_day_closed(
    home: SqliteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await filled(home)
    path.write_bytes(JUNK)
    (home.path / "journal.made").unlink()  # as versions left it that wrote none
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        moved = rename(self, target)
        if self == path:
            raise KeyboardInterrupt
        return moved

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            await new(home.journal("killed"), intent("k"))
    journal = home.journal("next")
    await new(journal, intent("first"))
    assert (await spent(journal)).lost is not None


async def test_a_home_whose_images_alone_are_left_is_a_lost_one(home: SqliteHome) -> None:
    await filled(home)
    (home.path / "images").mkdir()
    for part in home.path.glob("journal*"):
        part.unlink()
    await new(home.journal("uncapped"), intent("first"))  # of the next process, nothing is remembered
    (home.path / "images" / "fox.png").write_bytes(b"an image")
    for part in home.path.glob("journal*"):
        part.unlink()
    journal = home.journal("next")
    assert journal.was_made
    await closed(journal, "journal.sqlite3")
    assert journal.notice == "The journal has vanished from FLUX2_HOME, and a new one was begun."
    assert await journal.money.settle(Decimal("0.30"))
    assert (await spent(journal)).lost is None


async def test_a_new_home_is_no_lost_one(home: SqliteHome) -> None:
    journals = [home.journal(name) for name in "abc"]
    for number, journal in enumerate(journals):
        await new(journal, intent(f"k{number}"), caps=DAY)
        await journal.close()
        assert (await spent(journal)).lost is None
        assert journal.notice is None


async def test_a_new_file_is_filled_before_it_is_there(home: SqliteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed on the way, it leaves the broken one in its place."""
    path = await filled(home)
    path.write_bytes(JUNK)
    (home.path / "journal.new").write_bytes(b"what a killed process has left")
    rename = Path.rename

    def killed(*_: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        await new(home.journal("killed"), intent("k"))
    monkeypatch.setattr(Path, "rename", rename)
    journal = home.journal("next")
    await new(journal, intent("first"))
    await closed(journal, aside(home))


async def test_sums_that_an_empty_page_has_lost_are_made_anew(home: SqliteHome) -> None:
    before = home.journal("before")
    await new(before, intent("k"))
    await before.close()
    with closing(sqlite3.connect(before.path)) as database, database:
        database.execute("DELETE FROM total")
    journal = home.journal()
    assert [record.key for record in await journal.tasks.recent(limit=9)] == ["k"]
    assert (await journal.history.matched()).tasks == 1
    assert aside(home)
