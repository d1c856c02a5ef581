"""The forms of a tool's answer: the same in words and as structured content, links, small pictures.

Each form says a thing once. A client whose row in `clients.py` tells that it shows the structured content only, or
beside the text, gets the data as its one text.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path

from mcp.server.apps import client_supports_apps
from mcp_types import CallToolResult, ContentBlock, ImageContent, ResourceLink, TextContent

from flux2_mcp.domain.models import StoredImage
from flux2_mcp.engine.applied import Applied
from flux2_mcp.engine.waiting import Outcome, TaskReport
from flux2_mcp.errors import DeliveryError, JournalError
from flux2_mcp.images.preview import MAX_SIDE_PX, MIME_TYPES, scaled
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.server.listing import image_uri
from flux2_mcp.server.results import task_words
from flux2_mcp.server.results import tasks as task_results
from flux2_mcp.server.results.tasks import Result
from flux2_mcp.server.tools.context import ToolContext, client_of, service_of, session_of

REQUESTS_KEY = "flux-2/requests"
"""The key in a result's `_meta` with the arguments of each task, for the gallery only."""
MAX_PREVIEWS = 8
MAX_LARGE_PREVIEWS = 2
SMALL_SIDE_PX = 320
"""The maximum size of each preview if there are more than two."""
MAX_PREVIEWS_CHARS = 60_000
"""The maximum size of all previews of a result together, as they are sent: in base64, which has 4 characters for 3 bytes."""

_OUTCOMES: ContextVar[list[Outcome] | None] = ContextVar("_OUTCOMES", default=None)


async def project(context: ToolContext, applied: Applied, *, preview: bool) -> CallToolResult:
    """Return the answer about a manifest's pictures, in the forms of `generation`."""
    return await generation(context, applied.tasks, preview=preview, makes=True, applied=applied)


async def generation(
    context: ToolContext, outcome: Outcome, *, preview: bool, makes: bool = False, applied: Applied | None = None
) -> CallToolResult:
    """Return the answer about tasks: words, the same as data, links to the images, and small pictures if wanted.

    Args:
        context: Names the client, which decides about the forms.
        outcome: The outcome of the call.
        preview: Whether small pictures are wanted.
        applied: What became of a manifest, if the tasks are those of one.
        makes: Whether the call was to make the images: if all tasks failed, the answer is an error then.
    """
    if (made := _OUTCOMES.get()) is not None:
        made.append(outcome)
    link, service = session_of(context).link, service_of(context)
    there = await task_results.files_there(report.record for report in outcome.tasks)
    form = client_of(context)
    images = task_results.shown_to(link, there)
    if applied is None:
        result = task_results.generation(outcome, shown=images)
    else:
        result = task_results.project(applied, shown=images)
    ready = [(image, report) for report in outcome.tasks for image in report.record.images]
    seen: list[ContentBlock] = []
    seen_of: list[TaskRecord] = []
    unseen: list[ContentBlock] = []
    if preview and form.preview is not None:
        side_px = MAX_SIDE_PX if len(ready) <= MAX_LARGE_PREVIEWS else SMALL_SIDE_PX
        shown, room = ready[:MAX_PREVIEWS], MAX_PREVIEWS_CHARS // 4 * 3
        for number, (image, report) in enumerate(shown):
            try:
                # What one picture leaves of its share is for those after it.
                most_bytes = room // (len(shown) - number)
                data = await service.in_turn(partial(scaled, Path(image.path), side_px, most_bytes, form.preview))
            except DeliveryError:
                continue  # a file that the user has moved away needs no picture
            room -= len(data)
            seen.append(
                ImageContent(type="image", data=base64.b64encode(data).decode(), mime_type=MIME_TYPES[form.preview])
            )
            seen_of.append(report.record)
    if seen_of:
        try:
            await service.show(seen_of, images=True)
        except JournalError as exc:  # the tasks may be paid: the rest of the answer must come all the same
            seen, unseen = [], [TextContent(type="text", text=f"{exc.message} {exc.next_step}")]
    near = there if link is None else frozenset[str]()  # a file of this machine is of no use on another
    links: list[ContentBlock] = [_link(image, report, near) for image, report in ready] if form.links else []
    answered = both_forms(result, task_words.words(result, previews=len(seen)))
    if not form.structured and (guidance := task_words.guidance(result, previews=len(seen))):
        links.append(TextContent(type="text", text="\n".join(guidance)))  # the data has no place for it
    meta = {REQUESTS_KEY: task_results.requests(outcome)} if client_supports_apps(context) else None
    update = {
        "content": [*answered.content, *links, *unseen, *seen],
        "meta": meta,
        "is_error": makes and result.status == "failed",
    }
    return answered.model_copy(update=update)


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


def _link(image: StoredImage, report: TaskReport, there: Collection[str]) -> ResourceLink:
    """Return the link to an image: to its file, if that is `there`, or else to our resource."""
    places = [Path(place) for place in (image.saved, image.path) if place is not None]
    file = next((place for place in places if str(place) in there), None)
    uri = image_uri(report.record.task_id or report.record.key) if file is None else file.as_uri()
    return ResourceLink(
        type="resource_link",
        name=(file or places[0]).name,
        mime_type=image.mime_type,
        size=image.size_bytes,
        uri=uri,
    )


def fitted(context: ToolContext, result: CallToolResult) -> CallToolResult:
    """Return the result in the form that this client shows: see `Client.structured`."""
    if client_of(context).structured or result.structured_content is None:
        return result
    data = json.dumps(result.structured_content, ensure_ascii=False, separators=(",", ":"))
    _, *rest = result.content
    return result.model_copy(
        update={"structured_content": None, "content": [TextContent(type="text", text=data), *rest]}
    )


def both_forms(result: Result, text: str) -> CallToolResult:
    """Make a result from words, with the same data as structured content."""
    return CallToolResult(
        content=[TextContent(type="text", text=text)],
        structured_content=result.model_dump(mode="json", exclude_defaults=True),
    )
