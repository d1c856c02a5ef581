"""The tool that reports the state of tasks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from mcp_types import CallToolResult
from msgspec.structs import replace
from pydantic import Field

from flux2_mcp.domain import times
from flux2_mcp.domain.lifecycle import TaskStatus
from flux2_mcp.engine.remote_files import FAR_FOLDER
from flux2_mcp.engine.waiting import MAX_IDS
from flux2_mcp.errors import InvalidRequestError, Problem
from flux2_mcp.journal.records import MAX_QUERY_CHARS
from flux2_mcp.server.results import tasks as task_results
from flux2_mcp.server.results.tasks import GenerationResult
from flux2_mcp.server.tools import answers
from flux2_mcp.server.tools.context import Roots, ToolContext, folders, progress_of, service_of, session_of, wait_of
from flux2_mcp.settings import MAX_WAIT_SECONDS


async def check_task(
    context: ToolContext,
    roots: Roots,
    task_ids: Annotated[list[str] | None, Field(max_length=MAX_IDS)] = None,
    wait_seconds: Annotated[
        float | None, Field(ge=0, le=int(MAX_WAIT_SECONDS), description="wait for open ones")
    ] = None,
    limit: Annotated[int, Field(ge=1, le=100)] = 10,
    before: Annotated[str | None, Field(description="older ones: matched.before of the last list")] = None,
    status: TaskStatus | None = None,
    since: Annotated[str | None, Field(description="30m, 24h, 7d or ISO 8601")] = None,
    workspace: Annotated[str | None, Field(description="made in this folder; . is this one")] = None,
    query: Annotated[str | None, Field(max_length=MAX_QUERY_CHARS, description="text in the prompt, any case")] = None,
    file: Annotated[
        str | None,
        Field(description="which task made this file, even if renamed"),
    ] = None,
) -> Annotated[CallToolResult, GenerationResult]:
    """How image tasks stand: files, prompts, costs; waits for open ones. Free. Ids never expire.

    Without ids: what was made, newest first, with sums over all that match.
    """
    service, on_progress = service_of(context), progress_of(context)
    here = folders(context, roots) if workspace == "." or file is not None else []
    filters = {
        "before": before,
        "status": status,
        "since": since,
        "workspace": workspace,
        "query": query,
        "file": file,
    }
    given = {name: value for name, value in filters.items() if value is not None}
    if task_ids and given:
        raise InvalidRequestError(*(Problem(name, "goes without task_ids only.") for name in given))
    wrong: tuple[Problem, ...] = ()
    moment = None
    try:
        moment = None if since is None else times.since(since, datetime.now(UTC))
    except InvalidRequestError as exc:
        wrong = exc.problems
    if workspace is not None and session_of(context).remote:
        wrong = (*wrong, Problem("workspace", FAR_FOLDER))
    if task_ids:
        outcome = await service.check(task_ids, wait_seconds=wait_of(context, wait_seconds), on_progress=on_progress)
    else:
        outcome = await service.recent(
            limit=limit,
            states=None if status is None else task_results.states(status),
            since=moment,
            workspace=next(map(str, here), None) if workspace == "." else workspace,
            query=query,
            file=file,
            before=before,
            folders=here,
            also=wrong,
            # A caller without task ids wants a list, so the default is not to wait.
            wait_seconds=wait_seconds or 0,
            on_progress=on_progress,
        )
    if given:
        outcome = replace(outcome, nothing=task_results.none_matches(given))
    return await answers.generation(context, outcome, preview=bool(task_ids))
