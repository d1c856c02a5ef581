"""The context of a tool call: the service, the client, the folders, and the receiver of progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from mcp.server.mcpserver import Context, ListRoots, Resolve
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import ListRootsRequest, ListRootsResult, Root
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError

from flux2_mcp.domain import sources
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.project import Project, project_at
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.waiting import PROGRESS_SECONDS, OnProgress, Progress
from flux2_mcp.errors import InvalidRequestError, Problem
from flux2_mcp.server import clients
from flux2_mcp.server.clients import Client
from flux2_mcp.server.session import ServerSession

ToolContext: TypeAlias = Context[ServerSession]


def service_of(context: ToolContext) -> Service:
    """Return the service of the server, as the caller may use it."""
    return session_of(context).service


def session_of(context: ToolContext) -> ServerSession:
    """Return the session of the server."""
    return context.request_context.lifespan_context


def client_name(context: ToolContext) -> str | None:
    """Return the host's own name, cut to 64 characters, because it is a text from outside."""
    params = context.session.client_params
    return None if params is None else params.client_info.name[:64]


def client_of(context: ToolContext) -> Client:
    """Return the known properties of the host: how long it waits, which parts of a result it shows."""
    return clients.client(client_name(context))


def wait_of(context: ToolContext, stated: float | None) -> float:
    """Return the seconds to wait: from the call, or else from the settings, or else the default for this host."""
    settings = service_of(context).settings
    if stated is None:
        settings.need("FLUX2_WAIT_SECONDS")
    waits = (stated, settings.wait_seconds, client_of(context).wait_seconds)
    return next(seconds for seconds in waits if seconds is not None)


FAR_PROJECT = (
    "is a file of a project, and this server is on another machine. Run it where the project is: flux2-mcp login --team URL"
    " once, with the address of this server, then flux2-mcp plan and flux2-mcp apply."
)


class _Root(BaseModel):
    """A client's answer to `roots/list`, before its roots are checked."""

    roots: list[dict[str, Any]]


async def _roots(context: ToolContext) -> ListRootsResult | ListRoots:
    # A folder of a caller on another machine means nothing here, or is somebody else's.
    remote = session_of(context).remote
    if remote or context.client_capabilities is None or context.client_capabilities.roots is None:
        return ListRootsResult(roots=[])
    if context.protocol_version in MODERN_PROTOCOL_VERSIONS:
        return ListRoots()  # `app` has passed its answer through `usable_roots`
    try:
        named = await context.session.send_request(
            ListRootsRequest(), _Root, metadata=ServerMessageMetadata(related_request_id=context.request_id)
        )
    except (MCPError, ValidationError):  # an error or an unknown form counts as no roots
        return ListRootsResult(roots=[])
    return ListRootsResult.model_validate(usable_roots(named.model_dump()))


def usable_roots(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a client's answer to `roots/list` without the roots that are no folders of this machine.

    Editors also name other open items (`vscode-remote:`, `untitled:`), and for one of them the SDK would refuse all.
    """
    roots = answer.get("roots")
    return dict(answer) | ({"roots": [root for root in roots if _is_folder(root)]} if isinstance(roots, list) else {})


def _is_folder(root: object) -> bool:
    try:
        return sources.file_path(str(Root.model_validate(root).uri)) is not None
    except ValidationError:
        return False


Roots: TypeAlias = Annotated[ListRootsResult, Resolve(_roots)]
"""A parameter of a tool that the client fills, not the model: the folders that it has opened, or none."""


def folders(context: ToolContext, roots: ListRootsResult) -> list[Path]:
    """Return the caller's folders, the workspace first: the client's roots, or else the workspace of the settings."""
    named = [sources.file_path(str(root.uri)) for root in roots.roots]
    if found := [Path(path) for path in named if path is not None]:
        return found
    settings = service_of(context).settings
    settings.need("FLUX2_WORKSPACE")
    return [] if settings.workspace is None else [Path(settings.workspace)]


def project_of(context: ToolContext, roots: ListRootsResult, manifest: str, others: Sequence[str]) -> Project:
    """Return the project of a manifest in the workspace.

    Args:
        context: Has the settings.
        roots: The folders that the client has opened.
        manifest: The argument of the call.
        others: The arguments that were given beside it and mean nothing then.

    Raises:
        InvalidRequestError: There are others, or the manifest is outside the workspace, or on another machine.
    """
    if others:
        raise InvalidRequestError(*(Problem(name, "goes without manifest only.") for name in others))
    if session_of(context).remote:
        raise InvalidRequestError(Problem("manifest", FAR_PROJECT))
    settings = service_of(context).settings
    return project_at(manifest, folders(context, roots), live=settings.mode == "live", home=settings.home)


def can_ask(context: ToolContext) -> bool:
    """Whether the client can show a form to its user. Older clients have no other way, so they do not declare it."""
    asking = None if context.client_capabilities is None else context.client_capabilities.elicitation
    return asking is not None and (asking.form is not None or asking.url is None)


def progress_of(context: ToolContext) -> OnProgress:
    """Return a function that reports progress to the host: seconds since the call began, strictly increasing.

    It reports when the state of one of these tasks changes, and otherwise about once a second. It reports no
    percentage, because that would be invented.
    """
    last = Progress(elapsed=0.0, remaining=None, states=())

    async def report(progress: Progress) -> None:
        nonlocal last
        if progress.states == last.states and progress.elapsed - last.elapsed < PROGRESS_SECONDS:
            return
        if progress.elapsed <= last.elapsed:
            return
        last = progress
        message = standing(progress.states, progress.elapsed, progress.remaining)
        await context.report_progress(progress.elapsed, message=message)

    return report


def standing(states: Sequence[State], elapsed: float, remaining: float | None) -> str:
    """Describe the state of tasks in words.

    Args:
        states: One for each task.
        elapsed: Seconds since the call began.
        remaining: Expected remaining seconds; None if unknown, and then the text does not mention them.
    """
    done = sum(1 for state in states if not state.unfinished)
    rest = "" if remaining is None else f", about {max(1, round(remaining))} s left"
    return f"{done} of {len(states)} done after {elapsed:.0f} s{rest}"
