"""What an image costs, and who says so. Pure.

Prices come from RunAPI's live schedule where it can be had; else from the published page (`catalog.json`). What no
source prices is None: nobody invents a number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from flux2_mcp import catalog
from flux2_mcp.catalog import DEFAULT_RESOLUTION, Model
from flux2_mcp.models import Action, ImageRequest, PriceSchedule, PriceSource

CENTS = Decimal(100)


@dataclass(frozen=True, slots=True)
class PriceBook:
    """The schedules at hand. `source` is "live" when they were just fetched, "cached" when fetched earlier."""

    schedules: tuple[PriceSchedule, ...] = ()
    source: PriceSource = "published"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One image of one model at one resolution. `usd` is None where nobody publishes a number."""

    model: Model
    output_resolution: str
    usd: Decimal | None
    source: PriceSource
    as_of: str | None


def price(book: PriceBook, model: Model, output_resolution: str) -> Price:
    """The price of one image: the schedule's, else the published one."""
    for schedule in book.schedules:
        if schedule.model == model.id and schedule.action is model.action:
            cents = schedule.cents.get(output_resolution)
            if cents is not None:
                return Price(
                    model=model,
                    output_resolution=output_resolution,
                    usd=cents / CENTS,
                    source=book.source,
                    as_of=schedule.as_of,
                )
    published = model.published_cents.get(output_resolution)
    return Price(
        model=model,
        output_resolution=output_resolution,
        usd=None if published is None else published / CENTS,
        source="unknown" if published is None else "published",
        as_of=None if published is None else catalog.document()["prices_as_of"],
    )


def price_of(book: PriceBook, request: ImageRequest) -> Price:
    """The price of what a request asks for."""
    model = catalog.models()[request.model]
    return price(book, model, request.output_resolution or DEFAULT_RESOLUTION)


def prices(
    book: PriceBook, *, variant: str | None, action: Action | None, output_resolution: str | None
) -> tuple[Price, ...]:
    """The prices of all that matches; `variant` may be a model id.

    Raises:
        InvalidRequestError: No variant or model has that name.
    """
    models: Iterable[Model] = catalog.models().values()
    if variant is not None:
        known = catalog.models().get(variant)
        wanted = {known.id} if known else {catalog.find(variant, each).id for each in Action}
        models = [model for model in models if model.id in wanted]
    return tuple(
        price(book, model, resolution)
        for model in models
        if action in {None, model.action}
        for resolution in model.resolutions
        if output_resolution in {None, resolution}
    )
