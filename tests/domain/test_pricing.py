from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from flux2_mcp.domain import catalog, pricing
from flux2_mcp.domain.models import Action, PriceSchedule, PriceSource
from flux2_mcp.domain.pricing import PriceBook, UnitPrice
from flux2_mcp.errors import InvalidRequestError
from tests.support.rows import rows

TEXT, REMIX = Action.TEXT_TO_IMAGE, Action.REMIX_IMAGE
AS_OF = "2026-11-20T10:00:00Z"
KNOWN = ("pro", "flex", "max")
RESOLUTIONS = {name: catalog.find(name, REMIX).resolutions for name in catalog.variants()}
PRO, MAX = catalog.models()["flux-2-pro-text-to-image"], catalog.models()["flux-2-max-text-to-image"]


def schedule(model_id: str, action: Action = TEXT, **cents: str | None) -> PriceSchedule:
    priced = {name.removeprefix("r"): None if text is None else Decimal(text) for name, text in cents.items()}
    return PriceSchedule(model=model_id, action=action, cents=priced, as_of=AS_OF)


def test_without_a_schedule_the_published_number_is_the_price() -> None:
    assert pricing.price(PriceBook(), PRO, "2k") == UnitPrice(
        model=PRO, output_resolution="2k", usd=Decimal("0.07"), source="published", as_of="2026-11"
    )


def test_what_nobody_prices_has_no_price() -> None:
    nothing = UnitPrice(model=MAX, output_resolution="1k", usd=None, source="unknown", as_of=None)
    assert pricing.price(PriceBook(), MAX, "1k") == nothing
    book = PriceBook((schedule(MAX.id, r1k=None),), "live")
    assert pricing.price(book, MAX, "1k") == nothing


@pytest.mark.parametrize("source", ["live", "cached"])
def test_a_schedule_goes_before_the_published_number(source: PriceSource) -> None:
    book = PriceBook((schedule("flux-2-flex-text-to-image", r1k="1"), schedule(PRO.id, r1k="4.5", r2k="0")), source)
    assert pricing.price(book, PRO, "1k") == UnitPrice(
        model=PRO, output_resolution="1k", usd=Decimal("0.045"), source=source, as_of=AS_OF
    )
    assert pricing.price(book, PRO, "2k").usd == Decimal(0)


def test_a_live_schedule_is_the_only_one_who_knows_max() -> None:
    book = PriceBook((schedule(MAX.id, r1k="25"),), "live")
    assert pricing.price(book, MAX, "1k") == UnitPrice(
        model=MAX, output_resolution="1k", usd=Decimal("0.25"), source="live", as_of=AS_OF
    )


def test_no_amount_of_nothing_guards_money() -> None:
    assert pricing.dearest(PriceBook((schedule(PRO.id, r1k="0"),), "live"), PRO, "1k") == Decimal("0.05")
    nothing = PriceBook((schedule(MAX.id, r1k="0"),), "live", {(MAX.id, "1k"): Decimal(0)})
    assert pricing.dearest(nothing, MAX, "1k") is None


def test_a_resolution_that_the_schedule_leaves_out_keeps_its_published_number() -> None:
    book = PriceBook((schedule(PRO.id, r1k="4"),), "live")
    assert pricing.price(book, PRO, "2k").source == "published"


def test_a_schedule_that_does_not_tell_which_amount_applies_is_asked_last() -> None:
    """What it names at all may be what is charged, so that it guards money; every other source says it more exactly."""
    book = PriceBook((replace(schedule(MAX.id), dearest_cents=Decimal(30)),), "live")
    assert pricing.price(book, MAX, "1k") == UnitPrice(
        model=MAX, output_resolution="1k", usd=Decimal("0.30"), source="live", as_of=AS_OF
    )
    charged = replace(book, charged={(MAX.id, "1k"): Decimal("0.20")})
    assert pricing.price(charged, MAX, "1k").usd == Decimal("0.20")
    assert pricing.dearest(charged, MAX, "1k") == Decimal("0.30")


def test_a_schedule_of_another_model_or_action_says_nothing() -> None:
    book = PriceBook((schedule("flux-2-max-remix-image", REMIX, r1k="1"), schedule(MAX.id, REMIX, r1k="2")), "live")
    assert pricing.price(book, MAX, "1k").usd is None


def test_a_request_is_priced_at_its_resolution_and_at_1k_when_it_names_none() -> None:
    for resolution, usd in ((None, "0.14"), ("1k", "0.14"), ("2k", "0.24")):
        request = catalog.request(prompt="a cat", variant="flex", output_resolution=resolution)
        assert pricing.price_of(PriceBook(), request).usd == Decimal(usd)


@rows(
    ("variant", "action", "resolution", "expected"),
    [
        ("pro", TEXT, None, [("flux-2-pro-text-to-image", "1k"), ("flux-2-pro-text-to-image", "2k")]),
        ("flux-2-pro-text-to-image", None, "2k", [("flux-2-pro-text-to-image", "2k")]),
        ("flux-2-pro-text-to-image", REMIX, None, []),
        ("max", None, None, [("flux-2-max-text-to-image", "1k"), ("flux-2-max-remix-image", "1k")]),
        ("max", None, "2k", []),
        (
            None,
            REMIX,
            "2k",
            [(f"flux-2-{name}-remix-image", "2k") for name in catalog.variants() if "2k" in RESOLUTIONS[name]],
        ),
    ],
)
def test_prices_are_those_that_match(
    variant: str | None, action: Action | None, resolution: str | None, expected: list[tuple[str, str]]
) -> None:
    found = pricing.prices(PriceBook(), variant=variant, action=action, output_resolution=resolution)
    assert [(price.model.id, price.output_resolution) for price in found] == expected


def test_all_prices_are_one_for_each_model_and_resolution_it_makes() -> None:
    found = pricing.prices(PriceBook(), variant=None, action=None, output_resolution=None)
    assert [(price.model.id, price.output_resolution) for price in found] == [
        (model.id, resolution) for model in catalog.models().values() for resolution in model.resolutions
    ]
    cents = {(price.model.id, price.output_resolution): price.usd and int(price.usd * 100) for price in found}
    for action in ("text-to-image", "remix-image"):
        known = [(f"flux-2-{name}-{action}", resolution) for name in KNOWN for resolution in RESOLUTIONS[name]]
        assert [cents[each] for each in known] == [5, 7, 14, 24, None]


def test_a_variant_that_nobody_knows_has_no_prices_but_an_error() -> None:
    with pytest.raises(InvalidRequestError):
        pricing.prices(PriceBook(), variant="ultra", action=None, output_resolution=None)
