"""The tool that tells prices."""

from __future__ import annotations

from typing import Annotated, Literal

from mcp_types import CallToolResult
from pydantic import Field

from flux2_mcp import views
from flux2_mcp.models import Action
from flux2_mcp.service import MOST_TOGETHER
from flux2_mcp.tools import call as calls
from flux2_mcp.tools.call import Call
from flux2_mcp.views import PricingResult


async def check_pricing(
    call: Call,
    variant: Annotated[str | None, Field(description="variant or model id")] = None,
    action: Literal["text_to_image", "remix_image"] | None = None,
    output_resolution: Literal["1k", "2k"] | None = None,
    count: Annotated[int, Field(ge=1, le=MOST_TOGETHER)] = 1,
) -> Annotated[CallToolResult, PricingResult]:
    """Prices in USD an image with their source, an estimate for the request, and the balance. Free."""
    found = await calls.service(call).prices.listed(
        variant=variant, action=action and Action(action), output_resolution=output_resolution
    )
    result = views.price_list(found, variant=variant, action=action, output_resolution=output_resolution, count=count)
    return calls.answer(result, views.pricing_words(result))
