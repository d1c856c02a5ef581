"""Changes to requests and answers that the SDK's handlers can't make: blank arguments, pages, limits of a client."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Final

from mcp.server.caching import CacheableMethod
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver.tools import ToolManager
from mcp.shared.exceptions import MCPError
from mcp_types import RequestId

from flux2_mcp.errors import Flux2Error
from flux2_mcp.server import boundary, clients, resources
from flux2_mcp.server.docs import index
from flux2_mcp.server.session import ServerSession
from flux2_mcp.server.tools.context import usable_roots

HOUR_MS = 3_600_000
ONE_PAGE: Final[tuple[CacheableMethod, ...]] = ("tools/list", "prompts/list", "resources/templates/list")
"""Lists that never change: they have one page, and a client may cache them for an hour."""


class Shaping:
    """Middleware for every message.

    Args:
        tools: The tools, for the schemas of their arguments.
    """

    def __init__(self, tools: ToolManager) -> None:
        self._tools = tools
        self.answered: AbstractSet[RequestId] = frozenset()
        """The ids of `tools/list` requests that `early` has answered. The server's answer is dropped, so it is empty:
        no tools are made for it, and the next call does not wait."""

    async def __call__(self, ctx: ServerRequestContext[ServerSession, Any], call_next: CallNext) -> HandlerResult:
        """Handle one message.

        Blank arguments are removed before the SDK validates them. Lists get pages, and documents a time to cache them.
        Clients that output schemas mislead get tools without them. A list in `answered` stays empty.
        """
        if ctx.method == "tools/list" and ctx.request_id in self.answered:
            self.answered = self.answered - {ctx.request_id}  # the host has its answer, and may use the id again
            return {"tools": []}
        try:
            result = await call_next(replace(ctx, params=self._shaped(ctx.method, ctx.params)))
        except MCPError as exc:
            raise boundary.brief(exc) from exc
        if not isinstance(result, dict):  # a notification
            return result
        params = ctx.params or {}
        cursor = params.get("cursor")
        if ctx.method in ONE_PAGE and cursor is not None:
            raise boundary.to_protocol(resources.unknown_cursor())
        if ctx.method == "resources/list":
            try:
                session = ctx.lifespan_context
                page = await resources.listed(session.service if session.usable else None, cursor)
            except Flux2Error as exc:
                raise boundary.to_protocol(exc) from exc
            # The other members of the answer belong to the protocol era and stay.
            return result | page.model_dump(
                mode="json", by_alias=True, exclude_none=True, include={"resources", "next_cursor"}
            )
        if ctx.method == "resources/read" and "ttlMs" in result and params.get("uri") in index.documents():
            return result | {"ttlMs": HOUR_MS, "cacheScope": "public"}
        if ctx.method == "tools/list":
            client = ctx.session.client_params
            if client is not None and not clients.client(client.client_info.name).structured:
                tools = [
                    {key: value for key, value in tool.items() if key != "outputSchema"} for tool in result["tools"]
                ]
                return result | {"tools": tools}
        return result

    def _shaped(self, method: str, params: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Return the parameters of a request without blank arguments and without unusable roots."""
        if method == "completion/complete" and params and isinstance(context := params.get("context"), dict):
            return {**params, "context": self._shaped("prompts/get", context)}
        if params and isinstance(answers := params.get("inputResponses"), dict):
            usable = {key: usable_roots(each) if isinstance(each, dict) else each for key, each in answers.items()}
            params = {**params, "inputResponses": usable}
        if not params or not isinstance(arguments := params.get("arguments"), dict):
            return params
        if method == "prompts/get":
            return {**params, "arguments": boundary.filled(arguments)}
        if method == "tools/call" and (tool := self._tools.get_tool(str(params.get("name")))) is not None:
            return {**params, "arguments": boundary.said(arguments, tool.parameters)}
        return params
