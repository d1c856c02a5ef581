"""The list of resources as JSON: the tasks' part of it, for the server and for the process that sleeps in its place.

It imports nothing of the SDK; see `transports.sleep`.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False  # as in `transports.early`
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flux2_mcp.journal.listed import ListedTask

TASKS = "flux2://tasks"
PAGE_TASKS = 50
JSON_TYPE = "application/json"
TITLE_CHARS = 60


def entries(tasks: Iterable[ListedTask]) -> list[dict[str, object]]:
    """Return each task and its image as a list of resources has them."""
    return [entry for task in tasks for entry in _entries(task)]


def cursor(tasks: Sequence[ListedTask]) -> str | None:
    """Return the cursor of the page that follows one with these tasks; None if none follows."""
    if len(tasks) < PAGE_TASKS:
        return None
    import base64

    return base64.urlsafe_b64encode(tasks[-1].key.encode()).decode()


def image_uri(ident: str) -> str:
    """Return the URI of the resource with the image of a task."""
    return f"flux2://images/{ident}"


def _entries(task: ListedTask) -> list[dict[str, object]]:
    ident = task.task_id or task.key
    title = " ".join(task.prompt.split())[:TITLE_CHARS] or ident
    annotations = {"lastModified": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(task.at))}
    listed: dict[str, object] = {"name": f"task-{ident}", "title": title, "uri": f"{TASKS}/{ident}"}
    found = [listed | {"mimeType": JSON_TYPE, "annotations": annotations}]
    if task.image is not None:
        path, kind, size = task.image
        image: dict[str, object] = {"name": os.path.basename(path), "title": title, "uri": image_uri(ident)}
        found.append(image | {"mimeType": kind, "size": size, "annotations": annotations})
    return found
