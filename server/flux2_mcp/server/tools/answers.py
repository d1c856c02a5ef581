"""The forms of a tool's answer: words, the same as JSON and as structured content, links, small pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import anyio.to_thread
from mcp.server.apps import client_supports_apps
from mcp_types import CallToolResult, ContentBlock, ImageContent, ResourceLink, TextContent

from flux2_mcp.domain.models import StoredImage
from flux2_mcp.engine.waiting import Outcome, TaskReport
from flux2_mcp.errors import DeliveryError
from flux2_mcp.images.preview import MAX_PREVIEW_BYTES, MAX_SIDE_PX, MIME_TYPES, scaled
from flux2_mcp.server.results import tasks as task_results
from flux2_mcp.server.results.tasks import Result, image_uri
from flux2_mcp.server.tools.context import ToolContext, client_of

REQUESTS_KEY = "flux-2/requests"
"""The key in a result's `_meta` with the arguments of each task, for the gallery only."""
MAX_PREVIEWS = 8
MAX_LARGE_PREVIEWS = 2
SMALL_SIDE_PX, SMALL_BYTES = 320, 25_000
"""The maximum size of each preview if there are more than two."""

_OUTCOMES: ContextVar[list[Outcome] | None] = ContextVar("_OUTCOMES", default=None)


async def generation(context: ToolContext, outcome: Outcome, *, preview: bool) -> CallToolResult:
    """Return the answer about tasks: words, the same as JSON, links to the images, and small pictures if wanted.

    Args:
        context: Names the client, which decides about the forms.
        outcome: The outcome of the call.
        preview: Whether small pictures are wanted.
    """
    if (made := _OUTCOMES.get()) is not None:
        made.append(outcome)
    result, form = task_results.generation(outcome), client_of(context)
    ready = [(image, report) for report in outcome.tasks for image in report.record.images]
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
    links = [link for image, report in ready for link in _links(image, report)] if form.links else []
    answered = both_forms(result, task_results.words(result, previews=len(seen)))
    meta = {REQUESTS_KEY: task_results.requests(outcome)} if client_supports_apps(context) else None
    return answered.model_copy(update={"content": [*answered.content, *links, *seen], "meta": meta})


@contextmanager
def outcomes() -> Iterator[list[Outcome]]:
    """Yield a list that collects the outcome of every tool call inside this context.

    The SDK passes on only the text and JSON of a result, not its outcome. If the SDK runs the tool in another asyncio
    task, that task has a copy of the context, and the copy refers to the same list.
    """
    made: list[Outcome] = []
    token = _OUTCOMES.set(made)
    try:
        yield made
    finally:
        _OUTCOMES.reset(token)


def _links(image: StoredImage, report: TaskReport) -> list[ResourceLink]:
    path = Path(image.saved or image.path)
    shared = {"type": "resource_link", "name": path.name, "mime_type": image.mime_type, "size": image.size_bytes}
    uris = (path.as_uri(), image_uri(report.record.task_id or report.record.key))
    return [ResourceLink.model_validate(shared | {"uri": uri}) for uri in uris]


def fitted(context: ToolContext, result: CallToolResult) -> CallToolResult:
    """Return the result without the content that misleads this client: see `Client.structured`."""
    return result if client_of(context).structured else result.model_copy(update={"structured_content": None})


def both_forms(result: Result, text: str) -> CallToolResult:
    """Make a result from words, with the same data as JSON text and as structured content."""
    data = result.model_dump(mode="json")
    content = [TextContent(type="text", text=text), TextContent(type="text", text=result.model_dump_json())]
    return CallToolResult(content=[*content], structured_content=data)
