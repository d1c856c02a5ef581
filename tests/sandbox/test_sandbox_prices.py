"""Prices, quotes and the account, over HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from flux2_mcp.domain import catalog
from flux2_mcp.sandbox.tasks import UNPRICED_CENTS
from tests.support.rows import rows
from tests.support.sandboxed import Api, outcome, running, wrong_fields


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("home")) as api:
        yield api


def test_the_schedule_needs_no_key_and_knows_every_model(api: Api) -> None:
    answer = api.anyone.get("/api/v1/price_schedules", params={"service": "flux-2"})
    rows = {row["model"]: row for row in answer.json()["price_schedules"]}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answer.json()["as_of"])
    assert rows["flux-2-flex-remix-image"] == {
        "service": "flux-2",
        "action": "remix_image",
        "model": "flux-2-flex-remix-image",
        "pricing_status": "priced",
        "catalog_status": "active",
        "currency": "USD",
        "billing_unit": "image",
        "billing_strategy": "per_unit",
        "unit_price_cents": 14,
        "billing_config": {"key": "output_resolution", "overrides": {"1k": 14, "2k": 24}},
    }
    assert set(rows) == set(catalog.models())
    largest = rows["flux-2-max-text-to-image"]
    assert (largest["unit_price_cents"], largest["billing_config"]) == (UNPRICED_CENTS, None)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"action": "remix_image"}, len(catalog.variants())),
        ({"model": "flux-2-pro-text-to-image"}, 1),
        ({"service": "other"}, 0),
    ],
)
def test_the_schedule_is_filtered(api: Api, query: dict[str, str], count: int) -> None:
    assert len(api.http.get("/api/v1/price_schedules", params=query).json()["price_schedules"]) == count


def test_an_unchanged_schedule_is_not_sent_again(api: Api) -> None:
    path = "/api/v1/price_schedules"
    tag = api.http.get(path).headers["ETag"]
    for known in (tag, f'"x", {tag}', "*", tag.removeprefix("W/")):
        again = api.http.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    assert api.http.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    assert api.http.get(path, params={"action": "remix_image"}, headers={"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize(("params", "cents"), [({}, 14), ({"output_resolution": "2k"}, 24), (None, 14)])
def test_a_quote_says_what_a_task_would_reserve(api: Api, params: object, cents: int) -> None:
    body = {"service": "flux-2", "action": "text_to_image", "model": "flux-2-flex-text-to-image", "params": params}
    quote = api.http.post("/api/v1/price_quotes", json=body).json()["price_quote"]
    assert quote == {
        "service": "flux-2",
        "action": "text_to_image",
        "model": "flux-2-flex-text-to-image",
        "pricing_status": "priced",
        "currency": "USD",
        "reservation_amount_cents": cents,
        "estimate_basis": "exact",
        "as_of": quote["as_of"],
    }


@rows(
    ("change", "wrong"),
    [
        ({"service": "flux-1"}, "service"),
        ({"model": "flux-2-pro-remix-image"}, "model"),
        ({"params": []}, None),
        ({"params": [1]}, "params"),
        ({"params": {"output_resolution": "4k"}}, "params.output_resolution"),
        ({"params": {"source_image_urls": ["https://example.com/a.png"]}}, "params.source_image_urls"),
        ({"quantity": 2}, "quantity"),
    ],
)
def test_a_wrong_quote_names_the_field(api: Api, change: dict[str, object], wrong: str | None) -> None:
    body = {"service": "flux-2", "action": "text_to_image", "model": "flux-2-pro-text-to-image"} | change
    answer = api.http.post("/api/v1/price_quotes", json=body)
    if wrong is None:
        assert answer.status_code == 200
    else:
        assert wrong_fields(answer) == [wrong]


def test_the_account_is_nobodys(api: Api) -> None:
    account = {"id": 1, "name": "Sandbox"}
    expected = {"id": 1, "name": "Sandbox", "email": "sandbox@example.invalid", "account": account}
    assert outcome(api.http.get("/api/v1/me")) == (200, expected)


def test_the_balance_goes_down_by_what_completes_and_not_by_what_fails(api: Api) -> None:
    def balance() -> dict[str, int]:
        return api.http.get("/api/v1/me/balance").json()  # type: ignore[no-any-return]  # JSON

    before = balance()
    api.ended(api.create("[sandbox:instant] a cat", output_resolution="2k"))
    api.ended(api.create("[sandbox:instant][sandbox:moderation] a cat"))
    after = balance()
    assert {name: after[name] - before[name] for name in after} == {
        "balance_cents": -7,
        "paid_balance_cents": -7,
        "bonus_balance_cents": 0,
        "spent_cents_today": 7,
        "spent_cents_total": 7,
    }
    assert after["balance_cents"] + after["spent_cents_total"] == 10_000
