"""What a tool answers, in its forms: words, the same as JSON and as structured content, links, small pictures."""

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
"""In a result's `_meta`, for the gallery alone: what each task was asked with."""
MAX_PREVIEWS = 8
MAX_LARGE_PREVIEWS = 2
SMALL_SIDE_PX, SMALL_BYTES = 320, 25_000
"""Each preview, where there are more than two."""

_OUTCOMES: ContextVar[list[Outcome] | None] = ContextVar("_OUTCOMES", default=None)


async def generation(context: ToolContext, outcome: Outcome, *, preview: bool) -> CallToolResult:
    """The answer about tasks: words, the same as JSON, links to the images, and small pictures where they are wanted.

    Args:
        context: Whose client decides what of it is of use.
        outcome: What became of the tasks.
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


def _links(image: StoredImage, report: TaskReport) -> list[ResourceLink]:
    path = Path(image.saved or image.path)
    shared = {"type": "resource_link", "name": path.name, "mime_type": image.mime_type, "size": image.size_bytes}
    uris = (path.as_uri(), image_uri(report.record.task_id or report.record.key))
    return [ResourceLink.model_validate(shared | {"uri": uri}) for uri in uris]


def fitted(context: ToolContext, result: CallToolResult) -> CallToolResult:
    """The result without what would mislead this client: see `Client.structured`."""
    return result if client_of(context).structured else result.model_copy(update={"structured_content": None})


def both_forms(result: Result, text: str) -> CallToolResult:
    """Words for a reader, the same as JSON text, and as structured content."""
    data = result.model_dump(mode="json")
    content = [TextContent(type="text", text=text), TextContent(type="text", text=result.model_dump_json())]
    return CallToolResult(content=[*content], structured_content=data)
