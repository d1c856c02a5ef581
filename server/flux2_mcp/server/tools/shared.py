"""What the tools share: the service behind a call, who calls, progress to the host, the answer's two forms."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import anyio.to_thread
from mcp.server.apps import client_supports_apps
from mcp.server.mcpserver import Context, ListRoots, Resolve
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    CallToolResult,
    ContentBlock,
    ImageContent,
    ListRootsRequest,
    ListRootsResult,
    ResourceLink,
    Root,
    TextContent,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError

from flux2_mcp.domain import sources
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.domain.models import StoredImage
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.waiting import PROGRESS_SECONDS, OnProgress, Outcome, Progress, TaskReport
from flux2_mcp.errors import DeliveryError
from flux2_mcp.images.preview import MAX_PREVIEW_BYTES, MAX_SIDE_PX, MIME_TYPES, scaled
from flux2_mcp.server import clients
from flux2_mcp.server.clients import Client
from flux2_mcp.server.results import tasks as task_results
from flux2_mcp.server.results.tasks import Result, image_uri
from flux2_mcp.server.session import ServerSession

Call: TypeAlias = Context[ServerSession]

REQUESTS_KEY = "flux-2/requests"
"""In a result's `_meta`, for the gallery alone: what each task was asked with."""
MAX_PREVIEWS = 8
MAX_LARGE_PREVIEWS = 2
SMALL_SIDE_PX, SMALL_BYTES = 320, 25_000
"""Each preview, where there are more than two."""

_OUTCOMES: ContextVar[list[Outcome] | None] = ContextVar("_OUTCOMES", default=None)


def service(call: Call) -> Service:
    """The service of this server."""
    return services(call).service


def services(call: Call) -> ServerSession:
    """What this server works with."""
    return call.request_context.lifespan_context


def client_name(call: Call) -> str | None:
    """What the host calls itself, cut short: it is the network's text."""
    params = call.session.client_params
    return None if params is None else params.client_info.name[:64]


def client(call: Call) -> Client:
    """What is known of the host: how long it waits, what of a result it shows."""
    return clients.client(client_name(call))


def wait_seconds(call: Call, asked: float | None) -> float:
    """How long to wait: what the call says, else the settings, else what this host bears."""
    settings = service(call).settings
    if asked is None:
        settings.need("FLUX2_WAIT_SECONDS")
    return next(value for value in (asked, settings.wait_seconds, client(call).wait_seconds) if value is not None)


class _Root(BaseModel):
    """What a client answers to `roots/list`, before anything of it is held to be a folder."""

    roots: list[dict[str, Any]]


async def _roots(call: Call) -> ListRootsResult | ListRoots:
    if call.client_capabilities is None or call.client_capabilities.roots is None:
        return ListRootsResult(roots=[])
    if call.protocol_version in MODERN_PROTOCOL_VERSIONS:
        return ListRoots()  # `app` has passed its answer through `usable_roots`
    try:
        named = await call.session.send_request(
            ListRootsRequest(), _Root, metadata=ServerMessageMetadata(related_request_id=call.request_id)
        )
    except (MCPError, ValidationError):  # an error, or an answer in no known form: it names none
        return ListRootsResult(roots=[])
    return ListRootsResult.model_validate(usable_roots(named.model_dump()))


def usable_roots(answer: Mapping[str, Any]) -> dict[str, Any]:
    """A client's answer to `roots/list` without the roots that are no folders of this machine.

    Editors name what else they have open, too (`vscode-remote:`, `untitled:`), and the SDK would refuse all for one.
    """
    roots = answer.get("roots")
    return dict(answer) | ({"roots": [root for root in roots if _is_folder(root)]} if isinstance(roots, list) else {})


def _is_folder(root: object) -> bool:
    try:
        return sources.file_path(str(Root.model_validate(root).uri)) is not None
    except ValidationError:
        return False


Roots: TypeAlias = Annotated[ListRootsResult, Resolve(_roots)]
"""A tool's parameter that the client fills, not the model: the folders it has opened; none where it tells of none."""


def folders(call: Call, roots: ListRootsResult) -> list[Path]:
    """The folders that the caller works in, the workspace first: the client's roots, else the settings' own."""
    named = [sources.file_path(str(root.uri)) for root in roots.roots]
    if found := [Path(path) for path in named if path is not None]:
        return found
    settings = service(call).settings
    settings.need("FLUX2_WORKSPACE")
    return [] if settings.workspace is None else [Path(settings.workspace)]


def can_ask(call: Call) -> bool:
    """Whether the client can put a form before its user. One that tells of no way of asking can (before there were several)."""
    asking = None if call.client_capabilities is None else call.client_capabilities.elicitation
    return asking is not None and (asking.form is not None or asking.url is None)


def on_progress(call: Call) -> OnProgress:
    """Progress for the host: seconds since the call began, strictly increasing, and no invented percent.

    Told when a task's state has changed, else about once a second, whatever other tasks the server looks after.
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
        await call.report_progress(progress.elapsed, message=message)

    return report


def standing(states: Sequence[State], elapsed: float, remaining: float | None) -> str:
    """How tasks stand, in words.

    Args:
        states: One a task.
        elapsed: Seconds since they were asked for.
        remaining: Seconds that they may still take; None where nobody can say, and then nothing is said.
    """
    done = sum(1 for state in states if not state.unfinished)
    rest = "" if remaining is None else f", about {max(1, round(remaining))} s left"
    return f"{done} of {len(states)} done after {elapsed:.0f} s{rest}"


async def generation(call: Call, outcome: Outcome, *, preview: bool) -> CallToolResult:
    """The answer about tasks: words, the same as JSON, links to the images, and small pictures where they are wanted.

    Args:
        call: Whose client decides what of it is of use.
        outcome: What became of the tasks.
        preview: Whether small pictures are wanted.
    """
    if (made := _OUTCOMES.get()) is not None:
        made.append(outcome)
    result, form = task_results.generation(outcome), client(call)
    ready = [(image, told) for told in outcome.tasks for image in told.record.images]
    seen: list[ContentBlock] = []
    if preview and form.preview is not None:
        pixels = (MAX_SIDE_PX, MAX_PREVIEW_BYTES) if len(ready) <= MAX_LARGE_PREVIEWS else (SMALL_SIDE_PX, SMALL_BYTES)
        for image, _ in ready[:MAX_PREVIEWS]:
            try:
                data = await anyio.to_thread.run_sync(scaled, Path(image.path), *pixels, form.preview)
            except DeliveryError:
                continue  # a file that the user has moved away needs no picture
            seen.append(
                ImageContent(type="image", data=base64.b64encode(data).decode(), mime_type=MIME_TYPES[form.preview])
            )
    links = [link for image, told in ready for link in _links(image, told)] if form.links else []
    answered = answer(result, task_results.words(result, previews=len(seen)))
    meta = {REQUESTS_KEY: task_results.requests(outcome)} if client_supports_apps(call) else None
    return answered.model_copy(update={"content": [*answered.content, *links, *seen], "meta": meta})


def _links(image: StoredImage, told: TaskReport) -> list[ResourceLink]:
    path = Path(image.saved or image.path)
    shared = {"type": "resource_link", "name": path.name, "mime_type": image.mime_type, "size": image.size_bytes}
    uris = (path.as_uri(), image_uri(told.record.task_id or told.record.key))
    return [ResourceLink.model_validate(shared | {"uri": uri}) for uri in uris]


@contextmanager
def outcomes() -> Iterator[list[Outcome]]:
    """Gives a list, which takes the outcome of every call of a tool that is made within.

    What a call makes goes through the SDK as text and JSON. The list stays one object wherever the SDK runs the tool: a task
    that it starts has a copy of the context, and the copy names the same list.
    """
    made: list[Outcome] = []
    token = _OUTCOMES.set(made)
    try:
        yield made
    finally:
        _OUTCOMES.reset(token)


def fitted(call: Call, result: CallToolResult) -> CallToolResult:
    """The result without what would mislead this client: see `Client.structured`."""
    return result if client(call).structured else result.model_copy(update={"structured_content": None})


def answer(result: Result, text: str) -> CallToolResult:
    """Words for a reader, the same as JSON text, and as structured content."""
    data = result.model_dump(mode="json")
    content = [TextContent(type="text", text=text), TextContent(type="text", text=result.model_dump_json())]
    return CallToolResult(content=[*content], structured_content=data)
