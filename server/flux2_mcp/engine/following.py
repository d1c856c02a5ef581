"""The first step of a task that works on another's image: wait for that image, then send it to RunAPI as the source.

All tasks of a call stand in the journal before its first is sent, so any process can go on where one has died.
"""

from __future__ import annotations

from msgspec.structs import replace

from flux2_mcp.domain import finishing
from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import Event, State
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.source_images import SourceImages
from flux2_mcp.engine.steps import LeasedTask, TaskSteps
from flux2_mcp.errors import (
    ApiError,
    AuthenticationError,
    BudgetError,
    Flux2Error,
    InsufficientCreditsError,
    InvalidRequestError,
    together,
)
from flux2_mcp.journal.records import TaskRecord

FOLLOW_SECONDS = 1.0
"""The interval at which it is checked whether the step before is delivered. In the same process, its end is told sooner."""
NO_PICTURE = "The step before this one made no picture, so this was not sent"
NOT_GIVEN = "The picture of the step before could not be given to RunAPI, so this was not sent"
NOT_IN_TIME = (
    "More than a day went by before its turn, so this was not sent and is not charged. A new call with the same request goes"
    " on from the picture that is there."
)


class Following:
    """Gives a task that follows another its source.

    Args:
        seam: The journal and the clocks.
        steps: Records what happens to a task.
        sources: Sends images to RunAPI.
        caps: The caps in force.
    """

    def __init__(self, seam: Seam, steps: TaskSteps, sources: SourceImages, *, caps: Caps) -> None:
        self._tasks = seam.journal.tasks
        self._monotonic = seam.monotonic
        self._now = seam.now
        self._steps = steps
        self._sources = sources
        self._caps = caps

    async def supply(self, leased: LeasedTask) -> None:
        """Give a task its source if the task that it follows is delivered. Nothing of it was sent yet."""
        record = leased.record
        before = next((step for step in await self._tasks.led_to([record]) if step.key == record.follows), None)
        if self._steps.too_old(record):
            await self._steps.advance(leased, Event.REFUSED, error=NOT_IN_TIME)
        elif before is not None and before.state.unfinished:
            leased.not_before = self._monotonic() + FOLLOW_SECONDS
        elif before is None or before.state is not State.DELIVERED:
            await self._steps.advance(leased, Event.REFUSED, error=_why(before))
        else:
            await self._supply(leased, before)

    async def _supply(self, leased: LeasedTask, before: TaskRecord) -> None:
        record = leased.record
        try:
            url, source = await self._sources.of_step(before)
            if finishing.is_transparent([before.request]) or any(each.transparent for each in before.request.sources):
                # If it is not, this step's picture is not what was asked for, either.
                source = replace(source, transparent=True)
            request = replace(record.request, source_image_urls=(url,), sources=(source,))
            leased.record = await self._tasks.supply(record, request, at=self._now(), caps=self._caps)
        except BudgetError as exc:
            leased.trouble = exc
            await self._steps.advance(leased, Event.REFUSED, error=together([exc.message, exc.next_step]))
        except Flux2Error as exc:
            if _lasts(exc):
                leased.trouble = exc
                await self._steps.advance(leased, Event.REFUSED, error=f"{NOT_GIVEN}: {exc.message}")
            else:
                self._steps.put_off(leased, exc)
                await self._steps.offer(leased, exc)
        else:
            leased.recover()


def _why(before: TaskRecord | None) -> str:
    """Why a step was not sent, whose step before has ended without a picture."""
    if before is None or before.error is None:
        return f"{NO_PICTURE}."
    unsent = before.state is State.REJECTED and not before.started
    return before.error if unsent and before.follows is not None else f"{NO_PICTURE}: {before.error}"


def _lasts(exc: Flux2Error) -> bool:
    """Whether another try to send a source would end in the same error."""
    if isinstance(exc, AuthenticationError | InsufficientCreditsError):
        return False
    return isinstance(exc, InvalidRequestError) or (isinstance(exc, ApiError) and not exc.retryable)
