from __future__ import annotations

from typing import Any

import pytest
from mcp.client.client import Client
from msgspec.structs import replace

from flux2_mcp.server.app import build
from flux2_mcp.settings import Settings

pytestmark = pytest.mark.anyio


async def priced(client: Client, **arguments: object) -> dict[str, Any]:
    result = await client.call_tool("check_pricing", arguments)
    assert not result.is_error
    assert isinstance(result.structured_content, dict)
    return result.structured_content


async def test_prices_come_live_from_the_schedule_and_then_from_the_cache(client: Client) -> None:
    first = await priced(client, variant="pro", action="text_to_image")
    again = await priced(client, variant="pro", action="text_to_image")
    assert [(price["output_resolution"], price["usd"], price["source"]) for price in first["prices"]] == [
        ("1k", 0.05, "live"),
        ("2k", 0.07, "live"),
    ]
    assert {price["source"] for price in again["prices"]} == {"cached"}
    assert first["as_of"]


async def test_the_estimate_is_what_generate_would_quote(client: Client) -> None:
    result = await priced(client, variant="flex", output_resolution="2k", count=3)
    assert result["estimate"] == {
        "model": "flux-2-flex-text-to-image",
        "output_resolution": "2k",
        "count": 3,
        "usd": 0.72,
    }


async def test_the_balance_goes_down_with_what_is_charged(client: Client) -> None:
    before = (await priced(client))["balance_usd"]
    await client.call_tool("generate", {"prompt": "a red fox in snow"})
    assert round(before - (await priced(client))["balance_usd"], 2) == 0.05


async def test_without_a_service_the_published_prices_serve_and_max_has_none(
    sandbox_settings: Settings, era: str
) -> None:
    nowhere = replace(sandbox_settings, mode="live", base_url="http://127.0.0.1:9")
    async with Client(build(nowhere), mode=era) as client:
        result = await priced(client)
    by_model = {(price["model"], price["output_resolution"]): price for price in result["prices"]}
    pro = by_model["flux-2-pro-text-to-image", "1k"]
    assert (pro["usd"], pro["source"], result["as_of"]) == (0.05, "published", "2026-11")
    top = by_model["flux-2-max-remix-image", "1k"]
    assert ("usd" in top, top["source"]) == (False, "unknown")
    assert "only RunAPI's live schedule knows it" in top["note"]
    assert "balance_usd" not in result
