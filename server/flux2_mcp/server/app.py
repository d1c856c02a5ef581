"""Builds the MCP server: four tools over one service, in both eras of the protocol. Imported only to serve."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio.lowlevel
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp.server.mcpserver.tools import ToolManager
from mcp.server.request_state import RequestStateSecurity
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    GetPromptResult,
    InputRequiredResult,
    Prompt,
    ResourceTemplate,
    Tool,
)
from pydantic import AnyUrl, ValidationError

from flux2_mcp import __version__
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import Flux2Error, SettingsError, shortened
from flux2_mcp.server import boundary, completion, gallery, prompts, resources, sdk, sealed, telemetry
from flux2_mcp.server.instructions import INSTRUCTIONS
from flux2_mcp.server.session import ServerSession
from flux2_mcp.server.shaping import HOUR_MS, ONE_PAGE, Shaping
from flux2_mcp.server.tasks_extension import TasksExtension
from flux2_mcp.server.tools import REGISTRY, answers, login_gate
from flux2_mcp.server.tools.context import session_of
from flux2_mcp.server.tools.definitions import lazy_tools
from flux2_mcp.settings import Settings

if TYPE_CHECKING:  # a server for one person knows no people
    from flux2_mcp.domain.people import Caller
    from flux2_mcp.server.results.tasks import Link
    from flux2_mcp.server.team.texts import TeamTexts

NAME = "flux-2"
SPENDING: Final = frozenset(tool.function.__name__ for tool in REGISTRY if tool.spends)


class Flux2Server(MCPServer[ServerSession]):
    """`MCPServer` with one boundary: it refuses unknown tools and arguments, and turns our errors into results.

    Args:
        tools: All tools of the server.
        texts: What is said otherwise to callers on other machines; None: they are on this one.
        options: The options of `MCPServer`.

    Attributes:
        session: What the tools work with, from the moment when the lifespan has begun.
    """

    session: ServerSession

    def __init__(self, tools: ToolManager, texts: TeamTexts | None = None, **options: Any) -> None:  # noqa: ANN401  # passed to `MCPServer`
        super().__init__(NAME, **options)
        self._tools, self._texts = tools, texts
        self.shaping = Shaping(tools)
        self.middleware.append(self.shaping)
        self.middleware.insert(0, sealed.noted)
        sdk.use_tools(self, tools)
        sdk.add_handler(self, "completion/complete", CompleteRequestParams, _complete)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[ServerSession, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool. Its errors become results that say what to do next.

        Raises:
            MCPError: There is no such tool.
        """
        tool = self._tools.get_tool(name)
        if tool is None:
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown tool: {shortened(name)}")
        left_out = frozenset[str]() if self._texts is None else self._texts.left_out(name)
        if (refused := boundary.unknown_arguments(arguments, tool.parameters, left_out)) is not None:
            return boundary.to_result(refused)
        try:
            if (
                name in SPENDING
                and context is not None
                and (login := await login_gate.login_request(context)) is not None
            ):
                return login
            result = await super().call_tool(name, arguments, context)
            if isinstance(result, CallToolResult) and context is not None:
                result = answers.fitted(context, result)
        except ToolError as exc:
            cause = exc.__cause__ or exc
            if isinstance(cause, ValidationError):
                cause = boundary.from_validation(cause)
            return boundary.to_result(cause)
        return result

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[ServerSession, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        """Read a resource of ours: a document, an entry of the journal, or an image on disk.

        Raises:
            ResourceNotFoundError: No resource has this URI.
            MCPError: The resource can't be read; the text says why.
        """
        if context is None:
            return await super().read_resource(uri, context)
        try:
            content = await resources.read(session_of(context), str(uri))
            return await super().read_resource(uri, context) if content is None else [content]
        except Flux2Error as exc:
            raise boundary.to_protocol(exc) from exc
        except ResourceNotFoundError as exc:
            raise ResourceNotFoundError(
                "No such resource; resources/list and its templates name what there is."
            ) from exc

    async def list_tools(self) -> list[Tool]:
        """Return our tools."""
        tools = await super().list_tools()
        return tools if self._texts is None else [self._texts.tool(tool) for tool in tools]

    async def list_resource_templates(self) -> list[ResourceTemplate]:
        """Return our resource templates."""
        return list(resources.TEMPLATES)

    async def list_prompts(self) -> list[Prompt]:
        """Return our prompts."""
        listed = [prompt for prompt, _ in prompts.PROMPTS.values()]
        return listed if self._texts is None else [self._texts.prompt(prompt) for prompt in listed]

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[ServerSession, Any] | None = None
    ) -> GetPromptResult:
        """Fill in a prompt.

        Raises:
            MCPError: There is no such prompt, or its arguments are wrong.
        """
        del context
        try:
            return prompts.get(name, arguments or {}, prompts.as_written if self._texts is None else self._texts.said)
        except Flux2Error as exc:
            raise boundary.to_protocol(exc) from exc


def build(
    settings: Settings | SettingsError,
    *,
    seam: Callable[[Seam], Seam] | None = None,
    remote: str | None = None,
    security: RequestStateSecurity | None = None,
    caller: Callable[[], Caller | None] | None = None,
    link: Link | None = None,
    before_much: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint,
) -> Flux2Server:
    """Build the server. It opens nothing before its lifespan begins, and loads no heavy module before a tool is called.

    Args:
        settings: The settings, or the error that they raise: then every answer that needs a service reports it.
        seam: Replaces parts of the usual seam of the service; see `Service.opened`.
        remote: The public address of the server, if the callers are on other machines.
        security: Seals what a question to a user brings back; None: with a key of this process.
        caller: Returns who makes a call, so that each person sees their own tasks; see `ServerSession`.
        link: Makes links to images, for callers on other machines.
        before_much: See `ServerSession`.
    """
    options: dict[str, Any] = {"remote": remote is not None, "caller": caller, "link": link, "before_much": before_much}

    @asynccontextmanager
    async def lifespan(_: MCPServer[ServerSession]) -> AsyncIterator[ServerSession]:
        if isinstance(settings, SettingsError):
            server.session = ServerSession(settings, **options)
            yield server.session
            return
        with telemetry.exporting(wanted=settings.telemetry):
            async with Service.opened(settings, seam=seam) as service:
                server.session = ServerSession(service, seam, **options)
                yield server.session

    texts = None
    if remote is not None:
        from flux2_mcp.server.team.texts import TeamTexts

        texts = TeamTexts(remote)
    server = Flux2Server(
        lazy_tools(REGISTRY),
        texts,
        title="FLUX.2 images",
        version=__version__,
        instructions=INSTRUCTIONS if texts is None else texts.said(INSTRUCTIONS),
        lifespan=lifespan,
        cache_hints={method: CacheHint(ttl_ms=HOUR_MS, scope="public") for method in ONE_PAGE},
        subscriptions=False,
        extensions=[gallery.extension(), TasksExtension()],
        log_level="WARNING",
        request_state_security=security,
    )
    return server


async def _complete(ctx: ServerRequestContext[ServerSession], params: CompleteRequestParams) -> CompleteResult:
    # Not registered with the SDK's decorator: it does not pass the session, which is needed to read the tasks.
    argument, others = params.argument, (params.context and params.context.arguments) or {}
    try:
        values = await completion.complete(ctx.lifespan_context, params.ref, argument.name, argument.value, others)
    except Flux2Error as exc:
        raise boundary.to_protocol(exc) from exc
    return CompleteResult(completion=values)
