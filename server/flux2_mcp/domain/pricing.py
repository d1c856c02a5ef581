"""What an image costs, and who says so. Pure.

Prices come from RunAPI's live schedule where it can be had; else from the published page (`catalog.json`); else from
what the last image was charged; else from the dearest amount of a schedule that does not tell which of its amounts applies.
What no source prices is None: nobody invents a number. What guards money counts with the dearest of all that is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from flux2_mcp.domain import catalog
from flux2_mcp.domain.catalog import DEFAULT_RESOLUTION, Model
from flux2_mcp.domain.models import Action, ImageRequest, PriceSchedule, PriceSource

CENTS = Decimal(100)


@dataclass(frozen=True, slots=True)
class PriceBook:
    """The schedules at hand. `source` is "live" when they were just fetched, "cached" when fetched earlier.

    `charged` is what the last image was charged, in USD, by model id and resolution.
    """

    schedules: tuple[PriceSchedule, ...] = ()
    source: PriceSource = "published"
    charged: Mapping[tuple[str, str], Decimal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitPrice:
    """One image of one model at one resolution. `usd` is None where no number is published."""

    model: Model
    output_resolution: str
    usd: Decimal | None
    source: PriceSource
    as_of: str | None


_Statement = tuple[Decimal | None, PriceSource, str | None]
"""What a source says of one image: USD, which source it is, the time it speaks of."""


def price(book: PriceBook, model: Model, output_resolution: str) -> UnitPrice:
    """The price of one image: the schedule's, else the published one, else what the last one was charged."""
    unknown: _Statement = (None, "unknown", None)
    usd, source, as_of = next(_known(book, model, output_resolution), unknown)
    return UnitPrice(model=model, output_resolution=output_resolution, usd=usd, source=source, as_of=as_of)


def dearest(book: PriceBook, model: Model, output_resolution: str) -> Decimal | None:
    """The most that any source says one image costs, in USD; None where none knows. Nothing is no price."""
    return max((usd for usd, _, _ in _known(book, model, output_resolution) if usd), default=None)


def _known(book: PriceBook, model: Model, output_resolution: str) -> Iterator[_Statement]:
    """What each source says of one image, the best first.

    A schedule that prices the model and does not tell this resolution comes last: its dearest amount is all that is sure.
    """
    ours = [each for each in book.schedules if each.model == model.id and each.action is model.action]
    for schedule in ours:
        if (cents := schedule.cents.get(output_resolution)) is not None:
            yield cents / CENTS, book.source, schedule.as_of
    if (published := model.published_cents.get(output_resolution)) is not None:
        yield published / CENTS, "published", catalog.document()["prices_as_of"]
    if (charged := book.charged.get((model.id, output_resolution))) is not None:
        yield charged, "charged", None
    for schedule in ours:
        if schedule.cents.get(output_resolution) is None and schedule.dearest_cents is not None:
            yield schedule.dearest_cents / CENTS, book.source, schedule.as_of


def price_of(book: PriceBook, request: ImageRequest) -> UnitPrice:
    """The price of what a request asks for."""
    return price(book, *_kind(request))


def dearest_of(book: PriceBook, request: ImageRequest) -> Decimal | None:
    """The most that what a request asks for may cost, in USD, by all that is known."""
    return dearest(book, *_kind(request))


def _kind(request: ImageRequest) -> tuple[Model, str]:
    """What its price hangs on."""
    return catalog.models()[request.model], request.output_resolution or DEFAULT_RESOLUTION


def prices(
    book: PriceBook, *, variant: str | None, action: Action | None, output_resolution: str | None
) -> tuple[UnitPrice, ...]:
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
