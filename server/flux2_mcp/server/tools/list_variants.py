"""The tool that lists the variants."""

from __future__ import annotations

from typing import Annotated, Literal

from mcp_types import CallToolResult
from pydantic import Field

from flux2_mcp.server.results import catalog as catalog_results
from flux2_mcp.server.results.catalog import VariantsResult
from flux2_mcp.server.tools import answers


async def list_variants(
    action: Literal["text_to_image", "remix_image"] | None = None,
    variant: Annotated[str | None, Field(description="variant or model id")] = None,
) -> Annotated[CallToolResult, VariantsResult]:
    """Model ids, their constraints, starting prices and when to choose which. Free."""
    result = catalog_results.variants(action=action, variant=variant)
    return answers.both_forms(result, catalog_results.variants_words(result))
