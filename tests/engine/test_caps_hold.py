"""Caps against a service whose prices, charges and words are not to be trusted: whatever is known counts, the dearest of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import Caps, SpendingBy
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.backend import account_name
from flux2_mcp.engine.confirmation import Quotation
from flux2_mcp.engine.seam import Timing
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.submission import CheckedRequest
from flux2_mcp.errors import BudgetError
from flux2_mcp.journal.contract import Journal
from flux2_mcp.journal.sqlite.store import SqliteJournal
from flux2_mcp.settings import Settings
from tests.support.deep import deep_but
from tests.support.faults import garble
from tests.support.services import CREATE, POLL, Front, Reply, Seen, fronted, journal_of, made, opened, through, until

pytestmark = pytest.mark.anyio

SCHEDULES = "GET /api/v1/price_schedules"
MAX = {"variant": "max", "aspect_ratio": "1:1"}
CAPPED = "_BUDGET_USD|FLUX2_MAX_COST_USD"


class Prices:
    """What RunAPI says that every image costs, and what it takes for one; in cents, None: it does not say.

    `config` is what its schedules say beside it.
    """

    def __init__(
        self, front: Front, listed: float | None, charged: float | None = None, *, config: object = None
    ) -> None:
        self.listed, self.charged, self.config = listed, charged, config
        front.rule = self

    async def __call__(self, seen: Seen) -> Reply | None:
        if seen.is_(SCHEDULES):
            models = [] if self.listed is None else catalog.models().values()
            told = {"currency": "USD", "unit_price_cents": self.listed, "billing_config": self.config}
            rows = [{"model": model.id, **told} for model in models]
            return Reply(200, json.dumps({"as_of": "2026-11-20", "price_schedules": rows}).encode())
        answer = await through(seen)
        if answer is None or self.charged is None or not seen.is_(POLL):
            return answer
        return Reply(
            answer.status, json.dumps(json.loads(answer.body) | {"usage": {"cost": self.charged / 100}}).encode()
        )


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


def day(usd: str, **more: str) -> Caps:
    return Caps(daily_usd=Decimal(usd), **{name: Decimal(amount) for name, amount in more.items()})


async def counted(service: Service) -> Decimal:
    return (await journal_of(service).money.spent(at=datetime.now(UTC), session=service.session)).daily_usd


async def taken(service: Service, *calls: str, **more: Any) -> int:  # noqa: ANN401  # as made
    """How many of these calls are taken, one after the other, before the first that a cap refuses."""
    for number, prompt in enumerate(calls):
        try:
            await made(service, prompt, **more)
        except BudgetError:
            return number
    return len(calls)


FOXES = [f"fox {number}" for number in range(6)]


# --- the dearest price that is known ---


async def test_a_schedule_of_nothing_switches_no_cap_off(front: Front, tmp_path: Path) -> None:
    Prices(front, listed=0)
    async with opened(front.settings(tmp_path, caps=day("0.10", call_usd="0.01"))) as service:
        assert await taken(service, *FOXES) == 0
    async with opened(front.settings(tmp_path, caps=day("0.10"))) as service:
        assert await taken(service, *FOXES) == 2
        with pytest.raises(BudgetError, match=r"would cost \$0\.40"):
            await made(service, "foxes", count=8)
        with pytest.raises(BudgetError, match="Nobody publishes a price"):
            await made(service, "fox", request=MAX)
    assert front.count(CREATE) == 2


@pytest.mark.parametrize(("listed", "charged", "reserved"), [(2, 5, "0.05"), (9, 5, "0.09"), (None, 8, "0.08")])
async def test_of_the_prices_that_are_known_the_dearest_is_set_aside_and_asked_for(
    front: Front, tmp_path: Path, listed: float | None, charged: float, reserved: str
) -> None:
    """Published: five cents. What is shown as the quote stays what the schedule says."""
    Prices(front, listed, charged)
    async with opened(front.settings(tmp_path, caps=day("1"))) as service:
        await made(service, "the first")
        before = await counted(service)
        outcome = await made(service, "the second [sandbox:stuck]", wait=0)
        assert await counted(service) - before == Decimal(reserved)
        quoted = Decimal("0.05") if listed is None else Decimal(listed) / 100
        assert outcome.tasks[0].record.quoted_usd == quoted
        with pytest.raises(BudgetError, match=rf"The quote is \${reserved} and max_cost_usd"):
            await made(service, "the third", max_cost_usd=Decimal(reserved) - Decimal("0.001"))
        offer = await service.offer(CheckedRequest(catalog.request(prompt="many")), count=8)
        dear = Decimal(reserved) * 8
        assert (offer.confirmation is not None) == (dear > Decimal("0.50"))
        assert offer.confirmation is None or offer.confirmation.quoted_usd == dear


@pytest.mark.parametrize(
    "config",
    [
        {"key": "output_resolution", "overrides": {"1k": None}},
        {"key": "output_resolution", "overrides": {"1k": 0, "2k": 6}},
        {"key": "output_resolution", "overrides": {"1k": "ten"}},
        {"key": "quality", "overrides": {"draft": 2, "fine": None}},
    ],
)
async def test_a_schedule_that_leaves_open_which_amount_applies_counts_with_its_dearest(
    front: Front, tmp_path: Path, config: object
) -> None:
    Prices(front, listed=10, config=config)
    async with opened(front.settings(tmp_path, caps=day("0.20"))) as service:
        with pytest.raises(BudgetError, match=r"The quote is \$0\.10 and max_cost_usd allows \$0\.01"):
            await made(service, "a cat", request=MAX, max_cost_usd=Decimal("0.01"))
        with pytest.raises(BudgetError, match=r"would cost \$0\.30; FLUX2_DAILY_BUDGET_USD"):
            await made(service, "cats", request=MAX, count=3)
        outcome = await made(service, "a cat [sandbox:stuck]", request=MAX, wait=0)
        assert outcome.tasks[0].record.quoted_usd == await counted(service) == Decimal("0.10")
    assert front.count(CREATE) == 1


def free(offer: Quotation) -> Quotation:
    """The same call, of which nothing is reserved."""
    pictures = tuple(tuple(replace(task, reserved_usd=Decimal(0)) for task in one) for one in offer.pictures)
    return replace(offer, pictures=pictures)


async def test_a_cap_that_was_passed_takes_nothing_more_whatever_it_would_cost(front: Front, tmp_path: Path) -> None:
    prices = Prices(front, listed=5, charged=30)
    async with opened(front.settings(tmp_path, caps=day("0.10"))) as service:
        await made(service, "dearer than was said")
        prices.charged = 0
        request = catalog.request(prompt="for nothing", output_resolution="2k")  # none of these was charged yet
        offer = await service.offer(CheckedRequest(request))
        with pytest.raises(BudgetError, match=r"would cost \$0\.00; FLUX2_DAILY_BUDGET_USD is \$0\.10 and \$0\.00"):
            await service.generate(free(offer), approved=True, wait_seconds=0)
    assert front.count(CREATE) == 1


# --- a price that nobody knows ---


async def test_a_tiny_statement_admits_one_task_and_what_that_was_charged_is_the_price_of_the_next(
    front: Front, tmp_path: Path
) -> None:
    Prices(front, listed=None)
    tiny: dict[str, Any] = {"request": MAX, "max_cost_usd": Decimal("0.001")}
    async with opened(front.settings(tmp_path, caps=day("0.10"))) as service:
        assert await taken(service, *FOXES, **tiny) == 1
    async with opened(front.settings(tmp_path, caps=day("0.65"))) as service:
        with pytest.raises(BudgetError, match=r"The quote is \$0\.30 and max_cost_usd allows \$0\.001"):
            await made(service, "a dog", **tiny)
        await made(service, "a cat", request=MAX)  # its price is known now, so that nothing need be stated
        with pytest.raises(BudgetError, match=r"would cost \$0\.30; FLUX2_DAILY_BUDGET_USD"):
            await made(service, "a cow", request=MAX)
    assert front.count(CREATE) == 2


async def test_tasks_of_an_unknown_price_are_made_one_at_a_time_under_a_cap(front: Front, tmp_path: Path) -> None:
    Prices(front, listed=None)
    tiny: dict[str, Any] = {"request": MAX, "max_cost_usd": Decimal("0.001")}
    async with opened(front.settings(tmp_path, caps=day("0.10"))) as service:
        with pytest.raises(BudgetError, match="one image is made at a time"):
            await made(service, "foxes", count=5, **tiny)
        refused = []

        async def call(prompt: str) -> None:
            try:
                await made(service, f"{prompt} [sandbox:stuck]", wait=0, **tiny)
            except BudgetError as exc:
                refused.append(exc)

        async with anyio.create_task_group() as group:
            for fox in FOXES:
                group.start_soon(call, fox)
    assert len(refused) == 5
    assert front.count(CREATE) == 1
    async with opened(front.settings(tmp_path)) as service:  # without a cap, nobody set a bound
        await made(service, "foxes [sandbox:stuck]", count=2, wait=0, request=MAX)


async def test_a_call_for_several_images_of_an_unknown_price_is_refused_where_its_own_statement_is_the_only_cap(
    front: Front, tmp_path: Path
) -> None:
    Prices(front, listed=None)
    async with opened(front.settings(tmp_path)) as service:
        with pytest.raises(BudgetError, match="one image is made at a time"):
            await made(service, "foxes", count=8, request=MAX, max_cost_usd=Decimal("0.01"))
        assert front.count(CREATE) == 0
        await made(service, "a fox", request=MAX, max_cost_usd=Decimal("0.01"))
        with pytest.raises(BudgetError, match=r"The quote is \$2\.40 and max_cost_usd allows \$0\.01"):
            await made(service, "foxes", count=8, request=MAX, max_cost_usd=Decimal("0.01"))
    assert front.count(CREATE) == 1


@pytest.mark.parametrize("cap", deep_but(["daily_usd", "session_usd"], "daily_usd"))
async def test_where_runapi_never_said_what_an_image_of_an_unknown_price_cost_the_caps_take_no_more_of_it(
    front: Front, tmp_path: Path, cap: str
) -> None:
    told = Prices(front, listed=None)

    async def untold(seen: Seen) -> Reply | None:
        answer = await told(seen)
        if answer is None or not seen.is_(POLL):
            return answer
        return Reply(answer.status, json.dumps(json.loads(answer.body) | {"usage": None, "billing": None}).encode())

    front.rule = untold
    stated: dict[str, Any] = {"request": MAX, "max_cost_usd": Decimal("0.01")}
    capped = Caps(**{cap: Decimal("0.10")})
    async with opened(front.settings(tmp_path, caps=capped)) as service:
        (first,) = (await made(service, "a fox", **stated)).tasks
        assert (first.record.state, first.record.charged_usd) == (State.DELIVERED, None)
        with pytest.raises(BudgetError, match="RunAPI has not said what the last one cost") as refused:
            await made(service, "another fox", **stated)
        assert "a variant with a published price" in refused.value.next_step
        variable = {"daily_usd": "FLUX2_DAILY_BUDGET_USD", "session_usd": "FLUX2_SESSION_BUDGET_USD"}[cap]
        assert f"the user unsets {variable} for it" in refused.value.next_step
        await made(service, "of a known price")
    assert front.count(CREATE) == 2
    front.rule = told
    async with opened(front.settings(tmp_path)) as service:
        await made(service, "without a cap", request=MAX)
    async with opened(front.settings(tmp_path, caps=Caps(daily_usd=Decimal("1.00")))) as service:
        await made(service, "its price is known since", request=MAX)
    assert front.count(CREATE) == 4


async def offers(service: Service, count: int, **more: Any) -> list[Quotation]:  # noqa: ANN401  # as offer
    """Calls that are priced before any of them is made."""
    asked = [
        CheckedRequest(catalog.request(prompt=f"fox {number}", variant="max", aspect_ratio="1:1"))
        for number in range(count)
    ]
    return [await service.offer(each, **more) for each in asked]


async def test_a_price_that_became_known_after_a_call_was_priced_holds_for_it_too(front: Front, tmp_path: Path) -> None:
    Prices(front, listed=None)
    async with opened(front.settings(tmp_path, caps=day("0.55"))) as service:
        first, *later = await offers(service, 3, max_cost_usd=Decimal("0.01"))
        await service.generate(first, approved=True, wait_seconds=30)
        for offer in later:
            with pytest.raises(BudgetError, match=r"The quote is \$0\.30 and max_cost_usd allows \$0\.01"):
                await service.generate(offer, approved=True, wait_seconds=30)
    assert front.count(CREATE) == 1


async def test_a_price_that_became_known_is_what_is_set_aside_of_the_caps(front: Front, tmp_path: Path) -> None:
    prices = Prices(front, listed=5, charged=5)
    async with opened(front.settings(tmp_path, caps=day("1"))) as service:
        early = [await service.offer(CheckedRequest(catalog.request(prompt=fox))) for fox in FOXES[:2]]
        prices.charged = 40
        await made(service, "dearer than was said")
        outcome = await service.generate(early[0], approved=True, wait_seconds=0)
        assert outcome.tasks[0].record.reserved_usd == Decimal("0.40")
        with pytest.raises(BudgetError, match=r"The call would cost \$0\.40; FLUX2_DAILY_BUDGET_USD"):
            await service.generate(early[1], approved=True, wait_seconds=0)


# --- whose cap it is ---


def as_one_process(settings: Settings, session: str, _: Journal) -> Journal:
    """The journal of another key or service in the same process."""
    return SqliteJournal(settings.home, account_name(settings), session)


@pytest.mark.parametrize("cap", deep_but(["daily", "session"], "session"))
async def test_a_cap_belongs_to_the_home_and_not_to_a_key_or_a_spelling_of_the_host(
    front: Front, tmp_path: Path, cap: str
) -> None:
    settings = front.settings(tmp_path, caps=Caps(**{f"{cap}_usd": Decimal("0.10")}))
    rotated = replace(settings, api_key="another-key")
    respelled = replace(settings, base_url=f"http://localhost:{front.port}")
    async with opened(settings) as service:
        assert await taken(service, *FOXES) == 2
        for other in (rotated, respelled):
            async with opened(other, journal=partial(as_one_process, other, service.session)) as second:
                with pytest.raises(BudgetError, match=CAPPED):
                    await made(second, "under another name")
    assert front.count(CREATE) == 2


async def test_what_another_key_was_charged_is_a_known_price(front: Front, tmp_path: Path) -> None:
    Prices(front, listed=None)
    settings = front.settings(tmp_path, caps=day("1"))
    async with opened(settings) as service:
        await made(service, request=MAX, max_cost_usd=Decimal("0.40"))
    async with opened(replace(settings, base_url=f"http://localhost:{front.port}")) as service:
        assert (await service.prices.book()).charged == {("flux-2-max-text-to-image", "1k"): Decimal("0.30")}


# --- what was agreed to ---


async def test_a_call_is_priced_once_and_costs_what_was_agreed_to(front: Front, tmp_path: Path) -> None:
    prices = Prices(front, listed=10)
    async with opened(front.settings(tmp_path)) as service:
        offer = await service.offer(CheckedRequest(catalog.request(prompt="foxes [sandbox:stuck]")), count=8)
        assert offer.confirmation is not None
        assert offer.confirmation.quoted_usd == Decimal("0.80")
        prices.listed = 90
        with pytest.raises(BudgetError, match="The user was not asked"):
            await service.generate(offer, approved=False, wait_seconds=0)
        outcome = await service.generate(offer, approved=True, wait_seconds=0)
    assert {told.record.reserved_usd for told in outcome.tasks} == {Decimal("0.10")}
    assert front.count(SCHEDULES) == 1


@pytest.mark.parametrize("approved", [False, True])
async def test_a_call_that_a_cap_would_have_refused_is_not_made_unasked_when_the_cap_has_room_again(
    front: Front, tmp_path: Path, *, approved: bool
) -> None:
    async with opened(front.settings(tmp_path, caps=day("0.65"))) as service:
        held = [await made(service, f"fox {number} [sandbox:stuck]", wait=0) for number in range(2)]
        offer = await service.offer(CheckedRequest(catalog.request(prompt="foxes", output_resolution="2k")), count=8)
        assert offer.to_ask is None
        with pytest.raises(BudgetError, match=r"would cost \$0\.56; FLUX2_DAILY_BUDGET_USD"):
            await service.generate(offer, approved=approved, wait_seconds=0)
        with closing(sqlite3.connect(service.settings.home / "journal.sqlite3")) as database, database:
            database.execute("UPDATE task SET state = 'failed'")
        if approved:
            await service.generate(offer, approved=True, wait_seconds=0)
        else:
            with pytest.raises(BudgetError, match="The user was not asked"):
                await service.generate(offer, approved=False, wait_seconds=0)
    assert front.count(CREATE) == len(held) + 8 * approved


async def test_of_a_call_whose_key_is_known_only_what_is_new_is_priced(front: Front, tmp_path: Path) -> None:
    asked = CheckedRequest(catalog.request(prompt="foxes [sandbox:stuck]", variant="flex"))
    async with opened(front.settings(tmp_path, caps=day("1.20"))) as service:
        for count, new, needed in ((2, 2, False), (2, 0, False), (5, 3, False), (8, 6, True)):
            offer = await service.offer(asked, count=count, idempotency_key="k")
            assert (offer.new, offer.confirmation is not None) == (new, needed)
            if count == 2:
                await service.generate(offer, approved=False, wait_seconds=0)
        agreed = await service.offer(asked, count=8, idempotency_key="k", max_cost_usd=Decimal("0.84"))
        await service.generate(agreed, approved=False, wait_seconds=0)
        again = await service.offer(asked, count=8, idempotency_key="k", max_cost_usd=Decimal(0))
        assert again.new == 0
    assert len(front.tasks()) == 8


# --- amounts in the journal that are none ---

BROKEN = ["'much'", "9e999", "9223372036854775807", "-1000000", "0.5", "x'00'"]


def damage(path: Path, columns: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE task SET {columns}")  # noqa: S608  # of this test's own words


@pytest.mark.parametrize("amount", deep_but(BROKEN, BROKEN[0], BROKEN[1]))
async def test_a_charge_that_is_no_amount_closes_the_day_until_the_user_tells_it_and_stops_nothing_else(
    front: Front, tmp_path: Path, amount: str
) -> None:
    async with opened(front.settings(tmp_path, caps=day("0.25"))) as service:
        (told,) = (await made(service)).tasks
    damage(tmp_path / "home" / "journal.sqlite3", f"charged = {amount}")
    async with opened(front.settings(tmp_path)) as service:
        await made(service, "without a cap")
        assert await journal_of(service).history.spending(SpendingBy.DAY, None)
        await journal_of(service).history.matched()
    async with opened(front.settings(tmp_path, caps=day("0.25"))) as service:
        with pytest.raises(BudgetError, match=f"the cost of task {told.record.key}") as refused:
            await made(service, "a fox")
        assert "flux2-mcp spend --lost USD" in refused.value.next_step
        assert await journal_of(service).money.settle(Decimal("0.05"))
        assert await counted(service) == Decimal("0.15")  # what the broken one had reserved still counts
        assert await taken(service, *FOXES) == 2


@pytest.mark.parametrize("date", ["0", "-1", "-9e99", "1e6"])
async def test_a_date_from_before_this_program_was_there_closes_the_day_until_the_user_tells_what_was_spent(
    front: Front, tmp_path: Path, date: str
) -> None:
    async with opened(front.settings(tmp_path, caps=day("0.10"))) as service:
        first, _ = [await made(service, prompt) for prompt in FOXES[:2]]
        key = first.tasks[0].record.key
        damage(tmp_path / "home" / "journal.sqlite3", f"created_at = {date}")
        with pytest.raises(BudgetError, match=f"the cost of task {key}"):
            await made(service, "a third fox")
        assert await journal_of(service).money.settle(Decimal("0.10"))
        assert await counted(service) == Decimal("0.10")
        with pytest.raises(BudgetError, match=r"\$0\.00 of it is left"):
            await made(service, "a third fox")


@pytest.mark.parametrize("amount", BROKEN)
async def test_a_reservation_that_is_no_amount_closes_the_day_and_is_no_price(
    front: Front, tmp_path: Path, amount: str
) -> None:
    async with opened(front.settings(tmp_path)) as service:
        await made(service, "a fox [sandbox:stuck]", wait=0)
        damage((service.settings.home / "journal.sqlite3"), f"reserved = {amount}, quoted = {amount}")
        found = await journal_of(service).money.spent(at=datetime.now(UTC), session=service.session)
        assert (found.daily_usd + found.session_usd, found.lost is None) == (Decimal(0), False)
        assert (await service.prices.book()).charged == {}


async def test_what_was_told_of_a_lost_journal_and_is_no_amount_closes_the_day_again(
    front: Front, tmp_path: Path
) -> None:
    async with opened(front.settings(tmp_path, caps=day("0.25"))) as service:
        await made(service)
        with closing(sqlite3.connect(service.settings.home / "journal.sqlite3")) as database, database:
            database.execute("INSERT INTO lost VALUES ('one', ?, 'much')", (datetime.now(UTC).timestamp(),))
        with pytest.raises(BudgetError, match="one was lost"):
            await made(service, "another")
        assert await journal_of(service).money.settle(Decimal("0.05"))
        await made(service, "another")


# --- after the journal was lost ---


async def test_a_restored_task_holds_what_it_had_reserved(front: Front, tmp_path: Path) -> None:
    Prices(front, listed=None)
    caps = Caps(daily_usd=Decimal("0.50"), session_usd=Decimal("0.50"))
    often = Timing(claim_seconds=0.05)
    async with opened(front.settings(tmp_path, caps=caps), timing=often) as service:
        outcome = await made(service, "a fox [sandbox:stuck]", request=MAX, max_cost_usd=Decimal("0.20"), wait=0)
        key = outcome.tasks[0].record.key
        garble(service.settings.home / "journal.sqlite3")

        async def restored() -> bool:
            return journal_of(service).notice is not None and bool(await journal_of(service).tasks.find([key]))

        await until(restored)
        (entry,) = await journal_of(service).tasks.find([key])
        found = await journal_of(service).money.spent(at=datetime.now(UTC), session=service.session)
        assert (entry.quoted_usd, entry.reserved_usd) == (None, Decimal("0.20"))
        assert (found.session_usd, found.daily_usd) == (Decimal("0.20"), Decimal("0.20"))
        with pytest.raises(BudgetError, match="FLUX2_DAILY_BUDGET_USD is closed") as refused:
            await made(service, "another")
        assert "flux2-mcp spend --lost USD" in refused.value.next_step
        await journal_of(service).money.settle(Decimal("0.10"))
        await made(service, "another")
    assert front.count(CREATE) == 2
