from __future__ import annotations

from typing import Any

import pytest
from mcp.client.client import Client
from mcp_types import TextContent

from flux2_mcp.domain import catalog
from flux2_mcp.domain.models import MAKING

pytestmark = pytest.mark.anyio


async def variants(client: Client, **arguments: object) -> list[dict[str, Any]]:
    result = await client.call_tool("list_variants", arguments)
    assert isinstance(result.structured_content, dict)
    found: list[dict[str, Any]] = result.structured_content["variants"]
    return found


async def test_all_models_are_listed_as_the_catalogue_has_them_pro_first(client: Client) -> None:
    found = [each["model"] for each in await variants(client)]
    asked_for = [each.id for each in catalog.all_models().values() if each.action in MAKING or each.argument]
    assert found == asked_for
    assert found[0] == "flux-2-pro-text-to-image"


async def test_constraints_are_data(client: Client) -> None:
    (top,) = await variants(client, variant="max", action="remix_image")
    assert top["not_accepted"] == ["enable_safety_checker"]
    assert ("from_usd" in top, top["action"]) == (False, "remix_image")
    constraints = {each["name"]: each for each in top["constraints"]}
    assert constraints["source_images"] == {
        "name": "source_images", "kind": "array", "required": True, "low": 1, "high": 1,
    }  # fmt: skip
    assert constraints["output_resolution"]["allowed"] == ["1k"]
    assert constraints["aspect_ratio"]["required"] is True
    assert "auto" not in constraints["aspect_ratio"]["allowed"]


async def test_starting_prices_commercial_use_and_when_to_choose_it_are_told(client: Client) -> None:
    (pro,) = await variants(client, variant="flux-2-pro-text-to-image")
    assert (pro["from_usd"], pro["variant"]) == (0.05, "pro")
    assert pro["commercial_use"] == catalog.document()["commercial_use"]
    assert pro["choose"] == catalog.document()["variants"]["pro"]["choose"]


async def test_an_unknown_variant_is_refused_with_what_there_is(client: Client) -> None:
    result = await client.call_tool("list_variants", {"variant": "ultra"})
    assert result.is_error
    assert isinstance(result.content[0], TextContent)
    assert result.content[0].text.startswith(f'variant: got "ultra"; allowed: {", ".join(catalog.variants())}, ')
