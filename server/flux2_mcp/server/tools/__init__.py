"""The four tools. To add one, write its file, its line in REGISTRY, its test and its snapshot (see CONTRIBUTING)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from flux2_mcp.server.tools.check_pricing import check_pricing
from flux2_mcp.server.tools.check_task import check_task
from flux2_mcp.server.tools.generate import generate
from flux2_mcp.server.tools.list_variants import list_variants


class ToolEntry(Struct, frozen=True):
    """One tool. `spends` is True if a call may cost money; `title` is for people."""

    function: Callable[..., Any]
    title: str
    spends: bool = False
    open_world: bool = True


REGISTRY = (
    ToolEntry(generate, "Generate or remix images", spends=True),
    ToolEntry(check_task, "Check image tasks"),
    ToolEntry(check_pricing, "Check prices"),
    ToolEntry(list_variants, "List variants", open_world=False),
)
