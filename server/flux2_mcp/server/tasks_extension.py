"""MCP tasks (extension `io.modelcontextprotocol/tasks`, 2026-07-28): a call of `generate` returns a handle to poll.

There is no second store. A handle consists of the ids of the call's image tasks: RunAPI's ids, or our keys while RunAPI
has not answered. The journal finds a task by either, also a task of another process, and never deletes it. So a handle
outlives the server, and its status always comes from the journal. Both kinds of id are random UUIDs.

A request gets a handle only if its client capabilities list the extension; any other request gets a plain result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import Context, require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    RequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field, TypeAdapter

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine import waiting
from flux2_mcp.engine.service import MAX_COUNT
from flux2_mcp.engine.waiting import Outcome, refusal
from flux2_mcp.errors import Flux2Error
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.server import boundary
from flux2_mcp.server.results import tasks as task_results
from flux2_mcp.server.session import ServerSession
from flux2_mcp.server.tools import answers
from flux2_mcp.server.tools.context import standing

ID: Final = "io.modelcontextprotocol/tasks"
TOOL: Final = "generate"
POLL_MS: Final = 1000
"""The interval between two polls that a client should keep."""
WAIT_SECONDS: Final = 0.5
"""The wait of a poll for the end of the tasks: a waiting caller makes the runner poll RunAPI more often."""
NO_PREVIEW: Final = "?preview=false"
"""The end of the handle of a call without pictures: this choice of the caller must outlive the process, too."""
NO_CANCEL: Final = "This can't be stopped: RunAPI has no cancel, so it runs on, and is charged if it completes."
UNDER_WAY: Final = frozenset({State.INTENT, State.SUBMITTED, State.PROCESSING})

_BOOL = TypeAdapter(bool)
RequestContext = ServerRequestContext[ServerSession, Any]


class TaskParams(RequestParams):
    """Parameters of `tasks/get`, `tasks/cancel` and `tasks/update`. A task asks nothing, so answers are not read."""

    task_id: str = Field(max_length=8192)


class TasksExtension(Extension):
    """The extension, for `MCPServer(extensions=[...])`."""

    identifier = ID

    def methods(self) -> Sequence[MethodBinding]:
        """Return the three methods, for the protocol versions that have them."""
        handlers = {"tasks/get": _get, "tasks/update": _acknowledge, "tasks/cancel": _acknowledge}
        versions = frozenset(MODERN_PROTOCOL_VERSIONS)
        return [MethodBinding(method, TaskParams, handler, versions) for method, handler in handlers.items()]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: RequestContext, call_next: CallNext
    ) -> HandlerResult:
        """Return a handle if tasks are still open after RunAPI has taken them; otherwise return the result."""
        if params.name != TOOL or not _declared(ctx):
            return await call_next(ctx)
        arguments = params.arguments or {}
        session = ctx.lifespan_context
        waits = session.usable and session.service.settings.wait_seconds is not None
        if arguments.get("wait_seconds") is None and not waits:
            params.arguments = arguments | {"wait_seconds": 0}  # a client that polls does not need to wait here
        with answers.outcomes() as outcomes:
            result = await call_next(ctx)
        if not isinstance(result, CallToolResult) or result.is_error or not outcomes:
            return result
        outcome = outcomes[-1]
        made = task_results.generation(outcome)
        # A handle must not be guessable, but a key that the caller chose may be. Such a call gets its plain result.
        chosen = arguments.get("idempotency_key") is not None and any(
            task.status == "submitting" for task in made.tasks
        )
        if made.next_action is None or chosen:
            return result
        ids = [task.task_id for task in made.tasks]
        ident = handle(ids, preview=_BOOL.validate_python(arguments.get("preview", True)))
        return _task(ident, outcome, made.notice) | {"resultType": "task"}


def handle(ids: Sequence[str], *, preview: bool) -> str:
    """Return the id of an MCP task. Characters with a meaning here or in an HTTP header are escaped."""
    return "+".join(quote(each, safe="") for each in ids) + ("" if preview else NO_PREVIEW)


def _declared(ctx: RequestContext) -> bool:
    capabilities = ctx.session.client_capabilities
    declared = capabilities.extensions if capabilities else None
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and ID in (declared or {})


async def _get(ctx: RequestContext, params: TaskParams) -> HandlerResult:
    """Return the state of a task; after its end, with the result that `tools/call` would have returned."""
    outcome = await _outcome(ctx, await _ids(ctx, params), wait_seconds=WAIT_SECONDS)
    task = _task(params.task_id, outcome)
    if any(report.record.state in UNDER_WAY or not report.settled for report in outcome.tasks):
        return task
    if (refused := refusal(outcome.tasks)) is not None:
        result = boundary.to_result(refused)
    else:
        context = Context[ServerSession](request_context=ctx)
        preview = not params.task_id.endswith(NO_PREVIEW)
        result = await answers.generation(context, outcome, preview=preview, makes=True)
        result = answers.fitted(context, result)
    ended = result.model_dump(mode="json", by_alias=True, exclude_none=True)
    return task | {"status": "completed", "statusMessage": "Ended; the result says how.", "result": ended}


async def _acknowledge(ctx: RequestContext, params: TaskParams) -> HandlerResult:
    """Acknowledge an update or a cancel. A task asks nothing and can't be stopped, as its status says.

    Raises:
        MCPError: The journal does not have the task.
    """
    await _ids(ctx, params)
    return {}


async def _ids(ctx: RequestContext, params: TaskParams) -> list[str]:
    """Return the ids in a handle. Only the journal is searched, so an invented id causes no request to RunAPI."""
    require_client_extension(ctx, ID)
    # Over HTTP, a header repeats the handle, for routing. The SDK checks the header only for its own methods.
    headers = getattr(ctx.request, "headers", None)
    if headers is not None and decode_header_value(headers.get(MCP_NAME_HEADER)) != params.task_id:
        raise MCPError(code=HEADER_MISMATCH, message="The header Mcp-Name is not the taskId.")
    ids = [unquote(each) for each in params.task_id.removesuffix(NO_PREVIEW).split("+")]
    with _translated():
        if len(ids) > MAX_COUNT or not all([await ctx.lifespan_context.service.known(each) for each in ids]):
            raise MCPError(code=INVALID_PARAMS, message="There is no such task.")
    return ids


async def _outcome(ctx: RequestContext, ids: Sequence[str], *, wait_seconds: float = 0.0) -> Outcome:
    with _translated():
        return await ctx.lifespan_context.service.check(ids, wait_seconds=wait_seconds)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Flux2Error as exc:
        raise MCPError(code=INTERNAL_ERROR, message=f"{exc.message} {exc.next_step}") from exc


def _task(ident: str, outcome: Outcome, notice: str | None = None) -> dict[str, Any]:
    """Return the task as "working". It is a dict, because the SDK omits null fields of models; `ttlMs` is required."""
    records = [report.record for report in outcome.tasks]
    begun = min(record.created_at for record in records)
    trouble = next((task_results.trouble(report.trouble) for report in outcome.tasks if report.trouble), None)
    elapsed = (datetime.now(UTC) - begun).total_seconds()
    progress = standing([record.state for record in records], elapsed, waiting.remaining(outcome.tasks))
    return {
        "taskId": ident,
        "status": "working",
        "statusMessage": " ".join(filter(None, [f"{progress}.", trouble, NO_CANCEL, notice])),
        "createdAt": task_results.stamp(begun),
        "lastUpdatedAt": task_results.stamp(max(map(_touched, records))),
        "ttlMs": None,
        "pollIntervalMs": POLL_MS,
    }


def _touched(record: TaskRecord) -> datetime:
    times = (record.created_at, record.submitted_at, record.completed_at, record.delivered_at)
    return max(time for time in times if time is not None)
