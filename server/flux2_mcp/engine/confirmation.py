"""Prices a call, and decides whether the user must confirm it first: for the tool and for the command line alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from flux2_mcp.domain import budget, pricing
from flux2_mcp.domain.budget import CapRoom
from flux2_mcp.domain.catalog import resolution
from flux2_mcp.domain.models import ImageRequest
from flux2_mcp.engine import submission
from flux2_mcp.engine.live_prices import LivePrices
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.submission import CheckedRequest
from flux2_mcp.errors import BudgetError, shortened, together
from flux2_mcp.settings import Settings

MAX_PROMPT_CHARS = 120
"""Characters of the prompt in the question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotation:
    """A call that has a price and was not made yet.

    Attributes:
        checked: The validated request.
        keys: The idempotency key of each of its tasks.
        new: How many of its tasks the journal does not have yet. Only these cost something.
        joinable: Whether an identical task under way may be returned instead.
        quoted_usd: The price of one image; None if unknown.
        stated_usd: `max_cost_usd` of the call.
        reserved_usd: What each new task reserves from the caps: the highest known price, or else the caller's maximum.
        confirmation: What the user must agree to before anything is paid; None if no confirmation is needed.
        note: A sentence about the price, if the sandbox made it up.
    """

    checked: CheckedRequest
    keys: tuple[str, ...]
    new: int
    joinable: bool
    quoted_usd: Decimal | None
    stated_usd: Decimal | None
    reserved_usd: Decimal | None
    confirmation: Confirmation | None
    note: str | None = None

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
        self._now = seam.now
        self._caps = settings.caps
        self._threshold_usd = settings.confirm_usd

    async def quote(
        self, checked: CheckedRequest, *, count: int, stated_usd: Decimal | None, key: str | None
    ) -> Quotation:
        """Price a call. Only its new tasks cost something: a task that was sent under a key is not paid again.

        Args:
            checked: Validated.
            count: How many images.
            stated_usd: `max_cost_usd` of the call. A caller that states it has confirmed the call.
            key: The caller's own idempotency key.

        Raises:
            InvalidRequestError: RunAPI does not accept such a key.
            BudgetError: The price is above the stated maximum, or it is unknown and there is a cap.
        """
        keys = submission.keys(key, count)
        known: set[str] = set()
        if key is not None:
            first = submission.numbered_first(key)
            known = {record.key for record in await self._tasks.find([*keys, first])}
            if key not in known and first in known:
                keys[0] = first
        new = sum(each not in known for each in keys)
        book = await self._prices.book()
        each = pricing.dearest_of(book, checked.request)
        total = None if each is None else each * new
        priced = pricing.price_of(book, checked.request)
        note = pricing.invented({priced.model.variant}) if priced.source == "invented" else None
        try:
            reserved = budget.reservation(total, stated_usd, self._caps) if new else None
        except BudgetError as exc:
            raise BudgetError(together([exc.message, note]), next_step=exc.next_step) from None
        return Quotation(
            checked=checked,
            keys=tuple(keys),
            new=new,
            joinable=key is None and count == 1,
            quoted_usd=None if each is None else priced.usd,
            stated_usd=stated_usd,
            reserved_usd=reserved / new if each is None and reserved is not None else each,
            confirmation=await self._confirmation(checked.request, new, total, note)
            if new and stated_usd is None
            else None,
            note=note,
        )

    async def _confirmation(
        self, request: ImageRequest, new: int, quoted: Decimal | None, note: str | None
    ) -> Confirmation | None:
        """Return what the user must agree to; None if no confirmation is needed."""
        if self._threshold_usd is None or (quoted is not None and quoted <= self._threshold_usd):
            return None
        spent = await self._money.spent(at=self._now(), session=self._session)
        cheaper = None if quoted is None else await self._prices.fitting(request.action, new, quoted, below=True)
        return Confirmation(
            question=_question(request, new, quoted, budget.left(self._caps, spent), cheaper, note),
            quoted_usd=quoted,
            threshold_usd=self._threshold_usd,
            cheaper=cheaper,
            over=quoted is not None and budget.exceeded(quoted, self._caps, spent) is not None,
            note=note,
        )


def _question(
    request: ImageRequest,
    count: int,
    quoted: Decimal | None,
    left: Sequence[CapRoom],
    cheaper: str | None,
    note: str | None,
) -> str:
    prompt = shortened(" ".join(request.prompt.split()), MAX_PROMPT_CHARS)
    images = "1 image" if count == 1 else f"{count} images"
    price = "a price that is not published" if quoted is None else budget.dollars(quoted)
    lines = [f"Make {images} with {request.model} at {resolution(request)} for {price}?", f"Prompt: {prompt}"]
    lines += [f"Left of {cap.name}: {budget.dollars(cap.left_usd)}." for cap in left]
    lines += [f"Cheaper: {cheaper}."] if cheaper else []
    lines += [note] if note else []
    return "\n".join(lines)
