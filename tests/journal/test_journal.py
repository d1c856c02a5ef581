"""The contract's suite: tasks (intents, keys, joining, steps, budget). Leases and pace are in `test_journal_shared`."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec.structs import replace

from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import CapRoom, Caps, SpentSums
from flux2_mcp.domain.lifecycle import Event, IllegalTransitionError, State
from flux2_mcp.domain.models import Action, ImageRequest, StoredImage
from flux2_mcp.errors import InvalidRequestError, JournalError, Problem
from flux2_mcp.journal.contract import Journal
from flux2_mcp.journal.records import SameIdError, TaskChange, TaskFilter, TaskRecord
from tests.support.journals import ACCOUNT, AT, CAT, FULL, Home, apply, intend, intent, new, start, steps

pytestmark = pytest.mark.anyio

DOG = catalog.request(prompt="a dog")
IMAGE = StoredImage(
    path="/home/ada/a.png", mime_type="image/png", width=1024, height=768, size_bytes=9, sha256="0" * 64
)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


# --- intents ---


async def test_an_intent_is_written_whole_and_read_by_another_process_object_as_it_stands(home: Home) -> None:
    asked = intent("k1", FULL, "0.24", client="claude-code", push_url="https://example.com/push/1")
    expected = TaskRecord(
        key="k1",
        task_id=None,
        account=ACCOUNT,
        state=State.INTENT,
        request=FULL,
        workspace="/work",
        client="claude-code",
        session="s",
        push_url="https://example.com/push/1",
        save=None,
        quoted_usd=Decimal("0.24"),
        reserved_usd=Decimal("0.24"),
        charged_usd=None,
        error=None,
        image_urls=(),
        images=(),
        created_at=AT,
        submitted_at=None,
        completed_at=None,
        delivered_at=None,
        started=True,
        owner="a",
    )
    assert await new(home.journal("a"), asked) == (expected,)
    assert await home.journal("b").tasks.find(["k1"]) == (expected,)
    assert expected.kind == ("flux-2-flex-remix-image", "2k")


SPEAK = """
import json, os, signal, sys
import anyio
import anyio.lowlevel
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import Caps
from flux2_mcp.journal import open_journal
from flux2_mcp.journal.records import Intent

home, url, account, prefix, count, cap = sys.argv[1:]

async def main():
    journal = open_journal(Path(home), account, url or None)
    won = 0
    for number in range(int(count)):
        usd = Decimal("0.05")
        asked = Intent(key=f"{prefix}{number}", request=catalog.request(prompt="a cat"), quoted_usd=usd, reserved_usd=usd)
        done = await journal.tasks.intend(
            [asked], at=datetime.now(UTC), caps=Caps(daily_usd=Decimal(cap)), join=False, in_flight=100
        )
        won += len(done.records)
    print(json.dumps(won), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)  # nothing is closed, nothing is flushed

anyio.run(main)
"""


def speaker(home: Home, name: str, *, count: int, cap: str) -> subprocess.Popen[str]:
    """Another process, which intends five cents as often as told and is then killed."""
    command = [sys.executable, "-c", SPEAK, str(home.path), home.url or "", ACCOUNT, f"{name}-", str(count), cap]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def test_what_a_killed_process_intended_is_there_and_processes_racing_for_the_last_cents_spend_no_more(
    home: Home,
) -> None:
    racers = [speaker(home, owner, count=15, cap="1.00") for owner in ("one", "two")]
    won = [int(json.loads(racer.communicate(timeout=60)[0])) for racer in racers]
    records = await home.journal().tasks.recent(limit=100)
    assert sum(won) == len(records) == 20
    assert {record.state for record in records} == {State.INTENT}
    assert (await home.journal().money.spent(at=datetime.now(UTC), session=None)).daily_usd == Decimal("1.00")


async def test_of_a_calls_intents_all_are_written_or_none(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("taken", DOG))
    with pytest.raises(InvalidRequestError):
        await intend(journal, intent("k1"), intent("k2"), intent("taken"))
    assert [record.key for record in await journal.tasks.recent(limit=9)] == ["taken"]
    assert [record.key for record in await new(journal, intent("k1"), intent("k2"))] == ["k1", "k2"]


# --- known keys ---


async def test_a_known_key_gives_its_record_as_it_stands_and_writes_nothing(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("k", usd="0.05"))
    record = await steps(journal, "k", Event.ACCEPTED, Event.PROCESSING)
    again = intent("k", usd="0.07", workspace="/other", session="t", client="x")
    assert await new(home.journal("b"), again, at=AT + DAY) == (record,)
    assert await journal.tasks.recent(limit=9) == (record,)


async def test_a_known_key_for_another_request_is_refused_before_anything_else(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("k"))
    with pytest.raises(InvalidRequestError) as caught:
        await intend(journal, intent("k", DOG), caps=Caps(call_usd=Decimal(0)))
    text = "was used for another request; use a new one for a new request, or leave it out."
    assert caught.value.problems == (Problem("idempotency_key", text),)


async def test_a_known_key_costs_nothing_again_even_when_the_budget_is_spent(home: Home) -> None:
    journal, caps = home.journal(), Caps(daily_usd=Decimal("0.07"))
    (record,) = await new(journal, intent("k"), caps=caps)
    assert await new(journal, intent("k"), caps=caps) == (record,)
    over = CapRoom("FLUX2_DAILY_BUDGET_USD", Decimal("0.07"), Decimal("0.02"))
    assert (await intend(journal, intent("k"), intent("k2"), caps=caps)).over == over
    assert await journal.tasks.recent(limit=9) == (record,)


async def test_accounts_do_not_see_each_others_tasks(home: Home) -> None:
    ours, theirs = home.journal(), home.journal("b", account="sandbox")
    await new(ours, intent("k", CAT))
    (other,) = await new(theirs, intent("k", DOG), join=True, caps=Caps(daily_usd=Decimal("0.05")))
    assert other.account == "sandbox"
    await steps(theirs, "k", Event.ACCEPTED)
    assert [record.request for record in await ours.tasks.recent(limit=9)] == [CAT]
    assert await ours.tasks.find(["task-k"]) == ()
    assert [record.request for record in await theirs.leases.claim()] == [DOG]


# --- joining ---

OPEN_ENDS: list[tuple[Event, ...]] = [
    (),
    (Event.ACCEPTED,),
    (Event.ACCEPTED, Event.PROCESSING),
    (Event.ACCEPTED, Event.COMPLETED),
    (Event.ACCEPTED, Event.COMPLETED, Event.DELIVERED),
]
BAD_ENDS: list[tuple[Event, ...]] = [
    (Event.REFUSED,),
    (Event.EXPIRED,),
    (Event.ACCEPTED, Event.FAILED),
    (Event.ACCEPTED, Event.VANISHED),
    (Event.ACCEPTED, Event.COMPLETED, Event.EXPIRED),
]


@pytest.mark.parametrize("life", OPEN_ENDS)
async def test_an_identical_call_joins_a_task_that_nobody_has_been_told_of(home: Home, life: tuple[Event, ...]) -> None:
    (first,) = await new(home.journal("a"), intent("first"))
    if life:
        first = await steps(home.journal("a"), "first", *life)
    joined = await intend(home.journal("b"), intent("second", session="t"), join=True, caps=Caps(daily_usd=Decimal(0)))
    assert (joined.joined, joined.records, joined.over) == (True, (first,), None)


@pytest.mark.parametrize("life", BAD_ENDS)
async def test_nobody_joins_a_task_that_ended_badly(home: Home, life: tuple[Event, ...]) -> None:
    journal = home.journal()
    await new(journal, intent("first"))
    await steps(journal, "first", *life)
    assert [record.key for record in await new(journal, intent("second"), join=True)] == ["second"]


@pytest.mark.parametrize(
    "other",
    [
        intent("second", DOG),
        intent("second", replace(CAT, output_resolution="1k")),
        intent("second", workspace="/other"),
        intent("second", workspace=None),
    ],
)
async def test_another_request_or_another_workspace_joins_nothing(home: Home, other: Any) -> None:  # noqa: ANN401  # an intent
    journal = home.journal()
    await new(journal, intent("first"))
    assert [record.key for record in await new(journal, other, join=True)] == ["second"]


async def test_two_calls_without_a_workspace_join(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("first", workspace=None))
    assert (await intend(journal, intent("second", workspace=None), join=True)).joined


async def test_where_runapi_is_to_call_back_makes_no_other_request(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("first", push_url="https://a/first"))
    assert (await intend(journal, intent("second", push_url="https://a/second"), join=True)).joined


async def test_what_was_told_is_not_joined_any_more(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("first"), intent("unheard", DOG))
    await home.journal("b").tasks.mark_reported(["first", "no such key"], at=AT)
    assert not (await intend(journal, intent("second"), join=True)).joined
    assert (await intend(journal, intent("third", DOG), join=True)).joined


async def test_an_hour_later_an_unheard_task_is_taken_for_forgotten(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("first"))
    assert (await intend(journal, intent("second"), join=True, at=AT + HOUR - timedelta(seconds=1))).joined
    assert not (await intend(journal, intent("second"), join=True, at=AT + HOUR)).joined


async def test_of_several_the_newest_is_joined_and_without_join_none_is(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("first"))
    await new(journal, intent("second"))
    assert [record.key for record in (await intend(journal, intent("third"), join=True)).records] == ["second"]


# --- tasks in flight ---


async def test_only_so_many_tasks_are_under_way_at_once_over_all_processes(home: Home) -> None:
    one, two = home.journal("one"), home.journal("two")
    records = await new(one, *(intent(f"k{number}") for number in range(3)), in_flight=2)
    assert [record.started for record in records] == [True, True, False]
    (more,) = await new(two, intent("k3"), in_flight=2)
    assert not more.started
    assert not (await start(two, "k3", in_flight=2)).started
    await steps(one, "k0", Event.ACCEPTED, Event.PROCESSING)
    assert not (await start(two, "k3", in_flight=2)).started
    await steps(one, "k0", Event.COMPLETED)
    assert (await start(two, "k3", in_flight=2)).started
    assert not (await start(one, "k2", in_flight=2)).started
    await steps(one, "k1", Event.REFUSED)
    assert (await start(one, "k2", in_flight=2)).started


async def test_what_was_started_stays_started(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("k"))
    assert (await start(journal, "k", in_flight=0)).started


async def test_other_accounts_take_no_place_in_flight(home: Home) -> None:
    await new(home.journal("a", account="other"), intent("k"), in_flight=1)
    (record,) = await new(home.journal("b"), intent("k"), in_flight=1)
    assert record.started


# --- steps ---


async def test_each_step_writes_what_it_taught_and_the_first_time_of_its_kind(home: Home) -> None:
    journal = home.journal()
    (before,) = await new(journal, intent("k"))
    at = [AT + timedelta(seconds=number) for number in range(7)]
    await apply(journal, "k", Event.ACCEPTED, TaskChange(at=at[1], task_id="t-1"))
    await apply(journal, "k", Event.PROCESSING, TaskChange(at=at[2]))
    await apply(
        journal, "k", Event.COMPLETED, TaskChange(at=at[3], charged_usd=Decimal("0.045"), image_urls=("https://a/1",))
    )
    await apply(journal, "k", Event.COMPLETED, TaskChange(at=at[4], image_urls=("https://a/2",)))
    images = (IMAGE, replace(IMAGE, path="/home/ada/b.png", transparent_share=0.25))
    record = await apply(journal, "k", Event.DELIVERED, TaskChange(at=at[5], images=images))
    assert record == replace(
        before,
        task_id="t-1",
        state=State.DELIVERED,
        charged_usd=Decimal("0.045"),
        image_urls=("https://a/2",),
        images=images,
        submitted_at=at[1],
        completed_at=at[3],
        delivered_at=at[5],
    )
    assert await home.journal("b").tasks.find(["t-1", "k"]) == (record, record)


async def test_a_failure_keeps_its_reason(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("k"))
    await steps(journal, "k", Event.ACCEPTED)
    record = await apply(journal, "k", Event.FAILED, TaskChange(at=AT, error="moderated"))
    assert (record.state, record.error, record.completed_at) == (State.FAILED, "moderated", AT)


async def test_an_illegal_step_raises_and_changes_nothing(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("k"))
    record = await steps(journal, "k", Event.ACCEPTED)
    change = TaskChange(at=AT + DAY, task_id="x", charged_usd=Decimal(1), error="x", image_urls=("x",), images=(IMAGE,))
    with pytest.raises(IllegalTransitionError):
        await apply(journal, "k", Event.DELIVERED, change)
    assert await journal.tasks.find(["k"]) == (record,)


async def test_a_step_of_an_unknown_task_is_an_error(home: Home) -> None:
    journal = home.journal()
    (record,) = await new(journal, intent("k"))
    with pytest.raises(JournalError, match="does not know this task"):
        await journal.tasks.apply(replace(record, key="nobody"), Event.ACCEPTED, TaskChange(at=AT))


# --- looking ---


async def test_tasks_are_found_by_id_or_key_in_the_order_asked_for(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("k1"), intent("k2"))
    await steps(journal, "k2", Event.ACCEPTED)
    found = await journal.tasks.find(["task-k2", "nobody", "k1", "k2", ""])
    assert [record.key for record in found] == ["k2", "k1", "k2"]


async def test_the_most_recent_come_newest_first_and_page_by_page(home: Home) -> None:
    journal = home.journal()
    for number in range(3):
        await new(journal, intent(f"k{number}"), at=AT + timedelta(hours=number))
    await new(journal, intent("k3"), intent("k4"), at=AT + timedelta(hours=3))
    pages = [await journal.tasks.recent(limit=2), await journal.tasks.recent(limit=2, before="k3")]
    assert [[record.key for record in page] for page in pages] == [["k4", "k3"], ["k2", "k1"]]
    assert await journal.tasks.recent(limit=9, before="k0") == ()
    assert await home.journal(account="other").tasks.recent(limit=9, before="k3") == ()


async def test_the_most_recent_can_be_of_some_states_of_a_workspace_or_since_a_time(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("none", workspace=None), at=AT - DAY)
    for number in range(4):
        workspace = "/work" if number % 2 else "/other"
        await new(journal, intent(f"k{number}", workspace=workspace), at=AT + timedelta(hours=number))
    await steps(journal, "k1", Event.ACCEPTED)
    await steps(journal, "k2", Event.ACCEPTED, Event.FAILED)

    async def found(**wanted: Any) -> list[str]:  # noqa: ANN401  # TaskFilter's own arguments
        return [record.key for record in await journal.tasks.recent(limit=9, wanted=TaskFilter(**wanted))]

    assert await found() == ["k3", "k2", "k1", "k0", "none"]
    assert await found(states={State.INTENT}) == ["k3", "k0", "none"]
    assert await found(states=[State.FAILED, State.SUBMITTED]) == ["k2", "k1"]
    assert await found(states=()) == []
    assert await found(workspace="/work") == ["k3", "k1"]
    assert await found(since=AT + timedelta(hours=2)) == ["k3", "k2"]
    assert await found(states={State.INTENT}, workspace="/work", since=AT) == ["k3"]


async def test_tasks_are_found_by_a_text_in_their_prompt_in_any_case_and_no_character_is_a_pattern(home: Home) -> None:
    journal = home.journal()
    prompts = ["A red\n FOX", "ein Äpfelchen", "100% wool_scarf", "100 wool scarf", "[fox] *"]
    for number, prompt in enumerate(prompts):
        await new(journal, intent(f"k{number}", catalog.request(prompt=prompt)))
    wanted = {
        "fox": ["k4", "k0"],
        "RED fox ": ["k0"],
        "äPFEL": ["k1"],
        "100%": ["k2"],
        "l_s": ["k2"],
        "[fox]": ["k4"],
        "*": ["k4"],
        "no": [],
    }
    for query, keys in wanted.items():
        found = await journal.tasks.recent(limit=9, wanted=TaskFilter(query=query))
        matched = await journal.history.matched(TaskFilter(query=query))
        assert ([record.key for record in found], matched.tasks) == (keys, len(keys)), query


async def test_tasks_are_found_by_the_content_of_their_image_or_of_its_converted_copy(home: Home) -> None:
    journal = home.journal()
    converted = replace(IMAGE, sha256="1" * 64, saved="/site/a.jpg", saved_sha256="2" * 64)
    for key, image in (("k0", IMAGE), ("k1", converted), ("k2", replace(IMAGE, path="/home/ada/b.png"))):
        await new(journal, intent(key))
        await steps(journal, key, Event.ACCEPTED, Event.COMPLETED)
        await apply(journal, key, Event.DELIVERED, TaskChange(at=AT, images=(image,)))
    for digest, keys in (("0" * 64, ["k2", "k0"]), ("1" * 64, ["k1"]), ("2" * 64, ["k1"]), ("3" * 64, [])):
        found = await journal.tasks.recent(limit=9, wanted=TaskFilter(sha256=digest))
        matched = await journal.history.matched(TaskFilter(sha256=digest))
        assert ([record.key for record in found], matched.tasks) == (keys, len(keys)), digest
    (record,) = await journal.tasks.find(["k1"])
    assert record.images == (converted,)


async def test_how_many_tasks_are_unfinished_counts_every_process_on_the_account(home: Home) -> None:
    one, two = home.journal("one"), home.journal("two")
    assert await one.leases.unfinished() == 0
    await new(one, intent("k1"), intent("k2"))
    await new(two, intent("k3"), in_flight=0)
    await new(home.journal("three", account="other"), intent("k4"))
    assert await one.leases.unfinished() == 3
    await steps(one, "k1", Event.ACCEPTED, Event.COMPLETED)
    assert await two.leases.unfinished() == 3
    await steps(one, "k1", Event.DELIVERED)
    await steps(one, "k2", Event.REFUSED)
    assert await one.leases.unfinished() == 1


# --- callbacks ---


async def test_a_callback_marks_the_open_task_of_its_address_once_for_its_owner(home: Home) -> None:
    one, two = home.journal("one"), home.journal("two")
    await new(one, intent("k1", push_url="https://a/1"), intent("k2", push_url="https://a/2"), intent("k3"))
    await steps(one, "k1", Event.ACCEPTED)
    await two.callbacks.mark("https://a/1")
    await two.callbacks.mark("https://a/1")
    assert await two.callbacks.take() == ()
    assert await one.callbacks.take() == ("k1",)
    assert await one.callbacks.take() == ()


async def test_a_callback_for_nobody_or_for_what_has_ended_marks_nothing(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("done", push_url="https://a/1"), intent("open"))
    await steps(journal, "done", Event.ACCEPTED, Event.COMPLETED)
    (before, _) = await journal.tasks.find(["done", "open"])
    for url in ("https://a/1", "https://a/forged", ""):
        await journal.callbacks.mark(url)
    assert await journal.callbacks.take() == ()
    assert await journal.tasks.find(["done"]) == (before,)


async def test_another_accounts_callback_marks_nothing(home: Home) -> None:
    ours, theirs = home.journal("one"), home.journal("one", account="other")
    await new(ours, intent("k", push_url="https://a/1"))
    await theirs.callbacks.mark("https://a/1")
    assert await ours.callbacks.take() == ()


async def test_the_version_changes_when_another_process_has_written_and_only_then(home: Home) -> None:
    one, two = home.journal("one"), home.journal("two")
    await new(one, intent("k1"))
    before = await one.leases.version()
    await two.tasks.recent(limit=9)
    assert await one.leases.version() == before
    await new(two, intent("k2"))
    with anyio.fail_after(30):
        while await one.leases.version() == before:
            await anyio.lowlevel.checkpoint()


async def test_a_task_made_elsewhere_is_adopted_once(home: Home) -> None:
    journal = home.journal()
    asked = intent("adopted-t", ImageRequest(action=Action.TEXT_TO_IMAGE, variant="?", model="?", prompt=""), None)
    record = await journal.tasks.adopt(asked, "t", at=AT)
    assert (record.key, record.task_id, record.state, record.owner) == ("adopted-t", "t", State.SUBMITTED, "a")
    assert await home.journal("b").tasks.adopt(asked, "t", at=AT + DAY) == record
    assert await journal.tasks.recent(limit=9) == (record,)


async def test_a_task_of_our_own_is_not_adopted_as_a_strangers(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("k"))
    record = await steps(journal, "k", Event.ACCEPTED)
    assert await journal.tasks.adopt(intent("adopted"), "task-k", at=AT) == record
    assert await journal.tasks.recent(limit=9) == (record,)


# --- what was spent ---


async def spent(journal: Journal, *, at: datetime = AT, session: str | None = "s") -> tuple[str, str]:
    found = await journal.money.spent(at=at, session=session)
    return f"{found.session_usd:.3f}", f"{found.daily_usd:.3f}"


async def test_nothing_was_spent_at_first(home: Home) -> None:
    assert await home.journal().money.spent(at=AT, session="s") == SpentSums()


@pytest.mark.parametrize(
    ("life", "usd", "counts"),
    [
        ((), None, "0.050"),
        ((Event.ACCEPTED,), None, "0.050"),
        ((Event.ACCEPTED, Event.PROCESSING), None, "0.050"),
        ((Event.ACCEPTED, Event.COMPLETED), None, "0.050"),
        ((Event.ACCEPTED, Event.COMPLETED), "0.045", "0.045"),
        ((Event.ACCEPTED, Event.COMPLETED), "0", "0.000"),
        ((Event.ACCEPTED, Event.COMPLETED), "0.061", "0.061"),
        ((Event.ACCEPTED, Event.COMPLETED, Event.DELIVERED), None, "0.050"),
        ((Event.ACCEPTED, Event.COMPLETED, Event.EXPIRED), None, "0.050"),
        ((Event.EXPIRED,), None, "0.050"),
        ((Event.ACCEPTED, Event.VANISHED), None, "0.050"),
        ((Event.REFUSED,), None, "0.000"),
        ((Event.ACCEPTED, Event.FAILED), None, "0.000"),
        ((Event.ACCEPTED, Event.FAILED), "0.05", "0.000"),
    ],
)
async def test_a_task_counts_with_its_reservation_until_it_is_charged_or_free(
    home: Home, life: tuple[Event, ...], usd: str | None, counts: str
) -> None:
    journal = home.journal()
    await new(journal, intent("k"))
    if life:
        await steps(journal, "k", *life, usd=usd)
    assert await spent(journal) == (counts, counts)


async def test_without_a_reservation_the_quote_counts_and_without_either_nothing_can(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("k1", usd="0.05", reserved_usd=None), intent("k2", usd=None))
    await new(journal, intent("k3", usd=None, reserved_usd=Decimal("0.30")))
    await new(journal, intent("k4", usd="0.05", reserved_usd=Decimal("0.10")))
    assert await spent(journal) == ("0.450", "0.450")


async def test_a_session_is_one_process_and_a_day_is_everybodys_last_24_hours(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("old"), at=AT - DAY)
    await new(journal, intent("k1"), at=AT - DAY + timedelta(seconds=1))
    await new(home.journal("b"), intent("k2", session="t"))
    await new(home.journal("c", account="other"), intent("k3"))
    await new(home.journal("d", account="sandbox"), intent("k3", usd="0.90"))
    await new(journal, intent("k4", session=None))
    assert await spent(journal) == ("0.150", "0.200")
    assert await spent(journal, session="t") == ("0.050", "0.200")
    assert await spent(journal, session=None) == ("0.000", "0.200")
    assert await spent(home.journal("e", account="sandbox")) == ("0.900", "0.900")


@pytest.mark.parametrize(
    ("caps", "name"),
    [
        (Caps(call_usd=Decimal("0.10")), "FLUX2_MAX_COST_USD"),
        (Caps(session_usd=Decimal("0.15")), "FLUX2_SESSION_BUDGET_USD"),
        (Caps(daily_usd=Decimal("0.15")), "FLUX2_DAILY_BUDGET_USD"),
    ],
)
async def test_a_call_that_passes_a_cap_writes_nothing_and_one_that_fits_to_the_cent_is_written(
    home: Home, caps: Caps, name: str
) -> None:
    journal = home.journal()
    await new(journal, intent("k0"), caps=caps)
    three = [intent(f"k{number}") for number in range(1, 4)]
    over = (await intend(journal, *three, caps=caps)).over
    assert over is not None
    assert (over.name, over.left_usd) == (name, Decimal("0.10"))
    assert len(await journal.tasks.recent(limit=9)) == 1
    await new(journal, *three[:2], caps=caps)


async def test_what_a_failure_releases_can_be_spent_again(home: Home) -> None:
    journal, caps = home.journal(), Caps(session_usd=Decimal("0.05"))
    await new(journal, intent("k1"), caps=caps)
    assert (await intend(journal, intent("k2"), caps=caps)).over is not None
    await steps(journal, "k1", Event.ACCEPTED, Event.FAILED)
    await new(journal, intent("k2"), caps=caps)


async def test_an_amount_too_large_for_the_file_still_counts_and_breaks_nothing(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("k1", usd="1E+300"), intent("k2", usd="1E+300"))
    assert (await intend(journal, intent("k3"), caps=Caps(daily_usd=Decimal(1_000_000)))).over is not None


async def test_two_journals_racing_for_the_last_cents_have_one_winner_each_time(home: Home) -> None:
    racers = [home.journal(owner) for owner in ("one", "two", "three")]
    won: list[str] = []

    async def race(journal: Journal, key: str, caps: Caps) -> None:
        if (await intend(journal, intent(key), caps=caps)).over is None:
            won.append(key)

    for number in range(1, 11):
        caps = Caps(daily_usd=Decimal("0.05") * number)
        async with anyio.create_task_group() as group:
            for racer, journal in enumerate(racers):
                group.start_soon(race, journal, f"{number}-{racer}", caps)
        assert len(won) == number


# --- how long tasks took ---


async def test_durations_are_seconds_from_submission_to_completion_oldest_first_by_kind(home: Home) -> None:
    journal = home.journal()
    lives = {"k1": (CAT, 7), "k2": (CAT, 5), "k3": (FULL, 9), "k4": (CAT, 3), "jump": (DOG, -60)}
    for number, (key, (request, seconds)) in enumerate(lives.items()):
        at = AT + timedelta(minutes=number)
        await new(journal, intent(key, request), at=at)
        await apply(journal, key, Event.ACCEPTED, TaskChange(at=at, task_id=key))
        await apply(journal, key, Event.COMPLETED, TaskChange(at=at + timedelta(seconds=seconds)))
    await steps(journal, "k2", Event.DELIVERED)
    await new(journal, intent("failed"), intent("open"))
    await steps(journal, "failed", Event.ACCEPTED, Event.FAILED)
    await steps(journal, "open", Event.ACCEPTED)
    assert await journal.history.durations() == {
        ("flux-2-pro-text-to-image", "1k"): (7.0, 5.0, 0.0, 3.0),
        ("flux-2-flex-remix-image", "2k"): (9.0,),
    }


# --- times ---


async def test_times_are_kept_to_the_microsecond_and_come_back_as_utc(home: Home) -> None:
    journal = home.journal()
    odd = datetime(2026, 3, 29, 2, 30, 1, 123_457, tzinfo=UTC).astimezone()
    (record,) = await new(journal, intent("k"), at=odd)
    assert record.created_at == odd
    assert record.created_at.tzinfo is UTC


async def test_every_call_leaves_the_event_loop_free(home: Home) -> None:
    """While another process holds the file, calls wait in threads; the loop turns on."""
    one, two = home.journal("one"), home.journal("two")
    await new(one, intent("k0"))
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            with home.busy():
                group.start_soon(new, two, intent("k1"))
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
                assert [record.key for record in await home.journal("three").tasks.recent(limit=9)] == ["k0"]
    assert len(await one.tasks.recent(limit=9)) == 2


async def test_an_id_adopted_before_its_own_create_was_answered_becomes_that_task(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("k"))
    await journal.tasks.adopt(intent("adopted-t"), "t", at=AT)
    accepted = await apply(journal, "k", Event.ACCEPTED, TaskChange(at=AT, task_id="t"))
    assert await journal.tasks.find(["t"]) == (accepted,)
    assert await journal.tasks.find(["adopted-t"]) == ()


async def test_a_task_of_our_own_that_was_written_down_anew_is_kept_when_another_create_brings_its_id(
    home: Home,
) -> None:
    """As the runner does with an open task whose row was lost."""
    journal = home.journal()
    restored = await journal.tasks.adopt(intent("k1"), "t", at=AT)
    await new(journal, intent("k2"))
    with pytest.raises(SameIdError):
        await apply(journal, "k2", Event.ACCEPTED, TaskChange(at=AT, task_id="t"))
    assert await journal.tasks.find(["k1", "t"]) == (restored, restored)
