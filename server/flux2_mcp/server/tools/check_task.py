"""The tool that reports the state of tasks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from mcp_types import CallToolResult
from pydantic import Field

from flux2_mcp.domain import times
from flux2_mcp.engine.waiting import MAX_IDS
from flux2_mcp.errors import InvalidRequestError, Problem
from flux2_mcp.server.results import tasks as task_results
from flux2_mcp.server.results.tasks import GenerationResult, TaskStatus
from flux2_mcp.server.tools import answers
from flux2_mcp.server.tools.context import Roots, ToolContext, folders, progress_of, service_of, wait_of
from flux2_mcp.settings import MAX_WAIT_SECONDS


async def check_task(
    context: ToolContext,
    roots: Roots,
    task_ids: Annotated[list[str] | None, Field(max_length=MAX_IDS, description="none: the most recent")] = None,
    wait_seconds: Annotated[float | None, Field(ge=0, le=MAX_WAIT_SECONDS, description="for the end")] = None,
    limit: Annotated[int, Field(ge=1, le=100, description="how many of the most recent")] = 10,
    status: Annotated[TaskStatus | None, Field(description="only these")] = None,
    since: Annotated[str | None, Field(description="30m, 24h, 7d, or ISO 8601")] = None,
    workspace: Annotated[str | None, Field(description="folder; . is this one")] = None,
) -> Annotated[CallToolResult, GenerationResult]:
    """How image tasks stand, with files, URLs and costs; waits for open ones. Free. Ids never expire.

    Without ids: what was made, newest first.
    """
    service, on_progress = service_of(context), progress_of(context)
    here = next(map(str, folders(context, roots)), None) if workspace == "." else workspace
    filters = {"status": status, "since": since, "workspace": workspace}
    if task_ids and (given := [name for name, value in filters.items() if value is not None]):
        raise InvalidRequestError(*(Problem(name, "goes without task_ids only.") for name in given))
    if task_ids:
        outcome = await service.check(task_ids, wait_seconds=wait_of(context, wait_seconds), on_progress=on_progress)
    else:
        outcome = await service.recent(
            limit=limit,
            states=None if status is None else task_results.states(status),
            since=None if since is None else times.since(since, datetime.now(UTC)),
            workspace=here,
            # A caller without task ids wants a list, so the default is not to wait.
            wait_seconds=wait_seconds or 0,
            on_progress=on_progress,
        )
    return await answers.generation(context, outcome, preview=bool(task_ids))
