"""The contract's suite: one person's journal. What is another person's is to it as if it were not there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from flux2_mcp.domain.budget import Caps, SpendingBy, refusal
from flux2_mcp.domain.lifecycle import Event, State
from flux2_mcp.domain.models import StoredImage
from flux2_mcp.domain.people import Person
from flux2_mcp.errors import BudgetError, InvalidRequestError, JournalError
from flux2_mcp.journal.contract import Journal
from flux2_mcp.journal.records import Intent, TaskChange, TaskFilter, TaskRecord, adopted, digests
from tests.support.journals import AT, CAT, NO_CAPS, Home, apply, intend, intent, new, steps

pytestmark = pytest.mark.anyio

ADA, BEN = (Person(issuer="https://sso.example.com", subject=name).key for name in ("ada", "ben"))
IMAGE = StoredImage(
    path="/home/ada/a.png", mime_type="image/png", width=1024, height=768, size_bytes=9, sha256="a" * 64
)
LATER = AT + timedelta(minutes=5)


def test_a_person_is_known_by_issuer_and_subject_together() -> None:
    keys = {
        Person(issuer=issuer, subject=subject, name=name, admin=admin).key
        for issuer, subject in (("https://a.example", "1"), ("https://a.example", "2"), ("https://b.example", "1"))
        for name, admin in ((None, False), ("Ada", True))
    }
    assert len(keys) == 3
    assert {len(key) for key in keys} == {32}


async def delivered(journal: Journal, *intents: Intent) -> None:
    await new(journal, *intents)
    for each in intents:
        await steps(journal, each.key, Event.ACCEPTED, Event.COMPLETED, usd="0.05")
        await apply(journal, each.key, Event.DELIVERED, TaskChange(at=AT, images=(IMAGE,)))


async def test_what_is_written_for_a_person_is_theirs_wherever_it_is_read_and_nobodys_without_one(home: Home) -> None:
    journal = home.journal()
    (own,) = await new(journal.of(ADA), intent("k1", person=BEN))
    (nobodys,) = await new(journal, intent("k2"))
    assert (own.person, nobodys.person) == (ADA, None)
    assert Intent.from_record(own).person == ADA
    assert await home.journal("b").tasks.find(["k1", "k2"]) == (own, nobodys)
    assert await home.journal("b").leases.claim(take=False) == ()
    assert {record.person for record in await journal.leases.claim()} == {ADA, None}
    (again,) = await new(home.journal("c"), Intent.from_record(own))  # as after a broken file
    assert again.person == ADA


Look = Callable[[Journal], Awaitable[Any]]
LOOKS: dict[str, Look] = {
    "find by key": lambda journal: journal.tasks.find(["k", "k.1"]),
    "find by id": lambda journal: journal.tasks.find(["task-k"]),
    "recent": lambda journal: journal.tasks.recent(limit=9),
    "recent that has not ended": lambda journal: journal.tasks.recent(
        limit=9, wanted=TaskFilter(states={State.INTENT})
    ),
    "recent with a prompt": lambda journal: journal.tasks.recent(limit=9, wanted=TaskFilter(query="CAT")),
    "recent with a file": lambda journal: journal.tasks.recent(limit=9, wanted=TaskFilter(sha256=IMAGE.sha256)),
    "recent since": lambda journal: journal.tasks.recent(limit=9, wanted=TaskFilter(since=AT)),
    "recent in a folder": lambda journal: journal.tasks.recent(limit=9, wanted=TaskFilter(workspace="/work")),
    "newest": lambda journal: _keys(journal.tasks.newest(limit=9)),
    "broken off": lambda journal: journal.tasks.broken_off(digests([CAT, CAT]), since=AT - timedelta(days=1), limit=9),
    "followers": lambda journal: journal.tasks.followers(["k"]),
    "matched": lambda journal: journal.history.matched(),
    "matched in a folder": lambda journal: journal.history.matched(TaskFilter(workspace="/work")),
    "with images": lambda journal: journal.history.with_images(LATER),
    **{
        f"spending by {by}": lambda journal, by=by: journal.history.spending(by, since=None)  # type: ignore[misc]
        for by in SpendingBy
    },
    "spending since": lambda journal: journal.history.spending(SpendingBy.VARIANT, since=AT),
}
"""Each way in which a journal answers a caller."""


async def _keys(listed: Awaitable[Any]) -> list[tuple[str, str | None]]:
    return [(each.key, each.task_id) for each in await listed]


@pytest.mark.parametrize("name", LOOKS)
async def test_every_look_shows_a_person_their_own_tasks_and_an_admin_all(home: Home, name: str) -> None:
    look, journal = LOOKS[name], home.journal()
    nothing = await look(journal.of(ADA))
    ada = journal.of(ADA)
    await delivered(ada, intent("k"))
    await new(ada, intent("k.1", follows="k"))
    if name == "broken off":
        await steps(ada, "k.1", Event.REFUSED)
    seen = await look(ada)
    assert seen != nothing
    assert await look(journal.of(BEN)) == nothing
    assert await look(journal) == (nothing if name == "broken off" else seen)
    # An admin sees all, and still goes on from no picture of another person.
    assert await look(journal.of(BEN, sees_all=True)) == (nothing if name == "broken off" else seen)


async def test_a_page_begins_before_a_task_of_ones_own_only(home: Home) -> None:
    journal = home.journal()
    await new(journal.of(BEN), intent("b1"), intent("b2"))
    await new(journal.of(ADA), intent("a1"))
    ben = journal.of(BEN)
    assert [record.key for record in await ben.tasks.recent(limit=9, before="b2")] == ["b1"]
    assert await ben.tasks.recent(limit=9, before="a1") == ()
    assert await ben.tasks.newest(limit=9, before="a1") == ()


async def test_the_way_to_a_picture_ends_at_another_persons_task(home: Home) -> None:
    journal = home.journal()
    await delivered(journal.of(ADA), intent("k"))
    (next_one,) = await new(journal.of(BEN), intent("n", follows="k"))
    assert await journal.of(BEN).tasks.led_to([next_one]) == (next_one,)
    assert [record.key for record in await journal.tasks.led_to([next_one])] == ["k", "n"]


async def test_an_identical_call_joins_a_task_of_the_same_person_alone_even_an_admins(home: Home) -> None:
    journal = home.journal()
    await new(journal.of(ADA), intent("a"))
    for number, other in enumerate((journal.of(BEN, sees_all=True), journal)):
        one = await intend(other, intent(f"k{number}"), join=True)
        assert (one.joined, [record.key for record in one.records]) == (False, [f"k{number}"])
    own = await intend(journal.of(BEN), intent("b"), join=True)  # what they asked for as an admin is theirs
    assert (own.joined, own.records[0].key) == (True, "k0")
    joined = await intend(journal.of(ADA), intent("a2"), join=True)
    assert (joined.joined, joined.records[0].key) == (True, "a")


async def test_a_key_of_another_person_is_refused_and_shows_nothing_of_their_task(home: Home) -> None:
    journal = home.journal()
    await new(journal.of(ADA), intent("k"))
    for other in (journal.of(BEN), journal.of(BEN, sees_all=True), journal):
        with pytest.raises(InvalidRequestError, match="was used for another request"):
            await intend(other, intent("k"))
    assert len(await journal.tasks.recent(limit=9)) == 1


async def test_a_task_made_elsewhere_is_recorded_for_an_admin_and_not_for_a_person(home: Home) -> None:
    journal = home.journal()
    await delivered(journal.of(ADA), intent("k"))
    elsewhere = home.journal(account="runapi.ai:ba9876543210")
    await new(elsewhere, intent("far"))
    await steps(elsewhere, "far", Event.ACCEPTED)
    ben = journal.of(BEN)
    for task_id in ("task-k", "task-far", "task-nowhere"):
        with pytest.raises(JournalError, match="does not know this task"):
            await ben.tasks.adopt(intent(adopted(task_id)), task_id, at=AT)
    assert [record.key for record in await journal.tasks.recent(limit=9)] == ["k"]
    admin = journal.of(BEN, sees_all=True)
    found = [await admin.tasks.adopt(intent(adopted(each)), each, at=AT) for each in ("task-k", "task-far", "task-new")]
    assert [(record.key, record.person) for record in found] == [
        ("k", ADA),
        ("far", None),
        (adopted("task-new"), BEN),
    ]
    assert await ben.tasks.adopt(intent(adopted("task-new")), "task-new", at=AT) == found[-1]


async def unchanged(act: Awaitable[object]) -> None:
    with pytest.raises(JournalError, match="does not know this task"):
        await act


async def test_nothing_of_another_persons_task_is_changed(home: Home) -> None:
    journal = home.journal()
    ada, ben = journal.of(ADA), journal.of(BEN)
    await delivered(ada, intent("k"))
    (open_one,) = await new(ada, intent("open"))
    (source,) = await new(ada, intent("k.1", follows="k"))
    before = await journal.tasks.recent(limit=9)
    await unchanged(ben.tasks.apply(open_one, Event.ACCEPTED, TaskChange(at=AT, task_id="t")))
    await unchanged(ben.tasks.start(open_one, at=AT, in_flight=9))
    await unchanged(ben.tasks.supply(source, CAT, at=AT, caps=NO_CAPS))
    await unchanged(ben.tasks.claim_name(open_one, "/project/a.png"))
    await ben.history.keep_images("k", [])
    for other in (ben, journal.of(BEN, sees_all=True), journal):
        await other.tasks.mark_reported(["k", "open"], at=AT)
    assert await journal.tasks.recent(limit=9) == before
    joined = await intend(ada, intent("again"), join=True)
    assert joined.joined  # it was not reported to the person themselves
    # And for the person themselves each of them does what it says.
    assert (await ada.tasks.apply(open_one, Event.ACCEPTED, TaskChange(at=AT, task_id="t"))).task_id == "t"
    await ada.tasks.mark_reported(["open", "k.1", "k"], at=AT)
    await ada.history.keep_images("k", [])
    assert not (await intend(ada, intent("fresh"), join=True)).joined
    assert (await ada.tasks.find(["k"]))[0].images == ()


async def test_money_places_and_files_in_use_count_over_all_people(home: Home) -> None:
    journal = home.journal()
    ada, ben = journal.of(ADA), journal.of(BEN)
    await delivered(ada, intent("k"))
    await new(ada, intent("open"))
    assert await ben.money.spent(at=AT, session="s") == await ada.money.spent(at=AT, session="s")
    assert (await ben.money.spent(at=AT, session=None)).daily_usd == Decimal("0.10")
    refused = await intend(ben, intent("b"), caps=Caps(daily_usd=Decimal("0.12")))
    assert (refused.records, refused.over is None) == ((), False)
    (waiting,) = await new(ben, intent("b"), in_flight=1)
    assert not waiting.started
    assert await ben.history.still_used([IMAGE.path, "/home/ada/other.png"]) == {IMAGE.path}
    assert await ben.history.durations() == await journal.history.durations() != {}


async def test_the_sums_of_a_person_are_those_of_their_own_tasks(home: Home) -> None:
    journal = home.journal()
    ada, ben = journal.of(ADA), journal.of(BEN)
    for person, keys in ((ada, ["a1", "a2"]), (ben, ["b1"]), (journal, ["n1"])):
        await delivered(person, *map(intent, keys))
    for wanted in (TaskFilter(), TaskFilter(since=AT), TaskFilter(states={State.DELIVERED})):
        sums = [await each.history.matched(wanted) for each in (ada, ben, journal, journal.of(BEN, sees_all=True))]
        assert [(each.tasks, each.charged_usd) for each in sums] == [
            (2, Decimal("0.10")),
            (1, Decimal("0.05")),
            (4, Decimal("0.20")),
            (4, Decimal("0.20")),
        ]


async def test_a_persons_journal_is_the_same_one_beside_its_tasks(home: Home) -> None:
    journal = home.journal()
    view = journal.of(ADA)
    await new(view, intent("k"))
    assert (view.owner, view.exists, view.leases, view.pace) == (journal.owner, True, journal.leases, journal.pace)
    record: TaskRecord = (await journal.leases.claim())[0]
    assert replace(record, person=None) == replace((await view.tasks.find(["k"]))[0], person=None)


async def test_a_persons_caps_count_their_own_money_alone_over_a_day_and_a_month(home: Home) -> None:
    journal = home.journal()
    caps = Caps(person_daily_usd=Decimal("0.10"), person_monthly_usd=Decimal("0.18"), monthly_usd=Decimal("0.30"))
    ada, ben = journal.of(ADA), journal.of(BEN, sees_all=True)

    async def asked(whose: Journal, key: str, usd: str, days: float = 0) -> str | None:
        at = AT + timedelta(days=days)
        one = intent(key, quoted_usd=Decimal(usd), reserved_usd=Decimal(usd))
        over = (await whose.tasks.intend([one], at=at, caps=caps, join=False, in_flight=9)).over
        return None if over is None else f"{over.name} {over.left_usd}"

    assert await asked(ada, "a1", "0.06") is None
    assert await asked(ada, "a2", "0.05") == "FLUX2_PERSON_DAILY_BUDGET_USD 0.04"
    assert await asked(ben, "b1", "0.10") is None
    assert await asked(ben, "b2", "0.01") == "FLUX2_PERSON_DAILY_BUDGET_USD 0"  # an admin's own, too
    assert await asked(home.journal("z", account="runapi.ai:ba9876543210").of(ADA), "z1", "0.05") is not None
    assert await asked(ada, "a3", "0.09", days=2) is None
    assert await asked(ada, "a4", "0.04", days=4) == "FLUX2_PERSON_MONTHLY_BUDGET_USD 0.03"
    assert await asked(journal, "n1", "0.04", days=4) is None  # nobody's: no person's cap
    assert await asked(journal, "n2", "0.02", days=4) == "FLUX2_MONTHLY_BUDGET_USD 0.01"
    assert await asked(ada, "a5", "0.04", days=31) is None  # what is a month old is not counted
    spent = await ada.money.spent(at=AT, session=None, caps=caps)
    assert (spent.person_daily_usd, spent.person_monthly_usd, spent.monthly_usd) == (
        Decimal("0.19"), Decimal("0.19"), Decimal("0.33"),
    )  # fmt: skip
    assert (await journal.money.spent(at=AT, session=None, caps=caps)).person_daily_usd is None


async def test_a_person_of_a_team_is_not_told_to_raise_the_cap_of_all(home: Home) -> None:
    caps = Caps(daily_usd=Decimal("0.10"))
    for journal, advice in (
        (home.journal(), "raise FLUX2"),
        (home.journal().of(ADA), "whoever runs the server raises FLUX2"),
    ):
        one = intent("k", quoted_usd=Decimal("0.20"), reserved_usd=Decimal("0.20"))
        intended = await journal.tasks.intend([one], at=AT, caps=caps, join=False, in_flight=9)
        assert intended.over is not None
        refused = refusal(intended.wanted_usd, intended.over, None)
        assert refused.next_step == f"Nothing of this kind fits any more. Or {advice}_DAILY_BUDGET_USD."


async def test_a_later_step_counts_against_the_cap_of_whose_it_is_whoever_makes_it(home: Home) -> None:
    journal = home.journal()
    caps = Caps(person_daily_usd=Decimal("0.11"))
    await new(journal.of(ADA), intent("k", quoted_usd=Decimal("0.06"), reserved_usd=Decimal("0.06")))
    later = intent("k.1", follows="k", quoted_usd=Decimal("0.05"), reserved_usd=Decimal("0.05"))
    (step,) = await new(journal.of(ADA), later)
    await steps(journal, "k", Event.ACCEPTED)
    await steps(journal, "k", Event.COMPLETED, usd="0.08")  # more than was quoted
    with pytest.raises(BudgetError, match=r"FLUX2_PERSON_DAILY_BUDGET_USD is \$0\.11, and it is used up") as refused:
        await journal.tasks.supply(step, CAT, at=AT, caps=caps)
    assert refused.value.next_step == "Wait: it counts the last 24 hours; or whoever runs the server raises it."


def person(subject: str, name: str | None = None) -> Person:
    return Person(issuer="https://sso.example.com", subject=subject, name=name)


async def test_who_has_called_is_known_by_every_process_with_the_name_of_now_and_their_caps_stay(home: Home) -> None:
    journal = home.journal()
    assert await journal.people.known() == ()
    assert not await journal.people.cap(ADA, daily_usd=Decimal(1), monthly_usd=None, at=AT)
    await journal.people.meet(person("ada", "Ada"), at=AT)
    await journal.people.meet(person("ben"), at=LATER)
    assert await journal.people.cap(ADA, daily_usd=Decimal("1.25"), monthly_usd=Decimal(0), at=AT)
    await home.journal("b").people.meet(person("ada", "Ada L."), at=LATER + timedelta(hours=2))
    known = await home.journal("c", account="runapi.ai:ba9876543210").people.known()
    assert [(each.key, each.name, each.daily_usd, each.monthly_usd) for each in known] == [
        (ADA, "Ada L.", Decimal("1.25"), Decimal(0)),
        (BEN, None, None, None),
    ]
    assert known[0].seen_at == LATER + timedelta(hours=2)


async def test_a_cap_of_ones_own_holds_in_the_place_of_everybodys_lower_or_higher(home: Home) -> None:
    journal = home.journal()
    for name in ("ada", "ben", "cy"):
        await journal.people.meet(person(name), at=AT)
    everybodys = Caps(person_daily_usd=Decimal("0.10"), call_usd=Decimal(3))
    await journal.people.cap(ADA, daily_usd=Decimal("0.02"), monthly_usd=None, at=AT)
    await journal.people.cap(BEN, daily_usd=Decimal("0.50"), monthly_usd=Decimal("0.30"), at=AT)

    async def asked(name: str, usd: str, caps: Caps = everybodys) -> str | None:
        one = intent(f"{name} {usd}", quoted_usd=Decimal(usd), reserved_usd=Decimal(usd))
        whose = journal.of(person(name).key)
        over = (await whose.tasks.intend([one], at=AT, caps=caps, join=False, in_flight=9)).over
        return None if over is None else f"{over.name} {over.cap_usd}"

    assert await asked("ada", "0.03") == "FLUX2_PERSON_DAILY_BUDGET_USD 0.02"
    assert await asked("ada", "0.04", NO_CAPS) == "FLUX2_PERSON_DAILY_BUDGET_USD 0.02"  # also where nobody else has one
    assert await asked("ben", "0.29") is None
    assert await asked("ben", "0.05") == "FLUX2_PERSON_MONTHLY_BUDGET_USD 0.3"
    assert await asked("cy", "0.11") == "FLUX2_PERSON_DAILY_BUDGET_USD 0.10"
    assert (await journal.of(ADA).money.in_force(everybodys)).person_daily_usd == Decimal("0.02")
    assert (await journal.of(ADA).money.in_force(everybodys)).call_usd == Decimal(3)
    assert await journal.money.in_force(everybodys) == everybodys
    # A task without a price can't be admitted under a cap of one's own either.
    unpriced = intent("u", quoted_usd=None, reserved_usd=None)
    with pytest.raises(BudgetError, match="Nobody publishes a price"):
        await journal.of(ADA).tasks.intend([unpriced], at=AT, caps=NO_CAPS, join=False, in_flight=9)
