"""When a call costs enough that the user is asked first, and what they are told: what, how many, the quote, what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from flux2_mcp import budget, pricing
from flux2_mcp.budget import Left
from flux2_mcp.errors import BudgetError
from flux2_mcp.journal.entry import Journal, resolution
from flux2_mcp.models import ImageRequest
from flux2_mcp.prices import Prices
from flux2_mcp.settings import Settings

SHOWN = 120
"""Characters of the prompt in the question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What a user must agree to before a call is sent.

    `question` is for the user, several lines; `quoted_usd` is the price of the whole call, None where nobody knows it;
    `cheaper` says in words what would cost less, None where nothing does.
    """

    question: str
    quoted_usd: Decimal | None
    threshold_usd: Decimal
    cheaper: str | None

    def refused(self, why: str, *, again: bool) -> BudgetError:
        """The error for a call that was not agreed to.

        Args:
            why: A sentence.
            again: Whether the same call may be made again with the argument that confirms it.
        """
        if self.quoted_usd is None:
            cost, confirm = "Nobody publishes its price", "max_cost_usd, the most it may cost"
        else:
            cost, confirm = (
                f"It would cost {budget.dollars(self.quoted_usd)}",
                f"max_cost_usd: {self.quoted_usd.normalize():f}",
            )
        step = (
            f"With the user's yes, call again with {confirm}."
            if again
            else "Don't call again unless the user asks for it."
        )
        cheaper = f" Cheaper: {self.cheaper}." if self.cheaper else ""
        return BudgetError(
            f"{why} {cost}; FLUX2_CONFIRM_USD, {budget.dollars(self.threshold_usd)}, is what a call may cost unasked.",
            next_step=f"{step}{cheaper}",
        )


class Confirming:
    """Decides whether a call needs the user's yes.

    Args:
        prices: What things cost.
        journal: What was spent.
        session: This process's name in the journal.
        settings: The caps in force, and what a call may cost unasked.
    """

    def __init__(self, prices: Prices, journal: Journal, session: str, settings: Settings) -> None:
        self._prices = prices
        self._journal = journal
        self._session = session
        self._caps = settings.caps
        self._threshold_usd = settings.confirm_usd

    async def needed(
        self, request: ImageRequest, count: int, stated_usd: Decimal | None, key: str | None
    ) -> Confirmation | None:
        """What to ask the user; None where nothing needs to be asked, or where the call is going to be refused anyway.

        Args:
            request: Validated.
            count: How many images.
            stated_usd: `max_cost_usd` of the call: who states it has agreed to it.
            key: The caller's own idempotency key: what was sent under it is not paid again.
        """
        if self._threshold_usd is None or stated_usd is not None:
            return None
        if key is not None and await self._journal.find([key if count == 1 else f"{key}-1"]):
            return None
        price = pricing.price_of(await self._prices.book(), request)
        quoted = None if price.usd is None else price.usd * count
        if (quoted is None and self._caps.any) or (quoted is not None and quoted <= self._threshold_usd):
            return None
        spent = await self._journal.spent(at=datetime.now(UTC), session=self._session)
        if quoted is not None and budget.exceeded(quoted, self._caps, spent) is not None:
            return None
        cheaper = None if quoted is None else await self._prices.fitting(request.action, count, quoted, below=True)
        left = budget.left(self._caps, spent)
        return Confirmation(
            question=_question(request, count, quoted, left, cheaper),
            quoted_usd=quoted,
            threshold_usd=self._threshold_usd,
            cheaper=cheaper,
        )


def _question(
    request: ImageRequest, count: int, quoted: Decimal | None, left: Sequence[Left], cheaper: str | None
) -> str:
    prompt = " ".join(request.prompt.split())
    shown = prompt if len(prompt) <= SHOWN else f"{prompt[: SHOWN - 1]}…"
    images = "1 image" if count == 1 else f"{count} images"
    price = "a price that nobody publishes" if quoted is None else budget.dollars(quoted)
    lines = [f"Make {images} with {request.model} at {resolution(request)} for {price}?", f"Prompt: {shown}"]
    lines += [f"Left of {cap.name}: {budget.dollars(cap.left_usd)}." for cap in left]
    lines += [f"Cheaper: {cheaper}."] if cheaper else []
    return "\n".join(lines)
