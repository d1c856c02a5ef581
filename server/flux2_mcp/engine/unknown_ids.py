"""Looks for a task at RunAPI whose id the journal does not have: it was made elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from flux2_mcp.domain import catalog, finishing
from flux2_mcp.domain.models import MAKING, Action, ImageRequest
from flux2_mcp.errors import Flux2Error, NotFoundError, shortened
from flux2_mcp.runapi.wire import result_path

if TYPE_CHECKING:  # loaded with the first call
    from flux2_mcp.runapi.client import RunApi


async def at_runapi(
    api: RunApi, task_id: str, missing: Callable[[str], Awaitable[NotFoundError]]
) -> tuple[ImageRequest, str | None]:
    """Return what is known of the task's request, and where it is polled; see `TaskRecord.location`.

    Args:
        api: RunAPI.
        task_id: The id.
        missing: Returns the error if RunAPI does not know it either.

    Raises:
        NotFoundError: See `missing`.
    """
    cause: Flux2Error | None = None
    # Of a hybrid task that was made elsewhere, the action is not known, and nothing depends on it.
    places: list[tuple[ImageRequest, str | None]] = [
        *((_unknown(action), None) for action in MAKING),
        (_unknown(Action.TEXT_TO_IMAGE), result_path(task_id)),
        *((finishing.unknown(model), None) for model in catalog.finishers().values()),
    ]
    for request, location in places:
        try:
            await api.get(request.action, task_id, line=catalog.line(request), location=location)
        except NotFoundError as exc:
            cause = exc
        else:
            return request, location
    raise await missing(task_id) from cause


def not_yours(ident: str) -> NotFoundError:
    """Return the error for an id that a person has no task with: it does not say whether another person has."""
    return NotFoundError(
        f"You have no task {shortened(ident)!r}.", status=404, next_step="check_task without task_ids lists your tasks."
    )


def _unknown(action: Action) -> ImageRequest:
    """Return the request of a task that was made elsewhere: RunAPI does not return it."""
    return ImageRequest(action=action, variant="unknown", model="unknown", prompt="")
