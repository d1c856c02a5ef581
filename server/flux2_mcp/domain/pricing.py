"""Prices of images, and their sources. Pure.

A price comes from RunAPI's live schedule if it is available; else from the published page (`catalog.json`); else from
the charge for the last image; else it is the highest amount of a schedule that does not state which of its amounts
applies. If no source has a price, it is None: no number is invented. Caps count with the highest of all known prices.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from decimal import Decimal

from msgspec import Struct, field

from flux2_mcp.domain import catalog
from flux2_mcp.domain.catalog import Model, resolution
from flux2_mcp.domain.models import MAKING, Action, ImageRequest, PriceSchedule, PriceSource

CENTS = Decimal(100)
INVENTED = "The sandbox made up the price of {variants}."


class PriceBook(Struct, frozen=True):
    """The known schedules. `source` is "live" if they were just fetched, "cached" if they were fetched earlier.

    `charged` is the charge for the last image, in USD, by model id and resolution. `sandbox` is True if the schedules
    and the charges are the sandbox's: a price that nobody publishes is its invention then.
    """

    schedules: tuple[PriceSchedule, ...] = ()
    source: PriceSource = "published"
    charged: Mapping[tuple[str, str], Decimal] = field(default_factory=dict)
    sandbox: bool = False


class UnitPrice(Struct, frozen=True, kw_only=True):
    """The price of one image of one model at one resolution. `usd` is None if no price is known."""

    model: Model
    output_resolution: str
    usd: Decimal | None
    source: PriceSource
    as_of: str | None


_Statement = tuple[Decimal | None, PriceSource, str | None]
"""A source's price of one image: USD, the source, and the time of the price."""


def price(book: PriceBook, model: Model, output_resolution: str) -> UnitPrice:
    """The price of one image, from the best source that has one; the order is in the module's docstring."""
    unknown: _Statement = (None, "unknown", None)
    usd, source, as_of = next(_known(book, model, output_resolution), unknown)
    if book.sandbox and usd is not None and not model.published_cents:
        source, as_of = "invented", None
    return UnitPrice(model=model, output_resolution=output_resolution, usd=usd, source=source, as_of=as_of)


def dearest(book: PriceBook, model: Model, output_resolution: str) -> Decimal | None:
    """The highest price of one image in any source, in USD; None if no source has one. A price of 0 does not count."""
    return max((usd for usd, _, _ in _known(book, model, output_resolution) if usd), default=None)


def _known(book: PriceBook, model: Model, output_resolution: str) -> Iterator[_Statement]:
    """Each source's price of one image, the best source first.

    A schedule that has the model but not this resolution comes last: only its highest amount is certain.
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


def unpublished(models: Iterable[str]) -> set[str]:
    """The variants of those of these models whose price nobody publishes. An unknown model has no variant."""
    known = (catalog.all_models().get(model) for model in models)
    return {model.variant for model in known if model is not None and not model.published_cents}


def invented(variants: Collection[str]) -> str | None:
    """A sentence about the prices of these variants, which the sandbox made up; None if there are none."""
    return INVENTED.format(variants=", ".join(sorted(variants))) if variants else None


def price_of(book: PriceBook, request: ImageRequest) -> UnitPrice:
    """The price of a request's image."""
    return price(book, *_kind(request))


def dearest_of(book: PriceBook, request: ImageRequest) -> Decimal | None:
    """The highest known price of a request's image, in USD."""
    return dearest(book, *_kind(request))


def _kind(request: ImageRequest) -> tuple[Model, str]:
    """Model and resolution, on which the price depends."""
    return catalog.all_models()[request.model], resolution(request)


def finishing_prices(book: PriceBook) -> tuple[UnitPrice, ...]:
    """The prices of the steps that an argument of `generate` asks for, by model and factor."""
    asked = [model for model in catalog.finishers().values() if model.argument is not None]
    return tuple(price(book, model, size) for model in asked for size in model.resolutions)


def prices(
    book: PriceBook, *, variant: str | None, action: Action | None, output_resolution: str | None
) -> tuple[UnitPrice, ...]:
    """The prices of all models and resolutions that match; `variant` may be a model id.

    Models that finish pictures are among them if `variant` or `action` names them.

    Raises:
        InvalidRequestError: No variant or model has that name.
    """
    all_lines = variant is not None or action is not None
    models: Iterable[Model] = (catalog.all_models() if all_lines else catalog.models()).values()
    if variant is not None:
        known = catalog.all_models().get(variant)
        wanted = {known.id} if known else {catalog.find(variant, each).id for each in MAKING}
        models = [model for model in models if model.id in wanted]
    return tuple(
        price(book, model, size)
        for model in models
        if action in {None, model.action}
        for size in model.resolutions
        if output_resolution in {None, size}
    )
