"""One task, one step at a time, over real HTTP and a real journal; only the clocks are turned by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.domain.models import Save
from flux2_mcp.engine.backend import Backend
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.steps import GONE, MAX_FETCHES, NEVER_SENT, TAKEN, UNANSWERED, LeasedTask, TaskSteps
from flux2_mcp.engine.waiting import Outcome, TaskReport
from flux2_mcp.errors import (
    AuthenticationError,
    DeliveryError,
    Flux2Error,
    InsufficientCreditsError,
    JournalError,
    NotFoundError,
    RateLimitedError,
    SandboxError,
    ServiceError,
    SettingsError,
    TransportError,
    WireError,
)
from flux2_mcp.images.decode import PictureError
from flux2_mcp.images.store import ImageFolder
from flux2_mcp.journal.contract import Journal
from flux2_mcp.journal.records import Intent
from flux2_mcp.journal.sqlite.store import SqliteJournal
from flux2_mcp.runapi import retry
from flux2_mcp.runapi.client import RunApi
from flux2_mcp.server.results import task_words
from flux2_mcp.server.results import tasks as task_results
from flux2_mcp.settings import Settings
from tests.support.faults import around, sql
from tests.support.services import (
    BUSY,
    CORRUPT,
    CREATE,
    FETCH,
    GARBAGE,
    NO_MONEY,
    PAGE,
    POLL,
    TAKEN_KEY,
    UNKNOWN_TASK,
    WRONG_KEY,
    Front,
    Reply,
    Seen,
    always,
    constantly,
    fronted,
    limited,
    made,
    made_then_cut,
    nothing,
    through,
)

pytestmark = pytest.mark.anyio

ONCE = retry.Policy(attempts=1, base=0.5, cap=5.0, total=20.0)
START = 1000.0
DAY = timedelta(days=1)
STUCK, INSTANT = "a red fox [sandbox:stuck]", "a red fox [sandbox:instant]"
REFUSED = Reply(422, b'{"error": "Validation failed", "errors": {"prompt": ["is too long"]}}')


@dataclass
class Shop:
    """A worker with all it works with. `mono` and `wall` are its clocks: they stand still until a test moves them."""

    front: Front
    home: Path
    journal: SqliteJournal
    backend: Backend
    in_flight: int
    worker: TaskSteps = field(init=False)
    mono: float = START
    wall: datetime = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)

    def __post_init__(self) -> None:
        self.worker = self.steps()

    def steps(self, *, journal: Journal | None = None, backend: Backend | None = None) -> TaskSteps:
        """A worker on the same clocks and, unless others are given, with the same journal and way to RunAPI."""
        seam = Seam(
            journal=journal or self.journal,
            backend=backend or self.backend,
            monotonic=lambda: self.mono,
            now=lambda: self.wall,
        )
        return TaskSteps(seam, ImageFolder(self.home / "images"), in_flight=self.in_flight)

    async def intent(self, key: str = "key-1", prompt: str = STUCK, *, in_flight: int = 100, **more: Any) -> LeasedTask:  # noqa: ANN401  # Intent's own fields
        intents = [Intent(key=key, request=catalog.request(prompt=prompt), quoted_usd=None, **more)]
        written = await self.journal.tasks.intend(intents, at=self.wall, caps=Caps(), join=False, in_flight=in_flight)
        return LeasedTask(written.records[0])

    async def submitted(self) -> LeasedTask:
        kept = await self.intent()
        await self.worker.send(kept)
        assert outlook(kept) == (State.SUBMITTED, None)
        return kept

    async def completed(self, key: str = "key-1") -> LeasedTask:
        kept = await self.intent(key, INSTANT)
        await self.worker.send(kept)
        assert kept.record.state is State.COMPLETED
        return kept

    def sql(self, statement: str) -> None:
        sql(self.journal.path, statement)

    def break_writes(self, event: str) -> None:
        """From now on the file refuses these writes, with an error of SQLite's own."""
        self.sql(f"CREATE TRIGGER broken BEFORE {event} ON task BEGIN SELECT raise(FAIL, 'disk is full'); END")

    def mend_writes(self) -> None:
        self.sql("DROP TRIGGER broken")


@asynccontextmanager
async def opened(
    folder: Path,
    *,
    in_flight: int = 100,
    base_url: str | None = None,
    **api: Any,  # noqa: ANN401  # RunApi's own arguments
) -> AsyncIterator[Shop]:
    """`base_url` stands elsewhere than the front."""
    async with fronted(folder) as front:
        settings = front.settings(folder)
        journal = SqliteJournal(settings.home, "account", "owner")

        def connect(front_url: str, key: str | None) -> RunApi:
            # One attempt a step: what the client itself does before it gives up is its own tests' matter.
            return RunApi(base_url or front_url, key, version="0", **({"policy": ONCE} | api))

        backend = Backend(settings, gate=nothing, on_limited=nothing, connect=connect)
        try:
            yield Shop(front, settings.home, journal, backend, in_flight)
        finally:
            await backend.close()
            await journal.close()


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with opened(tmp_path) as shop:
        yield shop


def outlook(kept: LeasedTask) -> tuple[State, type[Flux2Error] | None]:
    """State and trouble. How far RunAPI has come with what it took makes no difference here."""
    state = State.SUBMITTED if kept.record.state is State.PROCESSING else kept.record.state
    return state, None if kept.trouble is None else type(kept.trouble)


# --- sending ---


async def test_a_create_is_answered_and_its_id_written_down(shop: Shop) -> None:
    kept = await shop.intent()
    await shop.worker.send(kept)
    assert outlook(kept) == (State.SUBMITTED, None)
    assert [task.id for task in shop.front.tasks()] == [kept.record.task_id]
    assert await shop.journal.tasks.find(["key-1"]) == (kept.record,)


async def test_a_connection_lost_after_the_task_was_made_brings_the_same_task_by_the_same_key(shop: Shop) -> None:
    shop.front.rule = made_then_cut(3)
    kept = await shop.intent()
    for _ in range(3):
        await shop.worker.send(kept)
        assert outlook(kept) == (State.INTENT, TransportError)
        assert kept.lost
    await shop.worker.send(kept)
    assert outlook(kept) == (State.SUBMITTED, None)
    assert [(task.id, task.creates) for task in shop.front.tasks()] == [(kept.record.task_id, 4)]


async def test_a_storm_of_503_never_ends_an_intent_and_is_asked_ever_more_seldom(shop: Shop) -> None:
    shop.front.rule = always(CREATE, *[BUSY] * 9)
    kept = await shop.intent()
    waits = []
    for _ in range(9):
        await shop.worker.send(kept)
        assert outlook(kept) == (State.INTENT, ServiceError)
        assert kept.not_before is not None
        waits.append(kept.not_before - shop.mono)
        shop.mono = kept.not_before
    await shop.worker.send(kept)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert outlook(kept) == (State.SUBMITTED, None)
    assert (kept.failures, kept.not_before) == (0, None)
    assert {seen.key for seen in shop.front.seen} == {"key-1"}


@pytest.mark.parametrize("reply", [PAGE, GARBAGE, BUSY, Reply(408, b""), None])
async def test_what_may_have_reached_runapi_is_sent_again(shop: Shop, reply: Reply | None) -> None:
    shop.front.rule = always(CREATE, reply)
    kept = await shop.intent()
    await shop.worker.send(kept)
    assert (kept.record.state, kept.lost) == (State.INTENT, True)
    await shop.worker.send(kept)
    assert outlook(kept) == (State.SUBMITTED, None)


async def test_a_429_in_seconds_puts_the_next_try_off_by_at_least_so_much(shop: Shop) -> None:
    shop.front.rule = always(CREATE, limited("37"))
    kept = await shop.intent()
    await shop.worker.send(kept)
    assert outlook(kept) == (State.INTENT, RateLimitedError)
    assert kept.not_before == START + 37
    assert not kept.lost  # it was turned away at the door


async def test_a_429_with_a_date_puts_the_next_try_off_until_then(shop: Shop) -> None:
    until = datetime.now(UTC) + timedelta(seconds=90)
    shop.front.rule = always(CREATE, limited(format_datetime(until, usegmt=True)))
    kept = await shop.intent()
    await shop.worker.send(kept)
    assert outlook(kept) == (State.INTENT, RateLimitedError)
    assert START + 88 <= (kept.not_before or 0) <= START + 90


@pytest.mark.parametrize(
    ("reply", "kind"),
    [(WRONG_KEY, AuthenticationError), (NO_MONEY, InsufficientCreditsError), (TAKEN_KEY, None), (REFUSED, None)],
)
async def test_a_refusal_of_the_first_create_ends_the_intent(
    shop: Shop, reply: Reply, kind: type[Flux2Error] | None
) -> None:
    shop.front.rule = constantly(CREATE, reply)
    kept = await shop.intent()
    await shop.worker.send(kept)
    assert kept.record.state is State.REJECTED
    assert kept.record.error == (kept.trouble.message if kept.trouble else None)
    assert kind is None or isinstance(kept.trouble, kind)


@pytest.mark.parametrize("reply", [WRONG_KEY, NO_MONEY, limited("1"), None])
async def test_no_refusal_of_the_account_gives_up_a_task_that_an_unheard_create_may_have_made(
    shop: Shop, reply: Reply | None
) -> None:
    shop.front.rule = made_then_cut()
    kept = await shop.intent()
    await shop.worker.send(kept)
    shop.front.rule = always(CREATE, reply, reply)
    for _ in range(2):
        await shop.worker.send(kept)
        assert kept.record.state is State.INTENT
    await shop.worker.send(kept)
    assert [task.id for task in shop.front.tasks()] == [kept.record.task_id]


async def test_a_refusal_that_comes_after_an_unheard_try_of_the_same_call_gives_nothing_up(tmp_path: Path) -> None:
    twice = retry.Policy(attempts=2, base=0.0, cap=0.0, total=20.0)
    async with opened(tmp_path, policy=twice) as shop:
        shop.front.rule = made_then_cut(then=always(CREATE, NO_MONEY))
        kept = await shop.intent()
        await shop.worker.send(kept)
        assert shop.front.count(CREATE) == 2
        assert (outlook(kept), kept.lost) == ((State.INTENT, InsufficientCreditsError), True)


async def test_a_conflict_after_an_unheard_create_says_that_the_end_is_not_known(shop: Shop) -> None:
    shop.front.rule = made_then_cut()
    kept = await shop.intent()
    await shop.worker.send(kept)
    shop.front.rule = constantly(CREATE, TAKEN_KEY)
    await shop.worker.send(kept)
    assert (kept.record.state, kept.record.error) == (State.UNKNOWN, TAKEN)


async def test_a_request_that_runapi_does_not_accept_is_over_even_after_a_blip(shop: Shop) -> None:
    shop.front.rule = always(CREATE, BUSY, REFUSED)
    kept = await shop.intent()
    await shop.worker.send(kept)
    await shop.worker.send(kept)
    assert kept.record.state is State.REJECTED


async def test_without_a_connection_a_new_task_is_refused_and_an_unheard_one_waits(tmp_path: Path) -> None:
    async with opened(tmp_path, base_url="http://127.0.0.1:9") as shop:
        new, unheard = await shop.intent("new"), await shop.intent("unheard")
        unheard.lost = True
        await shop.worker.send(new)
        await shop.worker.send(unheard)
    assert outlook(new) == (State.REJECTED, TransportError)
    assert outlook(unheard) == (State.INTENT, TransportError)


async def test_an_id_that_could_not_be_written_is_found_again_by_the_same_key(shop: Shop) -> None:
    kept = await shop.intent()
    shop.break_writes("UPDATE OF task_id")
    with pytest.raises(JournalError, match="disk is full"):
        await shop.worker.send(kept)
    assert (kept.record.state, kept.lost) == (State.INTENT, True)
    # Not even an empty account makes it forget that there is a task.
    shop.front.rule = always(CREATE, NO_MONEY)
    await shop.worker.send(kept)
    assert outlook(kept) == (State.INTENT, InsufficientCreditsError)
    shop.mend_writes()
    await shop.worker.send(kept)
    assert [(task.id, task.creates) for task in shop.front.tasks()] == [(kept.record.task_id, 2)]


async def test_a_create_that_is_cancelled_in_the_middle_counts_as_unheard(shop: Shop) -> None:
    kept, arrived = await shop.intent(), anyio.Event()

    async def stuck(_: object) -> None:
        arrived.set()
        await anyio.sleep_forever()

    shop.front.rule = stuck
    async with anyio.create_task_group() as group:
        group.start_soon(shop.worker.send, kept)
        await arrived.wait()
        group.cancel_scope.cancel()
    assert (kept.record.state, kept.lost) == (State.INTENT, True)
    shop.front.rule = always(CREATE, NO_MONEY)
    await shop.worker.send(kept)
    assert kept.record.state is State.INTENT


async def test_an_answer_that_was_heard_is_written_down_even_while_the_server_stops(shop: Shop) -> None:
    kept = await shop.intent()
    scope = anyio.CancelScope()

    async def apply(*arguments: Any) -> Any:  # noqa: ANN401  # as the journal's
        scope.cancel()
        return await shop.journal.tasks.apply(*arguments)

    stopping = around(shop.journal, tasks=around(shop.journal.tasks, apply=apply))
    with scope:
        await shop.steps(journal=stopping).send(kept)
    assert scope.cancel_called
    (entry,) = await shop.journal.tasks.find(["key-1"])
    assert entry.task_id == shop.front.tasks()[0].id


# --- a day is over, or the clock says so ---


@pytest.mark.parametrize("jump", [2 * DAY, -2 * DAY, DAY + timedelta(seconds=1)])
async def test_an_unanswered_intent_whose_age_can_not_be_trusted_is_never_sent_again(
    shop: Shop, jump: timedelta
) -> None:
    shop.front.rule = made_then_cut()
    kept = await shop.intent()
    await shop.worker.send(kept)
    shop.wall += jump
    await shop.worker.send(kept)
    assert (kept.record.state, kept.record.error) == (State.UNKNOWN, UNANSWERED)
    assert shop.front.count(CREATE) == 1


@pytest.mark.parametrize("jump", [DAY, -DAY])
async def test_within_a_day_it_is_sent_again(shop: Shop, jump: timedelta) -> None:
    shop.front.rule = made_then_cut()
    kept = await shop.intent()
    await shop.worker.send(kept)
    shop.wall += jump
    await shop.worker.send(kept)
    assert outlook(kept) == (State.SUBMITTED, None)
    assert len(shop.front.tasks()) == 1


async def test_a_caller_reads_in_plain_words_that_it_is_not_sent_again_and_what_to_do(shop: Shop) -> None:
    kept = await shop.intent()
    shop.wall += 2 * DAY
    await shop.worker.send(kept)
    result = task_results.generation(Outcome(tasks=(TaskReport(kept.record),), sandbox=False))
    words = task_words.words(result)
    assert result.status == "unknown"
    assert result.tasks[0].error == UNANSWERED
    for phrase in (
        "did not answer for a day",
        "whether this was made and charged is not known",
        "never sent again",
        "Look at RunAPI's own history, or at the balance (check_pricing)",
        "only if not, call generate anew",
    ):
        assert phrase in words
    assert "Not charged" not in words


async def test_what_waited_a_day_for_a_free_place_was_certainly_never_sent(tmp_path: Path) -> None:
    async with opened(tmp_path, in_flight=0) as shop:
        kept = await shop.intent(in_flight=0)
        await shop.worker.send(kept)
        assert (kept.record.state, kept.record.started, kept.lost) == (State.INTENT, False, False)
        shop.wall += DAY + timedelta(seconds=1)
        await shop.worker.send(kept)
        assert (kept.record.state, kept.record.error) == (State.REJECTED, NEVER_SENT)
        assert shop.front.seen == []


async def test_what_was_written_down_anew_without_a_free_place_is_not_told_as_never_sent(tmp_path: Path) -> None:
    """The journal's file was lost after a create that nobody heard of: the new one knows of no sending."""
    async with opened(tmp_path, in_flight=0) as shop:
        kept = await shop.intent(in_flight=0)
        kept.lost = True
        shop.wall += DAY + timedelta(seconds=1)
        await shop.worker.send(kept)
        assert (kept.record.state, kept.record.error) == (State.UNKNOWN, UNANSWERED)


# --- asking ---


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (BUSY, ServiceError),
        (PAGE, ServiceError),
        (GARBAGE, WireError),
        (WRONG_KEY, AuthenticationError),
        (limited("5"), RateLimitedError),
        (UNKNOWN_TASK, NotFoundError),
        (None, TransportError),
    ],
)
async def test_no_blip_ends_a_task(shop: Shop, reply: Reply | None, kind: type[Flux2Error]) -> None:
    kept = await shop.submitted()
    shop.front.rule = always(POLL, *[reply] * 6)
    for _ in range(6):
        await shop.worker.ask(kept)
        assert outlook(kept) == (State.SUBMITTED, kind)
    await shop.worker.ask(kept)
    assert outlook(kept) == (State.SUBMITTED, None)
    assert shop.front.count(CREATE) == 1


async def test_retry_after_of_a_poll_is_kept_to(shop: Shop) -> None:
    kept = await shop.submitted()
    shop.front.rule = always(POLL, limited("12"), BUSY)
    waits = []
    for _ in range(2):
        await shop.worker.ask(kept)
        waits.append(kept.not_before)
    assert waits == [START + 12, None]  # after a 503 it is the planner's own business
    hint = b'{"id": "%s", "status": "processing"}' % (kept.record.task_id or "").encode()
    shop.front.rule = always(POLL, Reply(200, hint, {"Retry-After": "7"}))
    await shop.worker.ask(kept)
    assert (kept.record.state, kept.not_before) == (State.PROCESSING, START + 7)


async def test_a_wrong_key_is_told_and_tried_again_after_a_while(shop: Shop) -> None:
    kept = await shop.submitted()
    shop.front.rule = always(POLL, WRONG_KEY)
    await shop.worker.ask(kept)
    assert outlook(kept) == (State.SUBMITTED, AuthenticationError)
    assert kept.not_before == START + 15


async def test_a_task_vanishes_only_after_ten_minutes_of_nothing_but_404(shop: Shop) -> None:
    kept = await shop.submitted()
    shop.front.rule = constantly(POLL, UNKNOWN_TASK)
    for minute in range(11):
        shop.mono = START + 60 * minute
        await shop.worker.ask(kept)
        assert outlook(kept) == (State.SUBMITTED, NotFoundError)
    shop.mono += 1
    await shop.worker.ask(kept)
    assert (kept.record.state, kept.record.error) == (State.UNKNOWN, GONE)


async def test_one_404_late_in_a_tasks_life_is_a_blip_like_another(shop: Shop) -> None:
    kept = await shop.submitted()
    shop.wall += timedelta(hours=1)
    shop.mono += 3600
    shop.front.rule = always(POLL, UNKNOWN_TASK)
    await shop.worker.ask(kept)
    assert outlook(kept) == (State.SUBMITTED, NotFoundError)


async def test_an_answer_between_the_404_starts_the_ten_minutes_anew(shop: Shop) -> None:
    kept = await shop.submitted()
    known = Reply(200, b'{"id": "%s", "status": "pending"}' % (kept.record.task_id or "").encode())
    shop.front.rule = always(POLL, UNKNOWN_TASK, known, UNKNOWN_TASK, UNKNOWN_TASK)
    for _ in range(4):
        await shop.worker.ask(kept)
        shop.mono += 500
    assert outlook(kept)[0] is State.SUBMITTED


async def test_a_clock_that_jumps_two_days_makes_no_task_vanish(shop: Shop) -> None:
    kept = await shop.submitted()
    shop.front.rule = constantly(POLL, UNKNOWN_TASK)
    for jump in (2 * DAY, -4 * DAY):
        shop.wall += jump
        await shop.worker.ask(kept)
        assert outlook(kept) == (State.SUBMITTED, NotFoundError)


async def test_an_end_that_could_not_be_written_is_asked_for_again(shop: Shop) -> None:
    kept = await shop.submitted()
    done = b'{"id": "%s", "status": "completed", "images": [{"url": "https://a.test/1.png"}], "usage": {"cost": 0.05}}'
    shop.front.rule = constantly(POLL, Reply(200, done % (kept.record.task_id or "").encode()))
    shop.break_writes("UPDATE")
    with pytest.raises(JournalError):
        await shop.worker.ask(kept)
    assert outlook(kept)[0] is State.SUBMITTED
    shop.mend_writes()
    await shop.worker.ask(kept)
    assert (kept.record.state, kept.record.charged_usd) == (State.COMPLETED, Decimal("0.05"))


# --- fetching ---


async def test_an_image_that_stays_broken_is_fetched_ever_more_seldom(shop: Shop) -> None:
    kept = await shop.completed()
    shop.front.rule = constantly(FETCH, CORRUPT)
    waits = []
    for _ in range(14):
        await shop.worker.fetch(kept)
        assert outlook(kept) == (State.COMPLETED, PictureError)
        assert kept.not_before is not None
        waits.append(kept.not_before - shop.mono)
        shop.mono = kept.not_before
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600]
    assert shop.front.count(FETCH) == 28  # once, and once more after asking for a new address
    shop.front.rule = through
    await shop.worker.fetch(kept)
    assert outlook(kept) == (State.DELIVERED, None)
    assert [Path(image.path).exists() for image in kept.record.images] == [True]


async def test_an_end_without_an_image_is_asked_about_again_until_there_is_one(shop: Shop) -> None:
    kept = await shop.intent(prompt=INSTANT)
    empty = b'{"id": "%s", "status": "completed", "images": []}'
    shop.front.rule = made_then_cut()
    await shop.worker.send(kept)
    shop.front.rule = always(CREATE, Reply(200, empty % shop.front.tasks()[0].id.encode()))
    await shop.worker.send(kept)
    assert (outlook(kept), kept.record.image_urls) == ((State.COMPLETED, None), ())
    shop.front.rule = always(POLL, Reply(200, empty % shop.front.tasks()[0].id.encode()))
    await shop.worker.fetch(kept)
    assert outlook(kept) == (State.COMPLETED, DeliveryError)
    await shop.worker.fetch(kept)
    assert outlook(kept) == (State.DELIVERED, None)


async def test_a_dead_address_is_asked_for_anew(shop: Shop) -> None:
    kept = await shop.completed()
    polls = shop.front.count(POLL)
    shop.front.rule = always(FETCH, Reply(410))
    await shop.worker.fetch(kept)
    assert outlook(kept) == (State.DELIVERED, None)
    assert shop.front.count(POLL) == polls + 1


async def test_an_image_is_given_up_only_when_its_addresses_are_dead_and_it_failed_time_and_again(shop: Shop) -> None:
    kept = await shop.completed()
    shop.front.rule = constantly(FETCH, Reply(410))
    for _ in range(MAX_FETCHES):
        await shop.worker.fetch(kept)
    assert outlook(kept)[0] is State.COMPLETED  # they live for days
    kept.failures, shop.wall = 0, shop.wall + 8 * DAY
    for _ in range(MAX_FETCHES):
        assert outlook(kept)[0] is State.COMPLETED  # once might be the clock's fault
        await shop.worker.fetch(kept)
    assert outlook(kept)[0] is State.UNDELIVERED
    assert kept.record.error is not None
    assert "410" in kept.record.error


async def test_the_week_of_an_image_begins_when_it_was_done_and_not_when_it_was_asked_for(shop: Shop) -> None:
    kept = await shop.submitted()
    shop.wall += 3 * DAY
    done = b'{"id": "%s", "status": "completed", "images": [{"url": "%s/results/1.png"}]}'
    told = Reply(200, done % ((kept.record.task_id or "").encode(), shop.front.base_url.encode()))
    shop.front.rule = always(FETCH, *[Reply(410)] * 4 * MAX_FETCHES, then=constantly(POLL, told))
    await shop.worker.ask(kept)
    shop.wall += 6 * DAY
    for _ in range(MAX_FETCHES + 1):
        await shop.worker.fetch(kept)
    assert outlook(kept)[0] is State.COMPLETED
    shop.wall += 2 * DAY
    await shop.worker.fetch(kept)
    assert outlook(kept)[0] is State.UNDELIVERED


async def test_no_trouble_of_the_network_gives_an_image_up(shop: Shop) -> None:
    kept = await shop.completed()
    shop.wall += 30 * DAY

    async def cut(_: Seen) -> None:
        return None

    shop.front.rule = cut
    for _ in range(2 * MAX_FETCHES):
        await shop.worker.fetch(kept)
    assert (outlook(kept), kept.record.error) == ((State.COMPLETED, TransportError), None)


async def test_an_image_whose_delivery_could_not_be_written_down_is_delivered_later(shop: Shop) -> None:
    kept = await shop.completed()
    shop.break_writes("UPDATE")
    await shop.worker.fetch(kept)
    assert outlook(kept) == (State.COMPLETED, JournalError)
    shop.mend_writes()
    await shop.worker.fetch(kept)
    assert outlook(kept) == (State.DELIVERED, None)
    assert len(list((shop.home / "images").iterdir())) == 1


# --- what is no weather ---


async def test_a_setting_that_can_not_be_used_ends_a_new_intent_at_once_and_an_unheard_one_is_kept_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, base_url="https://api.runapi.invalid") as shop:
        monkeypatch.setenv("ALL_PROXY", "nonsense://")
        for name in ("HTTPS_PROXY", "https_proxy", "all_proxy", "NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        new, unheard = await shop.intent("new"), await shop.intent("unheard")
        unheard.lost = True
        for kept in (new, unheard):
            await shop.worker.send(kept)
    assert (outlook(new), new.lost) == ((State.REJECTED, SettingsError), False)
    assert (outlook(unheard), unheard.lost) == ((State.INTENT, SettingsError), True)
    assert TaskReport(unheard.record, unheard.trouble).settled  # nobody waits for it: it does not go by itself


async def test_a_sandbox_that_can_not_start_ends_a_new_intent_at_once(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "sandbox").touch()
    async with Service.opened(Settings(mode="sandbox", home=home)) as service:
        with pytest.raises(SandboxError) as caught:
            await made(service)
    assert "Nothing was sent" in caught.value.cost


async def test_an_answer_that_names_no_image_any_more_does_not_take_the_address_that_was_known(shop: Shop) -> None:
    kept = await shop.completed()
    known = kept.record.image_urls
    done = b'{"id": "%s", "status": "completed"}' % (kept.record.task_id or "").encode()
    shop.front.rule = always(FETCH, Reply(503), Reply(503), then=constantly(POLL, Reply(200, done)))
    await shop.worker.fetch(kept)
    assert (outlook(kept), kept.record.image_urls) == ((State.COMPLETED, DeliveryError), known)
    await shop.worker.fetch(kept)
    assert outlook(kept) == (State.DELIVERED, None)


async def test_a_failure_without_a_word_is_told_with_that(shop: Shop) -> None:
    kept = await shop.submitted()
    failed = b'{"id": "%s", "status": "failed"}' % (kept.record.task_id or "").encode()
    shop.front.rule = constantly(POLL, Reply(200, failed))
    await shop.worker.ask(kept)
    assert (kept.record.state, kept.record.error) == (State.FAILED, "RunAPI gave no reason.")


async def test_each_image_of_a_task_gets_a_file_of_its_own_in_the_workspace(shop: Shop, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    request, save = catalog.request(prompt=STUCK), Save("hero.png", overwrite=True)
    written = Intent(key="k", request=request, quoted_usd=None, workspace=str(work), save=save)
    intended = await shop.journal.tasks.intend([written], at=shop.wall, caps=Caps(), join=False, in_flight=1)
    kept = LeasedTask(intended.records[0])
    await shop.worker.send(kept)
    two = b'{"id": "%s", "status": "completed", "images": [{"url": "%s/results/1"}, {"url": "%s/results/2"}]}'
    place = shop.front.base_url.encode()
    shop.front.rule = constantly(POLL, Reply(200, two % ((kept.record.task_id or "").encode(), place, place)))
    await shop.worker.ask(kept)
    await shop.worker.fetch(kept)
    assert outlook(kept) == (State.DELIVERED, None)
    assert [image.saved for image in kept.record.images] == [str(work / "hero.png"), str(work / "hero-2.png")]
