"""Builds the MCP server: the four tools over one service, in both eras of the protocol. Imported when serving starts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, Self

from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp.server.mcpserver.tools import Tool, ToolManager
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_PARAMS,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    GetPromptResult,
    InputRequiredResult,
    Prompt,
    RequestId,
    ResourceTemplate,
    ToolAnnotations,
)
from pydantic import AnyUrl, ValidationError

from flux2_mcp import __version__
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import Flux2Error, SettingsError, shortened
from flux2_mcp.server import boundary, clients, completion, gallery, prompts, resources, telemetry
from flux2_mcp.server.docs import index
from flux2_mcp.server.instructions import INSTRUCTIONS
from flux2_mcp.server.session import ServerSession
from flux2_mcp.server.tasks_extension import TasksExtension
from flux2_mcp.server.tools import REGISTRY, ToolEntry, login_gate
from flux2_mcp.server.tools import shared as calls
from flux2_mcp.settings import Settings

NAME = "flux-2"
HOUR_MS = 3_600_000
SPENDING: Final = frozenset(entry.function.__name__ for entry in REGISTRY if entry.spends)
ONE_PAGE: Final[tuple[CacheableMethod, ...]] = ("tools/list", "prompts/list", "resources/templates/list")
"""Lists that are always the same: one page, and fresh for long."""


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


class ToolList(ToolManager):
    """Makes each tool when it is first wanted: its schemas take 2 to 8 ms, for which no `initialize` and no other tool waits.

    Args:
        registry: All that there are: none is added later, none removed.
    """

    def __init__(self, registry: Sequence[ToolEntry]) -> None:
        super().__init__()
        self._registry = {entry.function.__name__: entry for entry in registry}

    def get_tool(self, name: str) -> Tool | None:
        """The tool of this name; None where there is none."""
        if name not in self._tools and name in self._registry:
            self._tools[name] = _tool(self._registry[name])
        return self._tools.get(name)

    def list_tools(self) -> list[Tool]:
        """All of them, in the registry's order."""
        return [tool for name in self._registry if (tool := self.get_tool(name))]


class Flux2Server(MCPServer[ServerSession]):
    """`MCPServer` with one boundary: unknown tools and arguments are refused, errors of ours become results."""

    listed: AbstractSet[RequestId] = frozenset()
    """Requests of `tools/list` that were answered before (`early`): the answer, dropped anyway, keeps no call behind it waiting."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[ServerSession, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool. What it raises comes back as a result that says what to do next.

        Raises:
            MCPError: There is no such tool.
        """
        tool = self._tool_manager.get_tool(name)
        if tool is None:
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown tool: {shortened(name)}")
        if (refused := boundary.unknown_arguments(arguments, tool.parameters)) is not None:
            return boundary.to_result(refused)
        try:
            if name in SPENDING and context is not None and (asked := await login_gate.asked(context)) is not None:
                return asked
            result = await super().call_tool(name, arguments, context)
            if isinstance(result, CallToolResult) and context is not None:
                result = calls.fitted(context, result)
        except ToolError as exc:
            cause = exc.__cause__ or exc
            if isinstance(cause, ValidationError):
                cause = boundary.from_validation(cause)
            return boundary.to_result(cause)
        return result

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[ServerSession, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        """Read a resource of ours: a document, or from the journal or from disk.

        Raises:
            ResourceNotFoundError: Nothing stands behind the URI.
            MCPError: It can't be read; the text says why.
        """
        if context is None:
            return await super().read_resource(uri, context)
        try:
            content = await resources.read(calls.services(context), str(uri))
            return await super().read_resource(uri, context) if content is None else [content]
        except Flux2Error as exc:
            raise boundary.to_protocol(exc) from exc
        except ResourceNotFoundError as exc:
            raise ResourceNotFoundError(
                "No such resource; resources/list and its templates name what there is."
            ) from exc

    async def run_over(
        self,
        received: MemoryObjectReceiveStream[SessionMessage | Exception],
        sent: MemoryObjectSendStream[SessionMessage],
    ) -> None:
        """Serve one host over two streams of messages, to the end of what comes in; `MCPServer` knows only its own."""
        await self._lowlevel_server.run(received, sent, self._lowlevel_server.create_initialization_options())

    async def shaped(self, ctx: ServerRequestContext[ServerSession, Any], call_next: CallNext) -> HandlerResult:
        """Middleware, for what the SDK's handlers can't do.

        Arguments that say nothing are left out, before the SDK validates any. Lists: pages, documents that stay fresh,
        tools without output schemas for who is misled, and nothing for who has them (`listed`).
        """
        if ctx.method == "tools/list" and ctx.request_id in self.listed:
            self.listed = self.listed - {ctx.request_id}  # the host has its answer, and may use the id again
            return {"tools": []}
        try:
            result = await call_next(replace(ctx, params=self._said(ctx.method, ctx.params)))
        except MCPError as exc:
            raise boundary.brief(exc) from exc
        if not isinstance(result, dict):  # a notification
            return result
        asked = ctx.params or {}
        cursor = asked.get("cursor")
        if ctx.method in ONE_PAGE and cursor is not None:
            raise boundary.to_protocol(resources.unknown_cursor())
        if ctx.method == "resources/list":
            try:
                services = ctx.lifespan_context
                page = await resources.listed(services.service if services.usable else None, cursor)
            except Flux2Error as exc:
                raise boundary.to_protocol(exc) from exc
            # The rest of the answer is the era's envelope, and stays.
            return result | page.model_dump(
                mode="json", by_alias=True, exclude_none=True, include={"resources", "next_cursor"}
            )
        if ctx.method == "resources/read" and "ttlMs" in result and asked.get("uri") in index.documents():
            return result | {"ttlMs": HOUR_MS, "cacheScope": "public"}
        if ctx.method == "tools/list":
            params = ctx.session.client_params
            if params is not None and not clients.client(params.client_info.name).structured:
                tools = [
                    {key: value for key, value in tool.items() if key != "outputSchema"} for tool in result["tools"]
                ]
                return result | {"tools": tools}
        return result

    def _said(self, method: str, params: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """A request's parameters, without the arguments that its caller left out in its own way, and the roots of no use."""
        if method == "completion/complete" and params and isinstance(context := params.get("context"), dict):
            return {**params, "context": self._said("prompts/get", context)}
        if params and isinstance(answers := params.get("inputResponses"), dict):
            usable = {key: calls.usable_roots(one) if isinstance(one, dict) else one for key, one in answers.items()}
            params = {**params, "inputResponses": usable}
        if not params or not isinstance(arguments := params.get("arguments"), dict):
            return params
        if method == "prompts/get":
            return {**params, "arguments": boundary.filled(arguments)}
        if method == "tools/call" and (tool := self._tool_manager.get_tool(str(params.get("name")))) is not None:
            return {**params, "arguments": boundary.said(arguments, tool.parameters)}
        return params

    async def list_resource_templates(self) -> list[ResourceTemplate]:
        """The templates of ours."""
        return list(resources.TEMPLATES)

    async def list_prompts(self) -> list[Prompt]:
        """The prompts of ours."""
        return [prompt for prompt, _ in prompts.PROMPTS.values()]

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[ServerSession, Any] | None = None
    ) -> GetPromptResult:
        """Fill in a prompt.

        Raises:
            MCPError: There is no such prompt, or its arguments are wrong.
        """
        del context
        try:
            return prompts.get(name, arguments or {})
        except Flux2Error as exc:
            raise boundary.to_protocol(exc) from exc

    def offering(self, registry: Sequence[ToolEntry]) -> Self:
        """Serve these tools, and shape the lists."""
        self._tool_manager = ToolList(registry)
        self.middleware.append(self.shaped)
        return self

    def completing(self) -> Self:
        """Serve completion/complete. Not by the SDK's decorator, which keeps the service, and with it the tasks, from us."""

        async def complete(ctx: ServerRequestContext[ServerSession], params: CompleteRequestParams) -> CompleteResult:
            argument, given = params.argument, (params.context and params.context.arguments) or {}
            try:
                found = await completion.complete(
                    ctx.lifespan_context, params.ref, argument.name, argument.value, given
                )
            except Flux2Error as exc:
                raise boundary.to_protocol(exc) from exc
            return CompleteResult(completion=found)

        self._lowlevel_server.add_request_handler("completion/complete", CompleteRequestParams, complete)
        return self


def build(settings: Settings | SettingsError, *, seam: Callable[[Seam], Seam] | None = None) -> Flux2Server:
    """The server. Nothing is opened until its lifespan is entered, and nothing heavy until a tool is called.

    Args:
        settings: Or why there are none: then every answer that needs a service says so.
        seam: Puts other things in the usual seam of its service; see `Service.opened`.
    """

    @asynccontextmanager
    async def lifespan(_: MCPServer[ServerSession]) -> AsyncIterator[ServerSession]:
        if isinstance(settings, SettingsError):
            yield ServerSession(settings)
            return
        with telemetry.exporting(wanted=settings.telemetry):
            async with Service.opened(settings, seam=seam) as service:
                yield ServerSession(service, seam)

    return (
        Flux2Server(
            NAME,
            title="FLUX.2 images",
            version=__version__,
            instructions=INSTRUCTIONS,
            lifespan=lifespan,
            cache_hints={method: CacheHint(ttl_ms=HOUR_MS, scope="public") for method in ONE_PAGE},
            subscriptions=False,
            extensions=[gallery.extension(), TasksExtension()],
            log_level="WARNING",
        )
        .offering(REGISTRY)
        .completing()
    )


def _tool(entry: ToolEntry) -> Tool:
    tool = Tool.from_function(
        entry.function,
        title=entry.title,
        meta=gallery.tool_meta(entry.function.__name__),
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
