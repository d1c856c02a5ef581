"""A record that can't be read (a newer version's, a broken one) is set aside by itself, told once, and left as it is."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from flux2_mcp import results
from flux2_mcp.journal.entry import Entry
from flux2_mcp.lifecycle import Event, State
from flux2_mcp.spending import By
from tests.unit import journals
from tests.unit.journals import AT, CAT, Home, intend, intent, new, steps
from tests.unit.services import Front, fronted, made, opened
from tests.unit.test_journal_images import delivered, stored

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
    await one.release()
    for key, broken in zip(bad, BROKEN.values(), strict=True):
        spoil(home.path, key, broken)
    before = [row(home.path, key) for key in bad]
    assert [entry.key for entry in await two.claim()] == ["good", "young"]
    assert [entry.key for entry in await two.recent(limit=99)] == ["young", *reversed(bad), "good"]
    for entry in await two.find([f"task-{key}" for key in bad]):
        assert (entry.readable, entry.state) == (False, State.UNKNOWN), entry.key
        assert "can't read the record of this task" in (entry.error or "")
        assert "left as it is" in (entry.error or "")
    await two.durations()
    await two.spent(at=AT, session="s")
    for by in By:
        assert sum(group.tasks for group in await two.spending(by, None)) == len(bad) + 2
    assert [row(home.path, key) for key in bad] == before


async def test_a_record_that_can_not_be_read_stands_in_nobodys_way_and_for_nobody(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("bad", CAT), in_flight=0)
    spoil(home.path, "bad", "urls = '7'")
    before = row(home.path, "bad")
    fresh = await intend(journal, intent("new", CAT), join=True)
    assert (fresh.joined, [entry.key for entry in fresh.entries]) == (False, ["new"])
    (again,) = (await intend(journal, intent("bad", CAT))).entries
    assert (again.readable, again.state) == (False, State.UNKNOWN)
    assert row(home.path, "bad") == before


async def test_a_newer_versions_state_is_found_as_unknown(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("bad"), intent("good"))
    spoil(home.path, "bad", "state = 'paused'")
    assert [entry.key for entry in await journal.recent(limit=9, states=[State.UNKNOWN])] == ["bad"]
    assert [entry.key for entry in await journal.recent(limit=9, states=[State.INTENT])] == ["good"]


async def test_pruning_goes_on_and_keeps_what_a_broken_record_may_name(home: Home, tmp_path: Path) -> None:
    journal = home.journal()
    shared, other = stored(tmp_path, "shared.png"), stored(tmp_path, "other.png")
    await delivered(journal, "bad", shared)
    await delivered(journal, "good", shared, other)
    spoil(home.path, "bad", "images = images || '!'")
    assert [entry.key for entry in await journal.with_images(AT + timedelta(days=1))] == ["good"]
    await journal.keep_images("good", [])
    assert await journal.still_used([shared.path, other.path]) == {shared.path}


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


async def spoilt(front: Front, tmp_path: Path, broken: str) -> Entry:
    """An open task of a process that has ended, whose record then broke."""
    async with opened(front.settings(tmp_path)) as service:
        (told,) = (await made(service, "a red fox [sandbox:stuck]", wait=0)).tasks
    spoil(service.settings.home, told.entry.key, BROKEN[broken])
    return told.entry


@pytest.mark.parametrize("broken", SOME)
async def test_a_new_task_is_sent_and_delivered_and_the_record_is_listed_with_what_to_do(
    front: Front, tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    bad = await spoilt(front, tmp_path, broken)
    async with opened(front.settings(tmp_path)) as service:
        before = row(service.settings.home, bad.key)
        first = await made(service, "a blue fox")
        assert first.tasks[0].entry.state is State.DELIVERED
        listed = await service.recent(limit=9)
        result = results.generation(listed)
        assert [task.status for task in result.tasks] == ["completed", "unknown"]
        assert "Update flux2-mcp" in (result.tasks[1].error or "")
        assert (result.next_action, result.quoted_usd) == (None, 0.1)
        checked = await service.check([bad.task_id or "", first.tasks[0].entry.key], wait_seconds=0)
        assert [told.entry.readable for told in checked.tasks] == [False, True]
        assert row(service.settings.home, bad.key) == before
        notices = [first.notice, listed.notice, checked.notice, (await service.recent(limit=1)).notice]
        assert [notice is not None for notice in notices].count(True) == 1
    assert caplog.text.count("a record can't be read") == 1
    assert bad.quoted_usd == Decimal("0.05")
