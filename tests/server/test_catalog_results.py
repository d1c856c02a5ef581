from __future__ import annotations

from decimal import Decimal
from functools import partial

import pytest
from msgspec.structs import replace

from flux2_mcp.domain import catalog, finishing, pricing
from flux2_mcp.domain.models import MAKING, Action, Balance, PriceSchedule, PriceSource
from flux2_mcp.domain.pricing import PriceBook
from flux2_mcp.engine.live_prices import PriceList
from flux2_mcp.errors import InvalidRequestError, ServiceError
from flux2_mcp.server.results import catalog as catalog_results
from flux2_mcp.server.results.catalog import (
    NO_MONEY,
    UNPRICED,
    ConstraintResult,
    EstimateResult,
    PriceResult,
    PricingResult,
    VariantResult,
)
from tests.support.rows import rows

AS_OF = "2026-11-20T10:00:00Z"
RATIOS = ["1:1", "4:3", "3:4", "16:9", "9:16", "3:2", "2:3"]
ALL_PRICES = sum(len(model.resolutions) for model in catalog.models().values())
COMMERCIAL = "included for every variant unless a model licence says otherwise"
LIVE = PriceBook(
    (
        PriceSchedule(
            model="flux-2-max-text-to-image", action=Action.TEXT_TO_IMAGE, cents={"1k": Decimal("25.5")}, as_of=AS_OF
        ),
    ),
    "live",
)

ASKED_FOR = [model.id for model in catalog.all_models().values() if model.action in MAKING or model.argument]
"""The others are told where they are asked about."""


def listed(
    book: PriceBook | None = None,
    *,
    variant: str | None = None,
    action: Action | None = None,
    resolution: str | None = None,
    count: int = 1,
    balance: str | None = None,
    sandbox: bool = False,
    trouble: str | None = None,
) -> PricingResult:
    book = book or PriceBook()
    found = PriceList(
        prices=pricing.prices(book, variant=variant, action=action, output_resolution=resolution),
        book=book,
        balance=None if balance is None else Balance(balance_usd=Decimal(balance)),
        trouble=None if trouble is None else ServiceError(trouble, status=503),
        sandbox=sandbox,
    )
    return catalog_results.price_list(found, variant=variant, action=action, output_resolution=resolution, count=count)


def test_prices_are_told_with_their_source_an_estimate_and_the_balance() -> None:
    assert listed(
        variant="flex", action=Action.REMIX_IMAGE, resolution="2k", count=3, balance="12.34"
    ) == PricingResult(
        sandbox=False,
        notice=None,
        prices=[
            PriceResult(
                model="flux-2-flex-remix-image",
                variant="flex",
                action="remix_image",
                output_resolution="2k",
                usd=0.24,
                source="published",
                note=None,
            )
        ],
        as_of="2026-11",
        estimate=EstimateResult(model="flux-2-flex-remix-image", output_resolution="2k", count=3, usd=0.72),
        balance_usd=12.34,
    )


def test_max_without_a_live_price_is_null_and_says_so() -> None:
    result = listed(variant="max", action=Action.TEXT_TO_IMAGE, count=2)
    (price,) = result.prices
    assert (price.usd, price.source, price.as_of, price.note) == (None, "unknown", None, UNPRICED)
    assert result.estimate is not None
    assert result.estimate.usd is None
    assert catalog_results.pricing_words(result) == (
        f"flux-2-max-text-to-image: 1k {UNPRICED}\n2 x flux-2-max-text-to-image at 1k: unknown\nbalance: unknown"
    )


def test_max_with_a_live_price_is_told_to_the_tenth_of_a_cent() -> None:
    result = listed(LIVE, variant="max", action=Action.TEXT_TO_IMAGE, count=2, balance="1")
    (price,) = result.prices
    assert (price.usd, price.source, result.as_of, price.note) == (0.255, "live", AS_OF, None)
    assert catalog_results.pricing_words(result) == (
        "flux-2-max-text-to-image: 1k $0.255\n"
        f"prices: live, as of {AS_OF}\n"
        "2 x flux-2-max-text-to-image at 1k: $0.51\n"
        "balance: $1.00"
    )


@pytest.mark.parametrize("source", ["live", "cached"])
def test_a_price_that_the_sandbox_made_up_is_neither_live_nor_cached_and_said_to_be(source: PriceSource) -> None:
    book = replace(LIVE, source=source, sandbox=True)
    result = listed(book, action=Action.TEXT_TO_IMAGE, sandbox=True)
    by_model = {price.model: price for price in result.prices}
    dear, known = by_model["flux-2-max-text-to-image"], by_model["flux-2-pro-text-to-image"]
    assert (dear.usd, dear.source, dear.as_of, known.source) == (0.255, "invented", None, "published")
    words = catalog_results.pricing_words(result)
    assert "flux-2-max-text-to-image: 1k $0.255 (invented)" in words
    assert str(pricing.invented({"max"})) in words
    charged = replace(book, schedules=(), charged={("flux-2-max-text-to-image", "1k"): Decimal("0.3")})
    assert {price.source for price in listed(charged, variant="max", sandbox=True).prices} == {"invented", "unknown"}
    assert str(pricing.invented({"max"})) not in (listed(book, variant="pro", sandbox=True).notice or "")


def test_the_commonest_source_is_told_once_and_any_other_with_its_price() -> None:
    schedule = partial(PriceSchedule, action=Action.TEXT_TO_IMAGE, as_of=AS_OF)
    schedules = tuple(
        schedule(model=f"flux-2-{name}-text-to-image", cents={"1k": Decimal(5), "2k": Decimal(7)})
        for name in ("pro", "flex", "max")
    )
    book = PriceBook(schedules=schedules, source="cached", sandbox=True)
    words = catalog_results.pricing_words(listed(book, action=Action.TEXT_TO_IMAGE, sandbox=True))
    assert words.count(AS_OF) == 1
    assert "flux-2-max-text-to-image: 1k $0.05 (invented)\n" in words
    assert f"\nother prices: cached, as of {AS_OF}\n" in words


@rows(
    ("variant", "action", "resolution", "model", "usd"),
    [
        (None, None, None, "flux-2-pro-text-to-image", 0.05),
        (None, Action.REMIX_IMAGE, "2k", "flux-2-pro-remix-image", 0.07),
        ("flex", None, None, "flux-2-flex-text-to-image", 0.14),
        ("flux-2-flex-remix-image", None, "2k", "flux-2-flex-remix-image", 0.24),
        ("flux-2-flex-remix-image", Action.REMIX_IMAGE, None, "flux-2-flex-remix-image", 0.14),
        ("max", None, "2k", "flux-2-max-text-to-image", None),
    ],
)
def test_the_estimate_is_for_the_request_that_these_arguments_would_make(
    variant: str | None, action: Action | None, resolution: str | None, model: str, usd: float | None
) -> None:
    estimate = listed(variant=variant, action=action, resolution=resolution).estimate
    assert estimate is not None
    assert (estimate.model, estimate.usd) == (model, usd)
    assert estimate.output_resolution == (resolution or "1k")


def test_all_prices_come_without_a_filter() -> None:
    assert len(listed().prices) == ALL_PRICES


@pytest.mark.parametrize(
    ("variant", "action"), [("ultra", None), ("flux-2-pro-remix-image", Action.TEXT_TO_IMAGE), ("", Action.REMIX_IMAGE)]
)
def test_a_name_that_means_nothing_is_refused(variant: str, action: Action | None) -> None:
    if not variant:  # nothing was said, so it is the default
        estimate = listed(action=action).estimate
        assert estimate is not None
        assert estimate.model == "flux-2-pro-remix-image"
        return
    found = PriceList(prices=(), book=PriceBook(), balance=None, trouble=None, sandbox=False)
    with pytest.raises(InvalidRequestError):
        catalog_results.price_list(found, variant=variant, action=action, output_resolution=None, count=1)


def test_a_balance_that_could_not_be_read_is_said_and_the_prices_stand() -> None:
    result = listed(trouble="RunAPI is in trouble.", sandbox=True)
    assert result.notice == f"{NO_MONEY} The balance could not be read: RunAPI is in trouble."
    assert result.balance_usd is None
    assert len(result.prices) == ALL_PRICES
    assert catalog_results.pricing_words(result).endswith(f"balance: unknown\n{result.notice}")


# --- variants ---


def test_a_variant_is_told_as_generate_takes_it() -> None:
    (max_,) = catalog_results.variants(action="remix_image", variant="max").variants
    assert max_ == VariantResult(
        model="flux-2-max-remix-image",
        variant="max",
        action="remix_image",
        constraints=[
            ConstraintResult(name="prompt", kind="string", required=True, low=3, high=5000),
            ConstraintResult(name="source_images", kind="array", required=True, low=1, high=1),
            ConstraintResult(name="aspect_ratio", kind="string", required=True, allowed=[*RATIOS]),
            ConstraintResult(name="output_resolution", kind="string", required=False, allowed=["1k"]),
            ConstraintResult(name="callback_url", kind="string", required=False),
        ],
        not_accepted=["enable_safety_checker"],
        from_usd=None,
        commercial_use=COMMERCIAL,
        choose=catalog.models()["flux-2-max-remix-image"].choose,
    )


@rows(
    ("action", "variant", "models"),
    [
        (None, None, ASKED_FOR),
        (
            "text_to_image",
            None,
            [f"flux-2-{variant}-text-to-image" for variant in catalog.variants()],
        ),
        (None, "pro", ["flux-2-pro-text-to-image", "flux-2-pro-remix-image"]),
        (None, "flux-2-pro-remix-image", ["flux-2-pro-remix-image"]),
        ("remix_image", "flex", ["flux-2-flex-remix-image"]),
    ],
)
def test_variants_are_those_that_match(action: str | None, variant: str | None, models: list[str]) -> None:
    assert [each.model for each in catalog_results.variants(action=action, variant=variant).variants] == models


def test_a_variant_that_nobody_knows_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        catalog_results.variants(action=None, variant="ultra")
    assert [problem.field for problem in caught.value.problems] == ["variant"]


def test_starting_prices_are_the_cheapest_published_ones() -> None:
    found = catalog_results.variants(action=None, variant=None).variants
    told = {each.model: each.from_usd for each in found}
    known = {"pro": 0.05, "flex": 0.14, "max": None}
    assert {name: told[name] for name, model in catalog.models().items() if model.variant in known} == {
        f"flux-2-{variant}-{action.replace('_', '-')}": usd for variant, usd in known.items() for action in MAKING
    }
    assert told == {
        name: min((float(cents / 100) for cents in model.published_cents.values()), default=None)
        for name, model in catalog.all_models().items()
        if name in ASKED_FOR
    }


def source_of(model: str) -> catalog.Field:
    fields = catalog.all_models()[model].fields
    if "source_image_urls" in fields:
        return fields["source_image_urls"]
    assert fields["source_image_url"].required
    return catalog.Field("source_image_urls", "array", required=True, low=1, high=1)


def test_every_constraint_that_is_told_is_one_that_the_catalogue_holds_to() -> None:
    for each in catalog_results.variants(action=None, variant=None).variants:
        for constraint in each.constraints:
            if constraint.name in finishing.arguments():
                assert constraint.allowed == finishing.arguments()[constraint.name]
                continue
            held = catalog.all_models()[each.model].fields.get(constraint.name) or source_of(each.model)
            assert (constraint.kind, constraint.required, constraint.low, constraint.high) == (
                *(held.kind, held.required, held.low, held.high),
            )
            assert tuple(constraint.allowed or ()) == held.enum


def test_variants_in_words_say_price_needs_choices_and_what_is_not_taken() -> None:
    words = catalog_results.variants_words(catalog_results.variants(action="text_to_image", variant="max"))
    assert words == (
        f"flux-2-max-text-to-image: price known only live. {catalog.models()['flux-2-max-text-to-image'].choose}\n"
        "  needs prompt, aspect_ratio; aspect_ratio 1:1|4:3|3:4|16:9|9:16|3:2|2:3; output_resolution 1k;"
        " not enable_safety_checker\n"
        f"Commercial use: {COMMERCIAL}."
    )
    words = catalog_results.variants_words(catalog_results.variants(action="remix_image", variant="pro"))
    assert words.startswith("flux-2-pro-remix-image: from $0.05. ")
    assert (
        "  needs prompt, source_images; aspect_ratio 1:1|4:3|3:4|16:9|9:16|3:2|2:3|auto; output_resolution 1k|2k\n"
        in words
    )
