"""Makes the SDK's tools from the registry, each at its first use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp_types import ToolAnnotations

from flux2_mcp.server import gallery
from flux2_mcp.server.sdk import LazyTools
from flux2_mcp.server.tools import ToolEntry


class Arguments(FuncMetadata):
    """Reads a tool's arguments like the SDK, which decodes JSON in strings; but string arguments are not decoded.

    The SDK would read the idempotency key "null" as None, and the folder "[1]" as a list.

    Args:
        texts: The arguments that are strings.
    """

    texts: frozenset[str]

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments; JSON is decoded only in those that are no strings."""
        return super().pre_parse_json(data) | {name: data[name] for name in self.texts & data.keys()}


_UNMET = [("minimum", 0), ("minLength", 1), ("maxLength", 500), ("maxLength", 5000)]
"""Bounds that no model meets, so that it need not read them: the server refuses by name what is beyond."""


def lazy_tools(registry: Sequence[ToolEntry]) -> LazyTools:
    """Return the tools, made at their first use: one tool's schemas take 2 to 8 ms, and other requests must not wait.

    Args:
        registry: All tools; none is added or removed later.
    """
    return LazyTools({tool_entry.function.__name__: partial(definition, tool_entry) for tool_entry in registry})


@cache
def definition(tool_entry: ToolEntry) -> Tool:
    """Make a tool, with short schemas, which accepts no other arguments than its own. All servers of a process share it."""
    tool = Tool.from_function(
        tool_entry.function,
        title=tool_entry.title,
        meta=gallery.tool_meta(tool_entry.function.__name__),
        description=_description(tool_entry.function.__doc__ or ""),
        annotations=ToolAnnotations(
            title=tool_entry.title,
            read_only_hint=not tool_entry.spends,
            destructive_hint=False,
            idempotent_hint=not tool_entry.spends,
            open_world_hint=tool_entry.open_world,
        ),
    )
    tool.parameters = _tidy(tool.parameters) | {"additionalProperties": False}
    texts = frozenset(name for name, each in tool.parameters["properties"].items() if each.get("type") == "string")
    read = {name: getattr(tool.fn_metadata, name) for name in FuncMetadata.model_fields}
    tool.fn_metadata = Arguments(**read, texts=texts)
    return tool


def _description(doc: str) -> str:
    return " ".join(doc.split())


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of half the size: without titles, `null` types of optional fields, and `_UNMET`."""
    tidy = {key: _tidied(value) for key, value in schema.items() if key != "title" and (key, value) not in _UNMET}
    options = [option for option in tidy.pop("anyOf", []) if option != {"type": "null"}]
    if len(options) == 1:
        tidy = options[0] | tidy
    elif options:
        tidy["anyOf"] = options
    if "default" in tidy and (tidy["default"] is None or tidy["default"] is False):
        del tidy["default"]
    return tidy


def _tidied(value: Any) -> Any:  # noqa: ANN401  # any JSON value
    if isinstance(value, dict):
        # A property may have the name "title"; only the titles of schemas are removed.
        return {
            k: _tidy(v) if isinstance(v, dict) else v for k, v in value.items() if k != "title" or isinstance(v, dict)
        }
    if isinstance(value, list):
        return [_tidy(item) if isinstance(item, dict) else item for item in value]
    return value
