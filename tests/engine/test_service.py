"""The service over real HTTP and a real journal: whatever happens in between, a task is paid once and its image arrives."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from functools import partial
from pathlib import Path

import anyio
import pytest
from msgspec.structs import force_setattr

from flux2_mcp.domain import catalog
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine import submission
from flux2_mcp.engine.seam import Timing
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.steps import UNANSWERED
from flux2_mcp.engine.waiting import Outcome, Progress
from flux2_mcp.errors import (
    AuthenticationError,
    InsufficientCreditsError,
    InvalidRequestError,
    JournalError,
    NotFoundError,
    ServiceError,
    TransportError,
)
from flux2_mcp.server.results import task_words
from flux2_mcp.server.results import tasks as task_results
from tests.support.deep import deep_but
from tests.support.faults import bounded
from tests.support.rows import rows
from tests.support.services import (
    BUSY,
    CREATE,
    FETCH,
    GARBAGE,
    NO_MONEY,
    PAGE,
    PATIENCE,
    POLL,
    UNKNOWN_TASK,
    WRONG_KEY,
    Counted,
    Front,
    Reply,
    Seen,
    always,
    backend_of,
    constantly,
    fronted,
    journal_of,
    limited,
    made,
    made_then_cut,
    opened,
    states,
    through,
    until,
)

pytestmark = pytest.mark.anyio

STUCK = "a red fox [sandbox:stuck]"
SLOW = "a red fox [sandbox:slow]"
SOON = Timing(key_trouble_seconds=0.1, claim_seconds=0.05)


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


def paid_once(front: Front, *outcomes: Outcome) -> bool:
    """Whether the tasks that RunAPI made are exactly those that were told, each made under one key."""
    ids = sorted(str(told.record.task_id) for outcome in outcomes for told in outcome.tasks)
    keys = Counter(task.idempotency_key for task in front.tasks())
    return sorted(task.id for task in front.tasks()) == ids and set(keys.values()) == {1}


# --- trouble on the way ---


async def test_a_connection_lost_after_the_task_was_made_costs_one_task(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        outcome = await made(service, "a red fox [sandbox:create_lost]")
    assert states(outcome) == [State.DELIVERED]
    assert paid_once(front, outcome)
    assert front.count(CREATE) == 2


async def test_a_create_that_no_process_heard_of_is_found_by_the_next_one(front: Front, tmp_path: Path) -> None:
    front.rule = made_then_cut(99)
    async with opened(front.settings(tmp_path)) as first, anyio.create_task_group() as group:
        group.start_soon(made, first)
        await until(lambda: len(front.tasks()) == 1)
        group.cancel_scope.cancel()
    front.rule = through
    async with opened(front.settings(tmp_path)) as second:
        outcome = await second.recent(limit=10, wait_seconds=30)
    assert states(outcome) == [State.DELIVERED]
    assert paid_once(front, outcome)


@pytest.mark.parametrize("reply", [NO_MONEY, pytest.param(WRONG_KEY, marks=pytest.mark.deep)], ids=["402", "401"])
async def test_a_create_that_no_process_heard_of_is_not_given_up_by_the_next_one_for_a_refusal(
    front: Front, tmp_path: Path, reply: Reply
) -> None:
    front.rule = made_then_cut(99)
    async with opened(front.settings(tmp_path)) as first, anyio.create_task_group() as group:
        group.start_soon(made, first)
        await until(lambda: len(front.tasks()) == 1)
        group.cancel_scope.cancel()
    front.rule = always(CREATE, reply)
    async with opened(front.settings(tmp_path), timing=SOON) as second:

        async def collected() -> bool:
            return states(await second.recent(limit=10)) == [State.DELIVERED]

        await until(collected)
    assert len(front.tasks()) == 1


@pytest.mark.parametrize(
    "reply", deep_but([BUSY, PAGE, GARBAGE, None], PAGE, GARBAGE), ids=["503", "page", "garbage", "cut"]
)
async def test_a_storm_longer_than_the_clients_own_patience_ends_in_one_image(
    front: Front, tmp_path: Path, reply: Reply | None
) -> None:
    # The client gives up a create after four attempts; a 2xx that makes no sense it does not try again at all.
    front.rule = (
        always(CREATE, *[reply] * 5, then=always(POLL, *[reply] * 12))
        if reply is not GARBAGE
        else always(CREATE, reply, then=always(POLL, *[reply] * 12))
    )
    async with opened(front.settings(tmp_path)) as service:
        outcome = await made(service)
    assert states(outcome) == [State.DELIVERED]
    assert paid_once(front, outcome)
    assert outcome.tasks[0].trouble is None


@pytest.mark.parametrize("dated", [False, True], ids=["seconds", "date"])
async def test_nothing_is_sent_before_a_429_allows_it(front: Front, tmp_path: Path, *, dated: bool) -> None:
    allowed, refused = 0.0, None

    async def rule(seen: Seen) -> Reply | None:
        nonlocal allowed, refused
        if allowed or not seen.is_(CREATE):
            return await through(seen)
        refused = seen.key
        if not dated:
            allowed = time.monotonic() + 2
            return limited("2")
        date = (datetime.now(UTC) + timedelta(seconds=3)).replace(microsecond=0)
        allowed = time.monotonic() + (date - datetime.now(UTC)).total_seconds()
        return limited(format_datetime(date, usegmt=True))

    front.rule = rule
    async with opened(front.settings(tmp_path)) as service:
        await made(service, "a red fox [sandbox:instant]")
    _, again = [seen for seen in front.seen if seen.is_(CREATE) and seen.key == refused]
    assert again.at >= allowed - 0.001
    assert len(front.tasks()) == 1


async def test_a_key_that_turns_wrong_while_polling_is_told_and_the_task_is_not_lost(
    front: Front, tmp_path: Path
) -> None:
    front.rule = constantly(POLL, WRONG_KEY)
    async with opened(front.settings(tmp_path), timing=SOON) as service:
        with anyio.fail_after(PATIENCE):  # it does not pass by itself, so nobody is kept waiting
            outcome = await made(service, SLOW, wait=600)
        assert isinstance(outcome.tasks[0].trouble, AuthenticationError)
        result = task_results.generation(outcome)
        assert result.tasks[0].error is not None
        assert "401" in result.tasks[0].error
        assert result.next_action is not None
        front.rule = through
        await until(lambda: front.count(FETCH) > 0)
        checked = await service.check(result.next_action.arguments["task_ids"], wait_seconds=30)
    assert states(checked) == [State.DELIVERED]
    assert paid_once(front, checked)


@pytest.mark.parametrize(
    ("reply", "kind"), [(NO_MONEY, InsufficientCreditsError), (WRONG_KEY, AuthenticationError)], ids=["402", "401"]
)
async def test_a_refused_create_is_raised_and_holds_no_budget(
    front: Front, tmp_path: Path, reply: Reply, kind: type[Exception]
) -> None:
    front.rule = always(CREATE, reply)
    async with opened(front.settings(tmp_path)) as service:
        with pytest.raises(kind):
            await made(service, wait=0)
        spent = await journal_of(service).money.spent(at=datetime.now(UTC), session=service.session)
        assert spent.daily_usd == 0
        assert states(await service.recent(limit=5)) == [State.REJECTED]
    assert front.tasks() == []


async def test_of_several_tasks_one_that_was_refused_is_told_beside_the_others(front: Front, tmp_path: Path) -> None:
    front.rule = always(CREATE, NO_MONEY)
    async with opened(front.settings(tmp_path)) as service:
        outcome = await made(service, count=3)
    assert sorted(states(outcome)) == [State.DELIVERED, State.DELIVERED, State.REJECTED]
    assert task_results.generation(outcome).status == "partial"
    assert len(front.tasks()) == 2


async def test_without_a_network_the_call_says_so_at_once_and_nothing_is_left_to_send(
    front: Front, tmp_path: Path
) -> None:
    settings = front.settings(tmp_path)
    force_setattr(settings, "base_url", "http://127.0.0.1:9")
    async with opened(settings) as service:
        with pytest.raises(TransportError):
            await made(service)
        assert states(await service.recent(limit=5)) == [State.REJECTED]


async def test_a_task_that_runapi_denies_for_a_moment_is_still_collected(front: Front, tmp_path: Path) -> None:
    front.rule = always(POLL, *[UNKNOWN_TASK] * 4)
    async with opened(front.settings(tmp_path)) as service:
        outcome = await made(service)
    assert states(outcome) == [State.DELIVERED]


async def test_an_image_that_could_not_be_fetched_is_fetched_when_somebody_asks_for_it(
    front: Front, tmp_path: Path
) -> None:
    front.rule = constantly(FETCH, Reply(503))
    async with opened(front.settings(tmp_path)) as service:
        first = await made(service)
        assert states(first) == [State.COMPLETED]
        assert "503" in str(first.tasks[0].trouble)
        await until(lambda: front.count(FETCH) >= 6)  # by now it is put off for seconds
        front.rule = through
        checked = await service.check([str(first.tasks[0].record.task_id)], wait_seconds=30)
    assert states(checked) == [State.DELIVERED]
    assert Path(checked.tasks[0].record.images[0].path).exists()
    assert paid_once(front, checked)


async def test_who_asks_while_a_fetch_is_failing_is_told_of_the_one_after_it(front: Front, tmp_path: Path) -> None:
    front.rule = constantly(FETCH, Reply(503))
    held, asked = anyio.Event(), anyio.Event()

    async def holding(seen: Seen) -> Reply | None:
        if not seen.is_(FETCH):
            return await through(seen)
        held.set()
        await asked.wait()
        front.rule = through if front.count(FETCH) % 2 == 0 else holding  # each try fetches twice; both fail
        return Reply(503)

    async with opened(front.settings(tmp_path)) as service:
        first = await made(service)
        assert states(first) == [State.COMPLETED]
        front.rule = holding
        with anyio.fail_after(30):
            await held.wait()
        entry, outcomes = first.tasks[0].record, list[Outcome]()

        async def waits(_: Progress) -> None:
            asked.set()

        outcomes.append(await service.check([str(entry.task_id)], wait_seconds=30, on_progress=waits))
    assert [states(outcome) for outcome in outcomes] == [[State.DELIVERED]]
    assert paid_once(front, outcomes[0])


# --- the disk ---


async def test_with_a_full_disk_nothing_is_sent_and_the_error_says_why(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        await made(service)
        await bounded(journal_of(service), more_pages=0)
        before = front.count(CREATE)

        async def fill() -> None:
            for number in range(200):  # until the pages that are there are used up
                await made(service, "a fox " * 800 + str(number), wait=0)

        with pytest.raises(JournalError, match="full") as raised:
            await fill()
        assert raised.value.cost == "Nothing was sent and nothing was charged."
        assert "free space" in raised.value.next_step
        written = len(await journal_of(service).tasks.recent(limit=500))
        sent = {seen.key for seen in front.seen if seen.is_(CREATE)}
        assert len(sent) <= written
        assert len(front.tasks()) <= written
        await bounded(journal_of(service), more_pages=1_000_000)
        outcome = await made(service, "there is room again")
        await until(lambda: front.count(CREATE) > before)
    assert states(outcome) == [State.DELIVERED]


async def test_in_a_home_that_can_not_be_written_nothing_is_sent(front: Front, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file, where a folder is needed")
    async with opened(front.settings(tmp_path)) as service:
        with pytest.raises(JournalError, match="can't be used") as raised:
            await made(service)
    assert "writable folder" in raised.value.next_step
    assert front.sandbox.creates() == 0


async def test_a_corrupt_journal_is_moved_aside_and_the_result_says_so(front: Front, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "journal.sqlite3").write_bytes(b"no database at all " * 500)
    async with opened(front.settings(tmp_path)) as service:
        outcome = await made(service)
    assert states(outcome) == [State.DELIVERED]
    notice = task_results.generation(outcome).notice or ""
    (aside,) = home.glob("journal-broken-*.sqlite3")
    assert aside.name in notice
    assert aside.read_bytes() == b"no database at all " * 500


# --- ids, keys, waiting ---


async def test_an_unanswered_intent_of_yesterday_is_never_sent_again(front: Front, tmp_path: Path) -> None:
    front.rule = constantly(CREATE, None)
    async with opened(front.settings(tmp_path)) as first, anyio.create_task_group() as group:
        group.start_soon(made, first)
        await until(lambda: front.count(CREATE) >= 1)
        group.cancel_scope.cancel()
    sent = front.count(CREATE)  # the same create may have been sent again before the end
    database = sqlite3.connect(tmp_path / "home" / "journal.sqlite3")
    database.execute("UPDATE task SET created_at = created_at - 86401")
    database.commit()
    database.close()
    front.rule = through
    async with opened(front.settings(tmp_path)) as second:
        outcome = await second.recent(limit=5, wait_seconds=30)
        assert states(outcome) == [State.UNKNOWN]
        spent = await journal_of(second).money.spent(at=datetime.now(UTC), session=outcome.tasks[0].record.session)
        assert spent.session_usd == Decimal("0.05")  # caps fail closed
    assert front.count(CREATE) == sent
    assert UNANSWERED in task_words.words(task_results.generation(outcome))


async def test_waiting_for_nothing_returns_once_runapi_has_answered(front: Front, tmp_path: Path) -> None:
    gate = anyio.Event()

    async def rule(seen: Seen) -> Reply | None:
        if seen.is_(CREATE):
            await gate.wait()
        return await through(seen)

    front.rule = rule
    async with opened(front.settings(tmp_path)) as service, anyio.create_task_group() as group:
        outcomes = []

        async def call() -> None:
            outcomes.append(await made(service, STUCK, wait=0))

        group.start_soon(call)
        await until(lambda: front.count(CREATE) >= 1)
        assert outcomes == []
        gate.set()
        await until(lambda: bool(outcomes))
    assert outcomes[0].tasks[0].record.task_id == front.tasks()[0].id
    assert outcomes[0].tasks[0].record.state.unfinished


async def test_waiting_for_nothing_while_runapi_is_down_ends_with_the_trouble_and_our_own_handle(
    front: Front, tmp_path: Path
) -> None:
    front.rule = constantly(CREATE, BUSY)
    async with opened(front.settings(tmp_path)) as service:
        outcome = await made(service, wait=0)
        told = outcome.tasks[0]
        assert isinstance(told.trouble, ServiceError)
        result = task_results.generation(outcome)
        assert result.tasks[0].status == "submitting"
        assert result.next_action is not None
        assert result.next_action.arguments == {"task_ids": [told.record.key]}
        front.rule = through
        checked = await service.check([told.record.key], wait_seconds=30)
    assert states(checked) == [State.DELIVERED]
    assert paid_once(front, checked)


async def test_an_id_that_runapi_alone_knows_is_adopted_once_and_collected(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        api = await backend_of(service).api()
        remote = await api.create(catalog.request(prompt=SLOW), idempotency_key="made elsewhere")
        outcome = await service.check([remote.task_id, remote.task_id], wait_seconds=30)
        again = await service.check([remote.task_id], wait_seconds=30)
    assert states(outcome) == states(again) == [State.DELIVERED]
    assert len(front.tasks()) == 1


async def test_a_task_that_another_process_has_adopted_meanwhile_is_left_to_it(front: Front, tmp_path: Path) -> None:
    both_asked, by_first, by_second = anyio.Event(), Counted(), Counted()

    async def rule(seen: Seen) -> Reply | None:
        """Both ask RunAPI before either writes."""
        if seen.is_(POLL):
            if front.count(POLL) > polls + 1:
                both_asked.set()
            await both_asked.wait()
        return await through(seen)

    settings, seldom = front.settings(tmp_path), Timing(claim_seconds=PATIENCE)  # no claim puts right what was wrong
    async with (
        opened(settings, connect=by_first.connect, timing=seldom) as first,
        opened(settings, connect=by_second.connect, timing=seldom) as second,
    ):
        for service in (first, second):  # both are at work
            await made(service, f"for {service.session}")
        front.rule, polls = rule, front.count(POLL)
        api = await backend_of(first).api()
        remote = await api.create(catalog.request(prompt=STUCK), idempotency_key="made elsewhere")
        before = {id(each): each.calls for each in (by_first, by_second)}
        async with anyio.create_task_group() as group:
            for service in (first, second):
                group.start_soon(partial(service.check, [remote.task_id], wait_seconds=0))
        (adopted,) = await journal_of(first).tasks.find([remote.task_id])
        assert adopted.owner in {first.session, second.session}
        mine, other = (by_first, by_second) if adopted.owner == first.session else (by_second, by_first)
        await until(lambda: mine.calls >= before[id(mine)] + 10)
        assert other.calls == before[id(other)] + 1  # before it was adopted


async def test_an_id_that_nobody_knows_is_an_error(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        with pytest.raises(NotFoundError, match="Neither the journal nor RunAPI"):
            await service.check(["no-such-task"], wait_seconds=0)


@rows("count", [1, 2, 8])
@rows("steps", [1, 2, 3])
def test_the_longest_key_that_a_refusal_names_passes_and_no_longer_one(count: int, steps: int) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        submission.keys("k" * 600, count, steps)
    most = int(caught.value.problems[0].text.removeprefix("must be 1 to ").partition(" ")[0])
    assert submission.keys("k" * most, count, steps)[0] == "k" * most
    with pytest.raises(InvalidRequestError):
        submission.keys("k" * (most + 1), count, steps)
    assert most == {(1, 1): 512, (1, 2): 510, (1, 3): 508, (2, 1): 510, (8, 3): 506}.get((count, steps), most)


@pytest.mark.parametrize("key", ["schlüssel", " ", "a\nb", "k" * 513])
async def test_an_idempotency_key_that_can_not_be_sent_is_refused_before_anything_is_written(
    front: Front, tmp_path: Path, key: str
) -> None:
    async with opened(front.settings(tmp_path)) as service:
        with pytest.raises(InvalidRequestError, match="idempotency_key"):
            await made(service, idempotency_key=key)
        assert await journal_of(service).tasks.recent(limit=5) == ()
    assert front.count(CREATE) == 0


@pytest.mark.parametrize("counts", deep_but([(1, 2, 8, 1, 3), (8, 1), (2, 1, 4)], (2, 1, 4)))
async def test_the_first_tasks_of_a_key_are_the_same_whatever_the_count(
    front: Front, tmp_path: Path, counts: tuple[int, ...]
) -> None:
    seen: list[str | None] = []
    async with opened(front.settings(tmp_path)) as service:
        for count in counts:
            outcome = await made(service, idempotency_key="fox", count=count)
            ids = [told.record.task_id for told in outcome.tasks]
            assert ids[: len(seen)] == seen[:count]
            seen = max(seen, ids, key=len)
    assert front.count(CREATE) == len(front.tasks()) == max(counts)


async def test_what_an_earlier_version_made_under_a_key_for_several_images_is_found_by_it(
    front: Front, tmp_path: Path
) -> None:
    async with opened(front.settings(tmp_path)) as service:
        for name in ("fox-1", "fox-2"):
            await made(service, idempotency_key=name)
        assert [told.record.key for told in (await made(service, idempotency_key="fox")).tasks] == ["fox-1"]
        three = await made(service, idempotency_key="fox", count=3)
        assert [told.record.key for told in three.tasks] == ["fox-1", "fox-2", "fox-3"]
    assert front.count(CREATE) == 3


async def test_the_callers_own_key_is_sent_and_brings_the_same_task_again(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        first = await made(service, idempotency_key="fox", count=2)
        again = await made(service, idempotency_key="fox", count=2)
    assert {seen.key for seen in front.seen if seen.is_(CREATE)} == {"fox", "fox-2"}
    assert [told.record for told in first.tasks] == [told.record for told in again.tasks]
    assert paid_once(front, first)


# --- opening and closing ---


async def test_what_the_caller_raises_comes_out_as_it_is(front: Front, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Service.opened(front.settings(tmp_path)):
            raise ZeroDivisionError


async def test_a_service_that_made_nothing_leaves_no_file(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        with pytest.raises(InvalidRequestError):
            await made(service, idempotency_key="\n")
    assert not (tmp_path / "home").exists()


async def test_a_service_stops_with_a_create_under_way_and_the_next_one_goes_on(front: Front, tmp_path: Path) -> None:
    async def hang(seen: Seen) -> Reply | None:
        answer = await through(seen)
        if seen.is_(CREATE):
            await anyio.sleep_forever()
        return answer

    front.rule = hang
    with anyio.fail_after(PATIENCE):
        async with opened(front.settings(tmp_path)) as first, anyio.create_task_group() as group:
            group.start_soon(made, first)
            await until(lambda: len(front.tasks()) == 1)
            group.cancel_scope.cancel()
    front.rule = through
    async with opened(front.settings(tmp_path)) as second:
        assert states(await second.recent(limit=5, wait_seconds=30)) == [State.DELIVERED]
    assert [task.creates for task in front.tasks()] == [2]


async def test_a_journal_that_another_process_begins_is_noticed_by_an_idle_one(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path), timing=SOON) as idle:
        async with opened(front.settings(tmp_path)) as busy:
            outcome = await made(busy, STUCK, wait=0)

        async def taken() -> bool:
            (entry,) = await journal_of(idle).tasks.find([outcome.tasks[0].record.key])
            return entry.owner == idle.session

        await until(taken)


async def test_each_intent_is_on_disk_before_the_first_byte_of_its_create_goes_out(
    front: Front, tmp_path: Path
) -> None:
    found: list[int] = []

    async def rule(seen: Seen) -> Reply | None:
        if seen.is_(CREATE):
            database = sqlite3.connect(tmp_path / "home" / "journal.sqlite3")
            rows = database.execute("SELECT count(*) FROM task WHERE key = ? AND sent_at IS NOT NULL", (seen.key,))
            found.extend(row[0] for row in rows)
            database.close()
        return await through(seen)

    front.rule = rule
    async with opened(front.settings(tmp_path)) as service:
        await made(service, count=4)
    assert found == [1, 1, 1, 1]


async def test_a_call_for_several_images_makes_them_all_though_one_is_under_way(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        one = await made(service, STUCK, wait=0)
        three = await made(service, STUCK, wait=0, count=3)
        again = await made(service, STUCK, wait=0)
    assert (one.joined, three.joined, again.joined) == (False, False, True)
    assert len(three.tasks) == 3
    assert paid_once(front, one, three)
