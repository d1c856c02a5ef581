"""Builds the MCP server: the four tools over one service, in both eras of the protocol. Imported when serving starts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mcp.server.caching import CacheHint
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, InputRequiredResult, ToolAnnotations
from pydantic import ValidationError

from flux2_mcp import __version__, boundary
from flux2_mcp.context.instructions import INSTRUCTIONS
from flux2_mcp.service import Service
from flux2_mcp.settings import Settings
from flux2_mcp.tools import REGISTRY, Entry

NAME = "flux-2"
HOUR_MS = 3_600_000


class Flux2Server(MCPServer[Service]):
    """`MCPServer` with one boundary: unknown tools and arguments are refused, errors of ours become results."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Service, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool. What it raises comes back as a result that says what to do next.

        Raises:
            MCPError: There is no such tool.
        """
        tool = self._tool_manager.get_tool(name)
        if tool is None:
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown tool: {name[:64]}")
        if (refused := boundary.unknown_arguments(arguments, tool.parameters)) is not None:
            return boundary.to_result(refused)
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as exc:
            cause = exc.__cause__ or exc
            if isinstance(cause, ValidationError):
                cause = boundary.from_validation(cause)
            return boundary.to_result(cause)


def build(settings: Settings) -> Flux2Server:
    """The server. Nothing is opened until its lifespan is entered, and nothing heavy until a tool is called."""

    @asynccontextmanager
    async def lifespan(_: MCPServer[Service]) -> AsyncIterator[Service]:
        async with Service.opened(settings) as service:
            yield service

    return Flux2Server(
        NAME,
        title="FLUX.2 images",
        version=__version__,
        instructions=INSTRUCTIONS,
        tools=[_tool(entry) for entry in REGISTRY],
        lifespan=lifespan,
        cache_hints={"tools/list": CacheHint(ttl_ms=HOUR_MS, scope="public")},
        subscriptions=False,
        log_level="WARNING",
    )


def _tool(entry: Entry) -> Tool:
    tool = Tool.from_function(
        entry.function,
        title=entry.title,
        description=_description(entry.function.__doc__ or ""),
        annotations=ToolAnnotations(
            title=entry.title,
            read_only_hint=not entry.spends,
            destructive_hint=False,
            idempotent_hint=not entry.spends,
            open_world_hint=entry.open_world,
        ),
    )
    tool.parameters = _tidy(tool.parameters) | {"additionalProperties": False}
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


def _tidied(value: Any) -> Any:  # noqa: ANN401  # JSON
    if isinstance(value, dict):
        # A property may itself be called "title"; only schemas lose theirs.
        return {
            k: _tidy(v) if isinstance(v, dict) else v for k, v in value.items() if k != "title" or isinstance(v, dict)
        }
    if isinstance(value, list):
        return [_tidy(item) if isinstance(item, dict) else item for item in value]
    return value
