"""Resources: the documents, the tasks as JSON, and the images. Lists have pages, newest first."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp_types import ListResourcesResult, Resource, ResourceTemplate

from flux2_mcp.domain.lifecycle import STATUSES
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.waiting import TaskReport
from flux2_mcp.errors import Flux2Error, InvalidRequestError, Problem
from flux2_mcp.images import preview, thumbnails
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.server import listing
from flux2_mcp.server.docs import index
from flux2_mcp.server.listing import JSON_TYPE, PAGE_TASKS, TASKS
from flux2_mcp.server.results import tasks as task_results
from flux2_mcp.server.session import ServerSession
from flux2_mcp.system import files

SCHEME = "flux2"
MAX_WHOLE_BYTES = 64 * 2**20
"""Bytes of an image that is sent whole: an enlarged one may have hundreds of MB, and goes by its path alone."""
MAX_LINKED_BYTES = 8 * 2**20
"""The same where the image has a link, and many people share the server: all of it is in memory, several times, in base64."""
MAX_SCALE_PX = 2048

TEMPLATES = (
    *index.TEMPLATES,
    ResourceTemplate(
        name="task",
        title="Image task",
        uri_template=f"{TASKS}/{{id}}",
        description="One task as JSON.",
        mime_type=JSON_TYPE,
    ),
    ResourceTemplate(
        name="image",
        title="Image",
        uri_template="flux2://images/{id}{?max}",
        description="The image of a task; with max, as JPEG with its longer side at most so many pixels.",
        mime_type="image/png",
    ),
)


async def listed(service: Service | None, cursor: str | None) -> ListResourcesResult:
    """Return one page. The first begins with the documents and the list of tasks; then each task and its image follow.

    Args:
        service: If None, no tasks are listed; a read of the task list then reports the reason.
        cursor: None for the first page.

    Raises:
        InvalidRequestError: The cursor is not from a page of ours.
    """
    before = await _read_cursor(service, cursor)
    tasks = () if service is None else await service.newest(limit=PAGE_TASKS, before=before)
    found = []
    if before is None:
        found = [document.resource() for document in index.documents().values() if document.listed]
        found.append(Resource(name="tasks", title="Image tasks", uri=TASKS, mime_type=JSON_TYPE))
    found += [Resource.model_validate(entry, by_name=False) for entry in listing.entries(tasks)]
    return ListResourcesResult(resources=found, next_cursor=listing.cursor(tasks))


async def read(session: ServerSession, uri: str) -> ReadResourceContents | None:
    """Return the content of one of our URIs; None if there is no such resource.

    Raises:
        SettingsError: The resource needs a service, and there is none.
        Flux2Error: The image is not on disk, or not on disk any more, or the store of images does not give it.
        InvalidRequestError: `max` is not an allowed number of pixels.
    """
    if (document := index.documents().get(uri)) is not None:
        return ReadResourceContents(document.text(), document.mime_type)
    kind, ident, query = _parts(uri)
    if not kind:
        return None
    service = session.service
    if kind == "tasks" and not ident:
        return _json(await _tasks(session, await service.page(limit=PAGE_TASKS, before=None)))
    record = await service.known(ident) if ident else None
    if record is None:
        return None
    if kind == "tasks":
        await service.show([record])
        (task,) = await _tasks(session, [record])
        return _json(task)
    image = await _image(record, parse_qs(query).get("max", [None])[0], service, session)
    await service.show([record], images=True)
    return image


def _parts(uri: str) -> tuple[str, str, str]:
    """Return the kind ("tasks" or "images"), the id and the query; all are empty for a URI that is not ours."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "", "", ""
    if parts.scheme != SCHEME or parts.netloc not in {"tasks", "images"}:
        return "", "", ""
    return parts.netloc, unquote(parts.path.strip("/")), parts.query


async def _image(
    record: TaskRecord, longest: str | None, service: Service, session: ServerSession
) -> ReadResourceContents:
    if not record.images:
        raise Flux2Error(f"The task is {STATUSES[record.state]}: its image is not on disk.")
    image = record.images[0]
    if longest is None:
        if image.size_bytes > (MAX_WHOLE_BYTES if session.link is None else MAX_LINKED_BYTES):
            size = f"{image.size_bytes // 2**20} MB"
            place = (
                f"Its file is {image.path}" if session.link is None else f"Fetch it from {session.link(record, 0)[0]}"
            )
            raise Flux2Error(f"The image has {size}, too many to be sent here. {place}; ?max=768 is smaller.")
        await session.before_much()
        try:
            path = await service.images.here(image)
            return ReadResourceContents(await service.in_turn(partial(_whole, path)), image.mime_type)
        except OSError as exc:
            raise Flux2Error("The image's file is gone.") from exc
    if not longest.isascii() or not longest.isdecimal() or not 0 < int(longest[:6]) <= MAX_SCALE_PX:
        raise InvalidRequestError(Problem("max", f"must be a number of pixels from 1 to {MAX_SCALE_PX}."))
    path, pixels = await service.images.here(image), int(longest)
    if pixels == thumbnails.SIDE_PX:
        small = service.settings.home / thumbnails.FOLDER
        data = await service.in_turn(partial(thumbnails.of, path, small))
    else:
        data = await service.in_turn(partial(preview.scaled, path, pixels, None))
    return ReadResourceContents(data, preview.MIME_TYPES["JPEG"])


async def _tasks(session: ServerSession, records: Sequence[TaskRecord]) -> list[object]:
    shown = task_results.shown_to(session.link, await task_results.files_there(records))
    tasks = [task_results.task(TaskReport(record), shown=shown) for record in records]
    return [task.model_dump(mode="json", exclude_defaults=True) for task in tasks]


def _whole(path: Path) -> bytes:
    with files.open_plain(path) as file:
        return file.read()


def _json(data: object) -> ReadResourceContents:
    return ReadResourceContents(json.dumps(data, ensure_ascii=False), JSON_TYPE)


async def _read_cursor(service: Service | None, cursor: str | None) -> str | None:
    if cursor is None:
        return None
    with contextlib.suppress(binascii.Error, UnicodeError):
        key = base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
        record = None if service is None else await service.known(key)
        if record is not None and record.key == key:
            return key
    raise unknown_cursor()


def unknown_cursor() -> InvalidRequestError:
    """Return the error for a cursor that is not from a page of ours."""
    return InvalidRequestError(Problem("cursor", "is none that a page gave."))
