"""Prices and variants as typed results, and the same in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import groupby

from flux2_mcp.domain import catalog, finishing, pricing
from flux2_mcp.domain.budget import dollars
from flux2_mcp.domain.catalog import DEFAULT_RESOLUTION, Field, Model
from flux2_mcp.domain.models import MAKING, Action, PriceSource
from flux2_mcp.domain.pricing import PriceBook, UnitPrice
from flux2_mcp.engine.live_prices import PriceList
from flux2_mcp.engine.manifest_quotes import ManifestQuote
from flux2_mcp.errors import Wording, together
from flux2_mcp.server.results import plan as plans
from flux2_mcp.server.results.plan import PlanResult
from flux2_mcp.server.results.tasks import Result, Words, number, trouble

UNPRICED = Wording("No published price: only RunAPI's live schedule knows it, so state {name:max_cost_usd}.")

NOT_STATED = "not stated"
NO_MONEY = "SANDBOX: no money moves."
"""Of prices, nothing more needs to be said: no image is drawn."""


class PriceResult(Result):
    """One image of one model at one resolution. `usd` is null where nobody publishes a number, and `note` says so."""

    model: str
    variant: str
    action: str
    output_resolution: str
    usd: float | None = None
    source: PriceSource
    as_of: str | None = None
    note: Words | None = None


class EstimateResult(Result):
    """What `generate` with these arguments would cost; null where nobody knows."""

    model: str
    output_resolution: str
    count: int
    usd: float | None = None


class PricingResult(Result):
    """Prices that match, an estimate for the request, and the account's balance, in USD.

    For a manifest: its plan and the price of that, and no prices. `as_of` is that of the live, cached and published prices without one of their own. `finishing` is USD for the step that an argument asks for; null where nobody publishes a number.
    """

    sandbox: bool
    notice: Words | None = None
    prices: list[PriceResult]
    finishing: dict[str, float | None] | None = None
    as_of: str | None = None
    estimate: EstimateResult | None = None
    balance_usd: float | None = None
    plan: PlanResult | None = None


class ConstraintResult(Result):
    """One argument of `generate` as this model takes it. `low` and `high` bound characters or items."""

    name: str
    kind: str
    required: bool
    low: int | None = None
    high: int | None = None
    allowed: list[str | int] | None = None


class VariantResult(Result):
    """One model: what it takes, what it costs from, when to choose it."""

    model: str
    variant: str
    action: str
    constraints: list[ConstraintResult]
    not_accepted: list[str]
    from_usd: float | None = None
    commercial_use: str
    choose: Words


class VariantsResult(Result):
    """All models that match."""

    variants: list[VariantResult]


def price_list(
    found: PriceList, *, variant: str | None, action: str | None, output_resolution: str | None, count: int
) -> PricingResult:
    """Make the result of `check_pricing`.

    Raises:
        InvalidRequestError: No such variant, or it belongs to the other action.
    """
    model = _meant(variant, action)
    resolution = output_resolution or (
        DEFAULT_RESOLUTION if DEFAULT_RESOLUTION in model.resolutions else model.resolutions[0]
    )
    estimated = pricing.price(found.book, model, resolution)
    made_up = {price.model.variant for price in (*found.prices, estimated) if price.source == "invented"}
    notices = [
        NO_MONEY if found.sandbox else None,
        pricing.invented(made_up),
        Wording("The balance could not be read: {why}", why=trouble(found.trouble)) if found.trouble else None,
    ]
    stamps = {price.as_of for price in found.prices if price.as_of is not None}
    shared = next(iter(stamps)) if len(stamps) == 1 else None
    return PricingResult(
        sandbox=found.sandbox,
        notice=together(notices) or None,
        prices=[_price(price, shared) for price in found.prices],
        finishing=_finishing(found.finishing) or None,
        as_of=shared,
        estimate=EstimateResult(
            model=model.id,
            output_resolution=resolution,
            count=count,
            usd=None if estimated.usd is None else number(estimated.usd * count),
        ),
        balance_usd=None if found.balance is None else number(found.balance.balance_usd),
    )


def planned(found: ManifestQuote) -> PricingResult:
    """Make the result of `check_pricing` for a manifest."""
    plan = plans.plan(found, most=plans.MAX_IMAGES)
    return PricingResult(sandbox=found.sandbox, prices=[], balance_usd=plan.balance_usd, plan=plan)


def _meant(variant: str | None, action: str | None) -> Model:
    """Return the model that a request with these arguments would use."""
    known = catalog.all_models().get(variant or "")
    return known if known and action is None else catalog.find(variant, Action(action or Action.TEXT_TO_IMAGE))


def _finishing(found: Sequence[UnitPrice]) -> dict[str, float | None]:
    """Return the price of each step by the argument that asks for it; once, if all its values cost the same."""
    prices: dict[str, float | None] = {}
    for argument, group in groupby(found, key=lambda price: price.model.argument or ""):
        each = {price.output_resolution: number(price.usd) for price in group}
        if len(set(each.values())) == 1:
            prices[argument] = next(iter(each.values()))
        else:
            prices |= {f"{argument} {size}": usd for size, usd in each.items()}
    return prices


def _price(price: UnitPrice, shared: str | None) -> PriceResult:
    return PriceResult(
        model=price.model.id,
        variant=price.model.variant,
        action=price.model.action,
        output_resolution=price.output_resolution,
        usd=number(price.usd),
        source=price.source,
        as_of=None if price.as_of == shared else price.as_of,
        note=UNPRICED if price.usd is None else None,
    )


def pricing_words(result: PricingResult) -> str:
    """Describe prices in words: a line for each model, the commonest source once, and any other with its price."""
    sources = Counter(_source(price, result) for price in result.prices if price.usd is not None)
    common = next((source for source, _ in sources.most_common(1)), None)
    each: dict[str, list[str]] = {}
    for model, group in groupby(result.prices, key=lambda price: price.model):
        said = ", ".join(
            f"{price.output_resolution} {price.note}"
            if price.usd is None
            else f"{price.output_resolution} {_usd(price.usd)}{'' if source == common else f' ({source})'}"
            for price in group
            for source in [_source(price, result)]
        )
        each.setdefault(said, []).append(model)
    if result.plan is not None:
        return plans.plan_words(result.plan)
    lines = [f"{', '.join(models)}: {said}" for said, models in each.items()]
    if result.finishing is not None:
        lines += _finishing_words(result.finishing)
    if common is not None:
        lines.append(f"{'prices' if len(sources) == 1 else 'other prices'}: {common}")
    if (estimate := result.estimate) is not None:
        lines.append(f"{estimate.count} x {estimate.model} at {estimate.output_resolution}: {_usd(estimate.usd)}")
    lines.append(f"balance: {_usd(result.balance_usd)}")
    return "\n".join([*lines, result.notice] if result.notice else lines)


def _finishing_words(prices: Mapping[str, float | None]) -> list[str]:
    if all(usd is None for usd in prices.values()):
        return [f"then {', '.join(prices)}: unknown"]
    return ["then " + ", ".join(f"{step} {_usd(usd)}" for step, usd in prices.items())]


def _source(price: PriceResult, result: PricingResult) -> str:
    if price.source == "charged":
        return "charged for the last one"
    as_of = None if price.source == "invented" else price.as_of or result.as_of
    return price.source if as_of is None else f"{price.source}, as of {as_of}"


def variants(*, action: str | None, variant: str | None) -> VariantsResult:
    """Make the result of `list_variants`.

    Raises:
        InvalidRequestError: No variant or model has that name.
    """
    if variant is not None:
        _meant(variant, None)
    return VariantsResult(
        variants=[
            _variant(model)
            for model in catalog.all_models().values()
            # What no argument asks for is told where it is asked about.
            if model.action in MAKING or model.argument is not None or action is not None or variant is not None
            if action in {None, model.action} and variant in {None, model.variant, model.id}
        ]
    )


def _variant(model: Model) -> VariantResult:
    prices = [price.usd for price in pricing.prices(PriceBook(), variant=model.id, action=None, output_resolution=None)]
    known = [usd for usd in prices if usd is not None]
    return VariantResult(
        model=model.id,
        variant=model.variant,
        action=model.action,
        constraints=_constraints(model),
        not_accepted=sorted(model.forbidden - {"output_count"}),
        from_usd=number(min(known)) if known else None,
        commercial_use=catalog.document()["commercial_use"] if model.action in MAKING else NOT_STATED,
        choose=model.choose,
    )


def _constraints(model: Model) -> list[ConstraintResult]:
    if model.action in MAKING:
        return [_constraint(field) for name, field in model.fields.items() if name not in {"model", "output_count"}]
    source = ConstraintResult(name="source_images", kind="array", required=True, low=1, high=1)
    values = finishing.arguments().get(model.argument or "")
    asked = [
        ConstraintResult(
            name=model.argument or "", kind="string" if model.value else "integer", required=True, allowed=values
        )
    ]
    return [source, *(asked if values else [])]


def _constraint(field: Field) -> ConstraintResult:
    return ConstraintResult(
        name="source_images" if field.name == "source_image_urls" else field.name,
        kind=field.kind,
        required=field.required,
        low=field.low,
        high=field.high,
        allowed=list(field.enum) or None,
    )


def variants_words(result: VariantsResult) -> str:
    """Describe variants in words."""
    lines = []
    for each in result.variants:
        price = "price known only live" if each.from_usd is None else f"from {_usd(each.from_usd)}"
        lines.append(f"{each.model}: {price}. {each.choose}")
        takes = [f"{one.name} {'|'.join(map(str, one.allowed))}" for one in each.constraints if one.allowed]
        needs = [one.name for one in each.constraints if one.required]
        refuses = f"; not {', '.join(each.not_accepted)}" if each.not_accepted else ""
        lines.append(f"  needs {', '.join(needs)}; {'; '.join(takes)}{refuses}")
    return "\n".join([*lines, f"Commercial use: {catalog.document()['commercial_use']}."])


def _usd(amount: float | None) -> str:
    return "unknown" if amount is None else dollars(Decimal(str(amount)))
