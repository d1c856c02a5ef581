"""Prices a call, and decides whether the user must confirm it first: for the tool and for the command line alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal

from msgspec import Struct
from msgspec.structs import replace

from flux2_mcp.domain import budget, catalog, finishing, pricing
from flux2_mcp.domain.budget import CapRoom
from flux2_mcp.domain.lifecycle import RESULT_LIFETIME
from flux2_mcp.domain.models import ImageRequest
from flux2_mcp.domain.pricing import UnitPrice
from flux2_mcp.engine import submission
from flux2_mcp.engine.live_prices import LivePrices
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.submission import CheckedRequest
from flux2_mcp.errors import BudgetError, shortened, together
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.settings import Settings

MAX_PROMPT_CHARS = 120
"""Characters of the prompt in the question."""


class Confirmation(Struct, frozen=True, kw_only=True):
    """What a user must agree to before a call is sent.

    Attributes:
        question: For the user, several lines.
        quoted_usd: The price of the whole call; None if unknown.
        threshold_usd: What a call may cost without a confirmation.
        cheaper: A cheaper request, in words; None if there is none.
        over: A cap would refuse the call now.
        note: A sentence about the price, if the sandbox made it up.
    """

    question: str
    quoted_usd: Decimal | None
    threshold_usd: Decimal
    cheaper: str | None
    over: bool = False
    note: str | None = None

    def refused(self, why: str, next_step: str) -> BudgetError:
        """Return the error for a call that the user has not confirmed.

        Args:
            why: A sentence.
            next_step: A sentence.
        """
        threshold = budget.dollars(self.threshold_usd)
        reason = (
            f"Nobody publishes its price, and a call that may cost more than {threshold} needs the user's yes"
            if self.quoted_usd is None
            else f"It would cost {budget.dollars(self.quoted_usd)}, and a call of more than {threshold} needs the user's yes"
        )
        return BudgetError(
            together([why, f"{reason} (FLUX2_CONFIRM_USD).", self.note]),
            next_step=together([next_step, f"Cheaper: {self.cheaper}." if self.cheaper else None]),
        )

    @property
    def stated(self) -> str:
        """The amount that confirms the call, as the value of an argument; in words if the price is unknown."""
        return "the most it may cost" if self.quoted_usd is None else f"{self.quoted_usd.normalize():f}"


class QuotedTask(Struct, frozen=True, kw_only=True):
    """One task of a call, before it is made.

    Attributes:
        key: Its idempotency key.
        request: Without the addresses of its sources, which are not sent yet.
        follows: The key of the task whose image it works on; None: it is the first of its picture.
        quoted_usd: Its price; None if unknown.
        reserved_usd: What it reserves from the caps: the highest known price, or else a share of the caller's maximum.
    """

    key: str
    request: ImageRequest
    follows: str | None
    quoted_usd: Decimal | None
    reserved_usd: Decimal | None


class Quotation(Struct, frozen=True, kw_only=True):
    """A call that has a price and was not made yet.

    Attributes:
        checked: The validated request.
        pictures: The tasks of each picture, its steps first to last.
        begun: The tasks of earlier calls, already paid, on whose images some of these go on.
        new: How many of its tasks the journal does not have yet. Only these cost something.
        joinable: Whether an identical task under way may be returned instead.
        stated_usd: `max_cost_usd` of the call.
        most_usd: The most that the steps of the call may cost together; None: no such limit, or there is one step.
        confirmation: What the user must agree to before anything is paid; None if no confirmation is needed.
        note: Sentences about the price: of each step, if there are several; and if the sandbox made it up.
        consent: Names the user's yes, if the call needs one and came with one: see `contract.Tasks.intend`.
        repeated: The tasks that the same yes led to before. Then there are no others, and nothing is paid.
        took_seconds: How long the caller has waited for it.
    """

    checked: CheckedRequest
    pictures: tuple[tuple[QuotedTask, ...], ...]
    new: int
    joinable: bool
    stated_usd: Decimal | None
    confirmation: Confirmation | None
    begun: tuple[TaskRecord, ...] = ()
    most_usd: Decimal | None = None
    note: str | None = None
    consent: str | None = None
    repeated: tuple[TaskRecord, ...] = ()
    took_seconds: float = 0.0

    @property
    def to_ask(self) -> Confirmation | None:
        """What to ask the user now; None if a cap will refuse the call anyway."""
        return None if self.confirmation is None or self.confirmation.over else self.confirmation


class Quotations:
    """Prices calls, and decides which of them the user must confirm.

    Args:
        prices: The price schedules.
        seam: The journal, which has the amounts spent and the keys used; the clock.
        settings: The caps, and the amount that a call may cost without a confirmation.
    """

    def __init__(self, prices: LivePrices, seam: Seam, settings: Settings) -> None:
        self._prices = prices
        self._tasks = seam.journal.tasks
        self._money = seam.journal.money
        self._session = seam.journal.owner
        self._person = seam.person
        self._now = seam.now
        self._monotonic = seam.monotonic
        self._caps = settings.caps
        self._threshold_usd = settings.confirm_usd

    async def quote(
        self,
        checked: CheckedRequest,
        *,
        count: int,
        stated_usd: Decimal | None,
        key: str | None,
        goes_on: TaskRecord | None = None,
        consent: str | None = None,
    ) -> Quotation:
        """Price a call. Only its new tasks cost something: a task that was sent under a key is not paid again.

        Args:
            checked: Validated.
            count: How many images.
            stated_usd: `max_cost_usd` of the call. A caller that states it has confirmed the call.
            key: The caller's own idempotency key.
            goes_on: A task of an earlier call on whose image this one goes on. Without it and without a key, one is searched for.
            consent: Names the answer to an earlier question, if the call came with one. A key of the caller's own goes before it.

        Raises:
            InvalidRequestError: RunAPI does not accept such a key.
            BudgetError: The price is above the stated maximum, or it is unknown and there is a cap.
        """
        asked_at = self._monotonic()
        consent = consent if key is None else None
        if (quotation := await self._repeated(checked, consent)) is None:
            quotation = await self._quoted(checked, count, stated_usd, key, goes_on)
            if quotation.new and consent is not None:  # also where this server would not have asked: another one may
                # Of two that were sent at once, the first may have changed what is left of a cap, and with it the question.
                quotation = await self._repeated(checked, consent) or replace(quotation, consent=consent)
        return replace(quotation, took_seconds=self._monotonic() - asked_at)

    async def _quoted(
        self,
        checked: CheckedRequest,
        count: int,
        stated_usd: Decimal | None,
        key: str | None,
        goes_on: TaskRecord | None,
    ) -> Quotation:
        steps, key = checked.steps, submission.own(key, self._person)
        begun: tuple[TaskRecord, ...] = ()
        if goes_on is not None:
            begun, key = (goes_on,), None  # its tasks have keys that follow from that task's
        elif key is None and checked.finish:
            begun = await self._begun(checked, count)
        pictures = [await self._rest(steps, record) for record in begun]
        keys = submission.keys(key, count - len(begun), len(steps))
        if key is not None:
            first = submission.numbered_first(key)
            known = {record.key for record in await self._tasks.find([key, first])}
            if key not in known and first in known:
                keys[0] = first
        pictures += [[(submission.following(each, n), step) for n, step in enumerate(steps)] for each in keys]
        made: set[str] = set()
        if key is not None or begun:
            made = {record.key for record in await self._tasks.find([each for one in pictures for each, _ in one])}
        new = [step for one in pictures for each, step in one if each not in made]
        book = await self._prices.book({catalog.all_models()[step.model].service for step in steps})
        dearest = {step: pricing.dearest_of(book, step) for step in steps}
        priced = {step: pricing.price_of(book, step) for step in steps}
        invented = {priced[step].model.variant for step in steps if priced[step].source == "invented"}
        note = together([_each(priced) if checked.finish else None, pricing.invented(invented)]) or None
        amounts = [amount for step in new if (amount := dearest[step]) is not None]
        total = sum(amounts, Decimal(0)) if len(amounts) == len(new) else None
        share = None
        try:
            if new:
                budget.reservation(total, stated_usd, self._caps)
                if total is None and stated_usd is not None:
                    share = budget.share(stated_usd, sum(amounts, Decimal(0)), len(new) - len(amounts))
        except BudgetError as exc:
            raise BudgetError(together([exc.message, note]), next_step=exc.next_step) from None
        limits = [usd for usd in (stated_usd, self._caps.call_usd) if usd is not None and checked.finish]
        return Quotation(
            checked=checked,
            pictures=tuple(
                tuple(
                    QuotedTask(
                        key=each,
                        request=step,
                        follows=one[n - 1][0] if n else submission.followed(each) if step is not steps[0] else None,
                        quoted_usd=None if dearest[step] is None else priced[step].usd,
                        reserved_usd=share if dearest[step] is None else dearest[step],
                    )
                    for n, (each, step) in enumerate(one)
                )
                for one in pictures
            ),
            begun=begun,
            new=len(new),
            joinable=key is None and count == 1 and not begun,
            stated_usd=stated_usd,
            most_usd=min(limits, default=None),
            confirmation=await self._confirmation(new, total, note) if new and stated_usd is None else None,
            note=note,
        )

    async def _repeated(self, checked: CheckedRequest, consent: str | None) -> Quotation | None:
        """Return the quotation of a call whose yes has led to tasks before; None if it has not."""
        if consent is None or not (found := await self._tasks.consented(consent)):
            return None
        return Quotation(
            checked=checked, pictures=(), new=0, joinable=False, stated_usd=None, confirmation=None, repeated=found
        )

    async def _begun(self, checked: CheckedRequest, count: int) -> tuple[TaskRecord, ...]:
        """Return the tasks on whose images the call goes on, because an earlier one like it ended without its picture."""
        since = self._now() - RESULT_LIFETIME
        return await self._tasks.broken_off(checked.digests, since=since, limit=count)

    async def _rest(self, steps: Sequence[ImageRequest], record: TaskRecord) -> list[tuple[str, ImageRequest]]:
        """Return the key and the request of each step that is missing after a task."""
        number = len(await self._tasks.followers([record.key])) + 1
        done = next(n for n, step in enumerate(steps, 1) if step.model == record.request.model)
        return [
            (submission.following(record.key, later, number=number), step) for later, step in enumerate(steps[done:], 1)
        ]

    async def _confirmation(
        self, new: Sequence[ImageRequest], quoted: Decimal | None, note: str | None
    ) -> Confirmation | None:
        """Return what the user must agree to before these tasks are made; None if no confirmation is needed."""
        if self._threshold_usd is None or (quoted is not None and quoted <= self._threshold_usd):
            return None
        caps = await self._money.in_force(self._caps)
        spent = await self._money.spent(at=self._now(), session=self._session, caps=caps)
        cheaper = None
        if quoted is not None and len({*new}) == 1:
            cheaper = await self._prices.fitting(new[0].action, len(new), quoted, below=True)
        return Confirmation(
            question=_question(new, quoted, budget.left(caps, spent), cheaper, note),
            quoted_usd=quoted,
            threshold_usd=self._threshold_usd,
            cheaper=cheaper,
            over=quoted is not None and budget.exceeded(quoted, caps, spent) is not None,
            note=note,
        )


def _each(priced: Mapping[ImageRequest, UnitPrice]) -> str:
    """The price of each step in a sentence."""
    amounts = ("not published" if price.usd is None else budget.dollars(price.usd) for price in priced.values())
    steps = zip(finishing.labels([*priced]), amounts, strict=True)
    return f"One picture: {', then '.join(f'{label} ({amount})' for label, amount in steps)}."


def _question(
    new: Sequence[ImageRequest],
    quoted: Decimal | None,
    left: Sequence[CapRoom],
    cheaper: str | None,
    note: str | None,
) -> str:
    price = "a price that is not published" if quoted is None else budget.dollars(quoted)
    tasks = Counter(finishing.labels(new))
    made = ", ".join(f"{'1 image' if count == 1 else f'{count} images'} with {label}" for label, count in tasks.items())
    lines = [f"Make {made} for {price}?"]
    prompts = dict.fromkeys(" ".join(step.prompt.split()) for step in new if step.prompt)
    lines += [f"Prompt: {shortened(prompt, MAX_PROMPT_CHARS)}" for prompt in prompts]
    lines += [f"Left of {cap.name}: {budget.dollars(cap.left_usd)}." for cap in left]
    lines += [f"Cheaper: {cheaper}."] if cheaper else []
    lines += [note] if note else []
    return "\n".join(lines)
