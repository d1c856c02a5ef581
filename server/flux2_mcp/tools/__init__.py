"""The four tools. To add one: write its file, add its line to REGISTRY, its test and its snapshot (see CONTRIBUTING)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flux2_mcp.tools.check_pricing import check_pricing
from flux2_mcp.tools.check_task import check_task
from flux2_mcp.tools.generate import generate
from flux2_mcp.tools.list_variants import list_variants


@dataclass(frozen=True, slots=True)
class Entry:
    """One tool. `spends` is True where a call may cost money; `title` is for people."""

    function: Callable[..., Any]
    title: str
    spends: bool = False
    open_world: bool = True


REGISTRY = (
    Entry(generate, "Generate or remix images", spends=True),
    Entry(check_task, "Check image tasks"),
    Entry(check_pricing, "Check prices"),
    Entry(list_variants, "List variants", open_world=False),
)
