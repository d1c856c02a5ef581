"""A record that can't be read (a newer version's, a broken one) is set aside by itself, told once, and left as it is."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from flux2_mcp.cli.tasks import listed as listed_words
from flux2_mcp.domain.budget import SpendingBy
from flux2_mcp.domain.lifecycle import Event, State
from flux2_mcp.domain.models import NameOwner, UploadedFile
from flux2_mcp.journal.contract import LEASE_SECONDS
from flux2_mcp.journal.records import LeaseLostError, TaskFilter, TaskRecord, dump
from flux2_mcp.server.results import task_words
from flux2_mcp.server.results import tasks as task_results
from tests.journal.test_journal_images import delivered, stored
from tests.support import journals
from tests.support.journals import AT, CAT, Home, intend, intent, new, start, steps
from tests.support.rows import each_row
from tests.support.services import Front, fronted, made, opened

pytestmark = pytest.mark.anyio

BROKEN = {
    "a state that is not known": "state = 'paused'",
    "no JSON": "request = '{'",
    "a field that is not known": "request = json_set(request, '$.seed', 7)",
    "a prompt that is no text": "request = json_set(request, '$.prompt', 7)",
    "no UTF-8": "request = CAST(x'7bff7d' AS TEXT)",
    "a path that is no text": "workspace = CAST(x'2fff' AS TEXT)",
    "images of another form": """images = '[{"file": "a.png"}]'""",
    "addresses of another form": "urls = '7'",
    "a time that is none": "created_at = 'soon'",
    "a time beyond all": "created_at = 1e300",
    "an amount that is none": "quoted = 'dear'",
    "no time of sending": "state = 'completed', submitted_at = NULL, completed_at = 5, request = '{'",
}
SOME = ("a state that is not known", "no JSON")


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    async with journals.opened(tmp_path / "home") as home:
        yield home


def sql(home: Path, statement: str, *values: str) -> list[tuple[object, ...]]:
    """As another process would: over a connection of its own."""
    connection = sqlite3.connect(home / "journal.sqlite3", timeout=60)
    connection.text_factory = bytes
    try:
        with connection:
            return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


def row(home: Path, key: str) -> list[tuple[object, ...]]:
    return sql(home, "SELECT * FROM task WHERE key = ?", key)


def spoil(home: Path, key: str, broken: str) -> None:
    sql(home, f"UPDATE task SET {broken} WHERE key = ?", key)  # noqa: S608  # the table's own text


async def test_the_others_are_read_and_kept_and_no_bad_record_is_touched(home: Home) -> None:
    one, two = home.journal("one"), home.journal("two")
    bad = [f"bad-{number}" for number in range(len(BROKEN))]
    await new(one, intent("good"), *map(intent, bad), intent("young"))
    for key in bad:
        await steps(one, key, Event.ACCEPTED)
    await one.leases.release()
    for key, broken in zip(bad, BROKEN.values(), strict=True):
        spoil(home.path, key, broken)
    before = [row(home.path, key) for key in bad]
    assert [record.key for record in await two.leases.claim()] == ["good", "young"]
    assert [record.key for record in await two.tasks.recent(limit=99)] == ["young", *reversed(bad), "good"]
    for record in await two.tasks.find([f"task-{key}" for key in bad]):
        assert (record.readable, record.state) == (False, State.UNKNOWN), record.key
        assert "can't read the record of this task" in (record.error or "")
        assert "left as it is" in (record.error or "")
    await two.history.durations()
    await two.money.spent(at=AT, session="s")
    for by in SpendingBy:
        assert sum(group.tasks for group in await two.history.spending(by, None)) == len(bad) + 2
    assert [row(home.path, key) for key in bad] == before


async def test_a_record_that_can_not_be_read_stands_in_nobodys_way_and_for_nobody(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("bad", CAT), in_flight=0)
    spoil(home.path, "bad", "urls = '7'")
    before = row(home.path, "bad")
    fresh = await intend(journal, intent("new", CAT), join=True)
    assert (fresh.joined, [record.key for record in fresh.records]) == (False, ["new"])
    (again,) = (await intend(journal, intent("bad", CAT))).records
    assert (again.readable, again.state) == (False, State.UNKNOWN)
    assert row(home.path, "bad") == before


async def test_a_newer_versions_state_is_found_as_unknown(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("bad"), intent("good"))
    spoil(home.path, "bad", "state = 'paused'")
    assert [
        record.key for record in await journal.tasks.recent(limit=9, wanted=TaskFilter(states=[State.UNKNOWN]))
    ] == ["bad"]
    assert [record.key for record in await journal.tasks.recent(limit=9, wanted=TaskFilter(states=[State.INTENT]))] == [
        "good"
    ]


async def test_pruning_goes_on_and_keeps_what_a_broken_record_may_name(home: Home, tmp_path: Path) -> None:
    journal = home.journal()
    shared, other = stored(tmp_path, "shared.png"), stored(tmp_path, "other.png")
    await delivered(journal, "bad", shared)
    await delivered(journal, "good", shared, other)
    spoil(home.path, "bad", "images = images || '!'")
    assert [record.key for record in await journal.history.with_images(AT + timedelta(days=1))] == ["good"]
    await journal.history.keep_images("good", [])
    assert await journal.history.still_used([shared.path, other.path]) == {shared.path}


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


async def spoilt(front: Front, tmp_path: Path, broken: str) -> TaskRecord:
    """An open task of a process that has ended, whose record then broke."""
    async with opened(front.settings(tmp_path)) as service:
        (told,) = (await made(service, "a red fox [sandbox:stuck]", wait=0)).tasks
    spoil(service.settings.home, told.record.key, BROKEN[broken])
    return told.record


@pytest.mark.parametrize("broken", SOME)
async def test_a_new_task_is_sent_and_delivered_and_the_record_is_listed_with_what_to_do(
    front: Front, tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    bad = await spoilt(front, tmp_path, broken)
    async with opened(front.settings(tmp_path)) as service:
        before = row(service.settings.home, bad.key)
        first = await made(service, "a blue fox")
        assert first.tasks[0].record.state is State.DELIVERED
        listed = await service.recent(limit=9)
        result = task_results.generation(listed)
        assert [task.status for task in result.tasks] == ["completed", "unknown"]
        assert "Update flux2-mcp" in (result.tasks[1].error or "")
        assert (result.next_action, result.quoted_usd) == (None, 0.1)
        checked = await service.check([bad.task_id or "", first.tasks[0].record.key], wait_seconds=0)
        assert [told.record.readable for told in checked.tasks] == [False, True]
        assert row(service.settings.home, bad.key) == before
        notices = [first.notice, listed.notice, checked.notice, (await service.recent(limit=1)).notice]
        assert [notice is not None for notice in notices].count(True) == 1
    assert caplog.text.count("a record can't be read") == 1
    assert bad.quoted_usd == Decimal("0.05")


VALUES = {
    "NULL": "NULL",
    "a number": "7",
    "a fraction": "1.5",
    "more than any": "9e999",
    "a large number": "9223372036854775807",
    "less than nothing": "-5",
    "a text": "'x'",
    "bytes": "x'fff1'",
    "no UTF-8": "CAST(x'2fff' AS TEXT)",
    "a list of numbers": "'[7]'",
    "a list of objects": """'[{"path": 5}]'""",
    "half of a surrogate pair": r"""'["\ud800"]'""",
}
TEXTS = ("a text", "a list of numbers", "a list of objects", "half of a surrogate pair")
FINE = {
    "key": TEXTS,
    "task_id": (*TEXTS, "NULL"),
    **dict.fromkeys(
        ("workspace", "client", "session", "push_url", "save_to", "error", "owner", "follows", "person"),
        (*TEXTS, "NULL"),
    ),
    **dict.fromkeys(("quoted", "reserved", "charged", "most"), ("a number", "NULL")),
    **dict.fromkeys(("sent_at", "submitted_at", "completed_at", "delivered_at"), ("a fraction", "NULL")),
    "created_at": ("a fraction",),
    "location": ("NULL",),
    "fence": ("a number",),
    # Not of the record: they repeat the request, or are overwritten.
    **dict.fromkeys(("digest", "model", "resolution", "nudged", "told_at", "lease_until"), tuple(VALUES)),
}
"""What a column may hold, so that the record can be read."""
IMAGE = {"path": "/a.png", "mime_type": "image/png", "width": 1, "height": 1, "size_bytes": 1, "sha256": "0"}
REQUEST = json.loads(dump(CAT))
SOURCE = {"given": "a.png", "identity": "1"}
INSIDE = {
    **{
        f"an image's {field} is {value!r}": ("images", [IMAGE | {field: value}])
        for field in (*IMAGE, "saved", "note")
        for value in (["x"], 1.5, "\ud800", -1, 10**30)
    },
    "an image without size": ("images", [IMAGE | {"width": 0}]),
    **{
        f"an image's transparent share is {value!r}": ("images", [IMAGE | {"transparent_share": value}])
        for value in ("0.5", 1, -0.1, 1.1, float("nan"))
    },
    "an image at no path": ("images", [IMAGE | {"path": "/a\0.png"}]),
    "a copy at no path": ("images", [IMAGE | {"saved": "\0"}]),
    "an image that is a list": ("images", [[1]]),
    "images that are an object": ("images", {"path": 1}),
    "addresses that are an object": ("urls", {"https://a.example": 1}),
    "an address that is none": ("urls", ["https://a.example", None]),
    **{
        f"the request's {field} is {value!r}": ("request", REQUEST | {field: value})
        for field in REQUEST
        for value in ([7], "\ud800", 1.5)
    },
    "a source without end": ("request", REQUEST | {"sources": [SOURCE | {"width": 10**30}]}),
    "a source that is a number": ("request", REQUEST | {"sources": [SOURCE | {"given": 7}]}),
}


def any_value_goes(home: Path) -> list[str]:
    """From now on each column of the tasks takes whatever comes, as in a broken file. Gives the columns' names."""
    ((table,),) = sql(home, "SELECT sql FROM sqlite_master WHERE name = 'task'")
    assert isinstance(table, bytes)
    loose = re.sub(r"(\w+)( +)(TEXT|INTEGER|REAL)( NOT NULL)?(?! PRIMARY)", r"\1", table.decode())
    connection = sqlite3.connect(home / "journal.sqlite3", timeout=60)
    try:
        connection.execute("PRAGMA writable_schema = ON")
        with connection:
            connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'task'", (loose,))
        (version,) = connection.execute("PRAGMA schema_version").fetchone()
        connection.execute(f"PRAGMA schema_version = {version + 1}")
    finally:
        connection.close()
    return [str(column[1], "utf-8") for column in sql(home, "PRAGMA table_info(task)") if isinstance(column[1], bytes)]


def copies(home: Path, key: str) -> list[tuple[int, str, bool]]:
    """Copies of a task, each with one value of another kind: its number, what it is, and whether it can be read.

    They are days old and of another model: nothing that counts money meets them.
    """
    columns = [column for column in any_value_goes(home) if column != "n"]
    cases = [
        (column, value, f"{column}: {name}", name in FINE.get(column, ()))
        for column in columns
        for name, value in VALUES.items()
    ]
    for name, (column, value) in INSIDE.items():
        cases.append((column, "'" + json.dumps(value).replace("'", "''") + "'", name, False))
    made = []
    for number, (column, value, name, fine) in enumerate(cases):
        values = dict(zip(columns, columns, strict=True)) | {
            "key": f"'key-{number}'",
            "task_id": f"'task-{number}'",
            "model": "'another'",
            "session": "'another'",
            "created_at": "created_at - 200000.0",
            column: value,
        }
        into = f"INSERT INTO task ({', '.join(values)}) SELECT {', '.join(values.values())} FROM task WHERE key = ? RETURNING n"  # noqa: S608  # the table's own text
        ((n,),) = sql(home, into, key)
        assert isinstance(n, int)
        made.append((n, name, fine))
    return made


def numbered(home: Path, n: int) -> list[tuple[object, ...]]:
    return sql(home, "SELECT * FROM task WHERE n = ?", str(n))


def states_of(home: Path, made: list[tuple[int, str, bool]]) -> dict[str, list[tuple[object, ...]]]:
    """What stands in the records that can't be read."""
    return {name: numbered(home, n) for n, name, fine in made if not fine}


async def test_whatever_stands_in_a_column_only_its_own_record_is_set_aside(home: Home) -> None:
    one, two = home.journal("one"), home.journal("two")
    await new(one, intent("good"))
    await steps(one, "good", Event.ACCEPTED)
    await one.leases.release()
    made = copies(home.path, "good")
    await new(one, intent("young"))
    await one.leases.release()
    before = states_of(home.path, made)
    claimed = {record.key for record in await two.leases.claim()}
    assert {"good", "young"} <= claimed
    listed = await two.tasks.recent(limit=9999)
    assert await two.leases.claim()
    ours = [(n, name, fine) for n, name, fine in reversed(made) if not name.startswith("account: ")]
    told = [(record.readable, record.error) for record in listed if record.key not in {"good", "young"}]
    with each_row() as case:
        for (_, name, fine), (readable, error) in zip(ours, told, strict=True):
            with case(name):
                assert readable is fine
                assert fine or "left as it is" in (error or "")
    assert states_of(home.path, made) == before
    every = TaskFilter(since=datetime.fromtimestamp(-(10**9), UTC))
    assert (await two.history.matched()).quoted_usd is not None
    assert (await two.history.matched()).tasks >= (await two.history.matched(every)).tasks
    for number, (_, name, fine) in enumerate(made):
        (found,) = await two.tasks.find([f"task-{number}"]) or [None]
        assert found is None or found.readable is fine, name
    await two.history.matched()
    await two.history.durations()
    for by in SpendingBy:
        await two.history.spending(by, None)
    notice = two.unread_notice() or ""  # each was met often
    assert notice.startswith(f"The journal holds {sum(not fine for _, _, fine in ours)} records")
    await two.tasks.recent(limit=9999)
    assert two.unread_notice() is None


@pytest.mark.deep  # the two above: all such records in the journal, and some beside a new task
async def test_beside_such_records_a_new_task_is_delivered_and_all_are_listed_and_checked(
    front: Front, tmp_path: Path
) -> None:
    async with opened(front.settings(tmp_path)) as service:
        (stuck,) = (await made(service, "a red fox [sandbox:stuck]", wait=0)).tasks
    path = service.settings.home
    bad = [one for one in copies(path, stuck.record.key) if not one[2] and not one[1].startswith("account: ")]
    numbers = json.dumps([1, *(n for n, _, _ in bad)])
    sql(path, "DELETE FROM task WHERE n NOT IN (SELECT value FROM json_each(?))", numbers)
    before = states_of(path, bad)
    async with opened(front.settings(tmp_path)) as service:
        first = await made(service, "a blue fox")
        assert first.tasks[0].record.state is State.DELIVERED
        outcome = await service.recent(limit=9999)
        result = task_results.generation(outcome)
        assert len(result.tasks) == len(bad) + 2
        for words in (task_words.words(result), listed_words(result, outcome), result.model_dump_json()):
            words.encode()
        ids = [task.task_id for task in result.tasks]
        checked = await service.check(ids, wait_seconds=0)
        assert {told.record.state for told in checked.tasks} >= {State.DELIVERED, State.UNKNOWN}
        task_words.words(task_results.generation(checked))
    assert states_of(path, bad) == before


async def test_a_record_that_can_not_be_read_takes_no_place_among_the_tasks_under_way(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("bad"), intent("good"), in_flight=2)
    await steps(journal, "bad", Event.ACCEPTED)
    spoil(home.path, "bad", "urls = '7'")
    (waiting,) = await new(journal, intent("new"), in_flight=2)
    assert not waiting.started  # whoever had it may still be at it
    home.clock.now += LEASE_SECONDS + 1
    await journal.leases.claim()
    assert (await start(journal, "new", in_flight=2)).started
    (third,) = await new(journal, intent("third"), in_flight=2)
    assert not third.started


async def test_durations_without_an_end_are_not_planned_from(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("bad"), intent("good"))
    for key in ("bad", "good"):
        await steps(journal, key, Event.ACCEPTED, Event.COMPLETED)
    spoil(home.path, "bad", "completed_at = 9e999")
    assert list((await journal.history.durations()).values()) == [(1.0,)]


async def test_a_record_that_breaks_under_way_is_let_go_of(home: Home) -> None:
    journal = home.journal()
    (record,) = await new(journal, intent("bad"))
    spoil(home.path, "bad", "urls = '7'")
    with pytest.raises(LeaseLostError):
        await journal.leases.hold(record)


async def test_a_sum_beyond_all_is_left_out_of_what_all_tasks_cost(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("bad"), intent("bad too"), intent("good"))
    for key in ("bad", "bad too"):
        spoil(home.path, key, "quoted = 9223372036854775807, charged = 9223372036854775807")
    assert (await journal.history.matched()).quoted_usd == Decimal("0.05")
    (day,) = await journal.history.spending(SpendingBy.DAY, None)
    assert (day.tasks, day.unquoted, day.quoted_usd, day.charged_usd) == (3, 2, Decimal("0.05"), Decimal(0))


async def test_a_broken_note_of_an_upload_means_that_it_is_sent_once_more(home: Home) -> None:
    journal = home.journal()
    file = UploadedFile(
        file_name="a", url="https://a.example", size_bytes=1, mime_type="", expires_at=AT + timedelta(hours=1)
    )
    with each_row() as case:
        for broken in ("url = x'ff'", "size_bytes = 'large'", "expires_at = 'later'", "expires_at = 9e999"):
            await journal.uploads.add("a", file)
            sql(home.path, f"UPDATE upload SET {broken}")  # noqa: S608  # from above
            with case(broken):
                assert await journal.uploads.find("a", at=AT) is None
    await journal.uploads.add("a", file)
    assert await journal.uploads.find("a", at=AT) == file


async def test_a_broken_pace_keeps_nobody_from_calling(home: Home) -> None:
    journal = home.journal()
    with each_row() as case:
        for broken in (
            "UPDATE pace SET rate = 'x'",
            "UPDATE pace SET rate = 0",
            "UPDATE pace SET blocked_until = x'ff'",
            "UPDATE pace SET blocked_until = 9e999",
            "UPDATE pace SET seen_at = 'x'",
            "UPDATE turn SET at = 'x'",
            "UPDATE turn SET at = 9e999",
        ):
            await journal.pace.turn(10.0, 5.0)
            sql(home.path, broken)
            with case(broken):
                assert 0 <= await journal.pace.turn(10.0, 5.0) < 5


async def test_a_broken_note_of_whose_a_key_is_means_that_it_is_asked_anew(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("good"))
    await journal.accounts.belongs("account:1")
    sql(home.path, "UPDATE holder SET tasks = x'ff'")
    assert [record.key for record in await journal.tasks.recent(limit=9)] == ["good"]


async def test_a_broken_note_of_a_files_name_makes_it_taken(home: Home) -> None:
    journal = home.journal()
    (record,) = await new(journal, intent("good"))
    await journal.tasks.claim_name(record, "/pictures/a.png")
    sql(home.path, "UPDATE placed SET task = 'x', newest = 'x'")
    assert await journal.tasks.claim_name(record, "/pictures/a.png") is NameOwner.TAKEN
