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
from flux2_mcp.server.tools.context import Roots, ToolContext, project_of, service_of


async def check_pricing(
    context: ToolContext,
    roots: Roots,
    variant: Annotated[str | None, Field(description="variant or model id")] = None,
    action: Literal["text_to_image", "remix_image"] | None = None,
    output_resolution: Literal["1k", "2k"] | None = None,
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 1,
    manifest: Annotated[str | None, Field(description="flux2.toml: its plan and price")] = None,
) -> Annotated[CallToolResult, PricingResult]:
    """USD an image and where each price is from, an estimate for the request, the balance. Free."""
    service = service_of(context)
    if manifest is not None:
        given = {"variant": variant, "action": action, "output_resolution": output_resolution}
        project = project_of(context, roots, manifest, [name for name, value in given.items() if value is not None])
        quote = await service.manifests.quote(project, balance=True)
        result = catalog_results.planned(quote)
        return answers.both_forms(result, catalog_results.pricing_words(result))
    found = await service.prices.listed(
        variant=variant, action=action and Action(action), output_resolution=output_resolution
    )
    result = catalog_results.price_list(
        found, variant=variant, action=action, output_resolution=output_resolution, count=count
    )
    return answers.both_forms(result, catalog_results.pricing_words(result))
