"""The registry's tools as the SDK serves them, each made when it is first wanted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp_types import ToolAnnotations

from flux2_mcp.server import gallery
from flux2_mcp.server.sdk import LazyTools
from flux2_mcp.server.tools import ToolEntry


class Arguments(FuncMetadata):
    """Reads a tool's arguments as the SDK does, which takes JSON in a string for what it spells; but a string stays one.

    The SDK would read an idempotency key "null" as none, and a folder "[1]" as a list.

    Args:
        texts: The arguments that are strings.
    """

    texts: frozenset[str]

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        """The arguments, those that are no strings read from JSON."""
        return super().pre_parse_json(data) | {name: data[name] for name in self.texts & data.keys()}


def lazy_tools(registry: Sequence[ToolEntry]) -> LazyTools:
    """The tools: the schemas of one take 2 to 8 ms, for which no `initialize` and no other tool waits.

    Args:
        registry: All that there are: none is added later, none removed.
    """
    return LazyTools({tool_entry.function.__name__: partial(definition, tool_entry) for tool_entry in registry})


def definition(tool_entry: ToolEntry) -> Tool:
    """A tool as it is served: its schemas in half the bytes, and nothing taken beside its arguments."""
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
    """A schema that says the same in half the bytes: no titles, and "optional" said once, by not being required."""
    tidy = {key: _tidied(value) for key, value in schema.items() if key != "title"}
    options = [option for option in tidy.pop("anyOf", []) if option != {"type": "null"}]
    if len(options) == 1:
        tidy = options[0] | tidy
    elif options:
        tidy["anyOf"] = options
    if tidy.get("default", ...) is None:
        del tidy["default"]
    return tidy


def _tidied(value: Any) -> Any:  # noqa: ANN401  # any JSON value
    if isinstance(value, dict):
        # A property may itself be called "title"; only schemas lose theirs.
        return {
            k: _tidy(v) if isinstance(v, dict) else v for k, v in value.items() if k != "title" or isinstance(v, dict)
        }
    if isinstance(value, list):
        return [_tidy(item) if isinstance(item, dict) else item for item in value]
    return value
