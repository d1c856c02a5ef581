"""The tool that reports prices."""

from __future__ import annotations

from typing import Annotated, Literal

from mcp_types import CallToolResult
from pydantic import Field

from flux2_mcp.domain.models import Action
from flux2_mcp.engine.service import MAX_COUNT
from flux2_mcp.server.results import catalog as catalog_results
from flux2_mcp.server.results.catalog import PricingResult
from flux2_mcp.server.tools import answers
from flux2_mcp.server.tools.context import ToolContext, service_of


async def check_pricing(
    context: ToolContext,
    variant: Annotated[str | None, Field(description="variant or model id")] = None,
    action: Literal["text_to_image", "remix_image"] | None = None,
    output_resolution: Literal["1k", "2k"] | None = None,
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 1,
) -> Annotated[CallToolResult, PricingResult]:
    """USD an image and where each price is from, an estimate for the request, the balance. Free."""
    found = await service_of(context).prices.listed(
        variant=variant, action=action and Action(action), output_resolution=output_resolution
    )
    result = catalog_results.price_list(
        found, variant=variant, action=action, output_resolution=output_resolution, count=count
    )
    return answers.both_forms(result, catalog_results.pricing_words(result))
