"""Make and finish images: `text_to_image`, `remix_image`, `remove_background` and `upscale_image`.

Each has `run`, `create` and `get`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from flux2_mcp.api.errors import TaskFailedError, TaskTimeoutError
from flux2_mcp.api.fields import (
    Order,
    RemixImageFields,
    RemoveBackgroundFields,
    TextToImageFields,
    UpscaleImageFields,
    order,
    seconds,
    worded,
)
from flux2_mcp.api.tasks import AsyncTasks
from flux2_mcp.domain import budget
from flux2_mcp.domain.lifecycle import UNPAID, State
from flux2_mcp.domain.models import Action
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.submission import Terms
from flux2_mcp.engine.waiting import TaskReport

if TYPE_CHECKING:  # results are loaded with the first answer
    from flux2_mcp.api.results import Task

CLIENT = "Python"
"""The name of this face in the journal."""
_STATE = "State max_cost_usd, the most it may cost."
_LOST: Mapping[State, tuple[str, str]] = {
    State.REJECTED: ("Nothing was charged.", "Change the request as the message says, under a new idempotency_key."),
    State.UNDELIVERED: ("It is charged.", "Do what the message says."),
    State.UNKNOWN: ("Whether it is charged is not known.", "Do what the message says."),
}
"""What a task cost that ended without an image, and what to do. A failed one: see `errors.TaskFailedError`."""
_GO_ON = "Make the same call again: it goes on from the pictures that are there, and pays for the missing steps only."
_GO_ON_WITHOUT_KEY = (
    "Make the same call again without idempotency_key: it goes on from the pictures that are there, and pays for the"
    " missing steps only. Under this key it stays failed."
)


class _AsyncAction:
    def __init__(self, service: Service, action: Action) -> None:
        self._service = service
        self._action = action

    async def get(self, task_id: str) -> Task:
        """Look at a task once. Costs nothing.

        Args:
            task_id: RunAPI's id, or the idempotency key.

        Raises:
            NotFoundError: Neither the journal nor RunAPI knows it.
        """
        [task] = await AsyncTasks(self._service).wait([task_id], timeout=0)
        return task

    async def _run(self, given: Mapping[str, Any], within: float | None) -> Task:
        with worded(self._action):
            wanted = order(self._action, given)
            report, task = await self._make(wanted, seconds(within))
            state = report.record.state
            if state is State.DELIVERED:
                return task
            if state in UNPAID and _has_steps(report):
                raise TaskFailedError(
                    task, _charged(task), _GO_ON if wanted.idempotency_key is None else _GO_ON_WITHOUT_KEY
                )
            if state is State.FAILED:
                raise TaskFailedError(task)
            if state in _LOST:
                raise TaskFailedError(task, *_LOST[state])
            raise (report.trouble if report.settled and report.trouble else TaskTimeoutError(task))

    async def _create(self, given: Mapping[str, Any]) -> Task:
        with worded(self._action):
            return (await self._make(order(self._action, given), 0.0))[1]

    async def _make(self, wanted: Order, wait_seconds: float) -> tuple[TaskReport, Task]:
        """Make one picture, and wait for it that long."""
        until = time.monotonic() + wait_seconds
        service = self._service
        folders = [] if service.settings.workspace is None else [Path(service.settings.workspace)]
        terms = Terms(
            save_to=wanted.save_to,
            overwrite=wanted.overwrite,
            max_cost_usd=wanted.max_cost_usd,
            idempotency_key=wanted.idempotency_key,
        )
        checked = await service.request(wanted.args, folders=folders, terms=terms)
        offer = await service.offer(checked, max_cost_usd=wanted.max_cost_usd, idempotency_key=wanted.idempotency_key)
        if (needed := offer.to_ask) is not None:
            raise needed.refused(
                "There is no user to ask.", f"State max_cost_usd={needed.stated}." if needed.quoted_usd else _STATE
            )
        outcome = await service.generate(
            offer,
            approved=False,
            wait_seconds=max(0.0, until - time.monotonic()),
            client=CLIENT,
            workspace=next(iter(folders), None),
            save_to=wanted.save_to,
            overwrite=wanted.overwrite,
            report_refusal=True,
        )
        [report] = outcome.tasks
        refused = [each for each in (*report.steps, report) if each.record.state is State.REJECTED and each.trouble]
        if refused and refused[0].trouble is not None and not _has_steps(report):
            raise refused[0].trouble
        from flux2_mcp.api import results

        return report, results.tasks(outcome)[0]


def _has_steps(report: TaskReport) -> bool:
    """Whether a step before the task has made its picture, which is there and paid."""
    return any(step.record.state is State.DELIVERED for step in report.steps)


def _charged(task: Task) -> str:
    """What a picture cost whose last steps were not made."""
    total = task.total_charged_usd
    made = "are charged" if total is None else f"were charged {budget.dollars(total)}"
    return f"The steps that made a picture {made}. The others are not charged."


class AsyncTextToImage(_AsyncAction):
    """Images from a prompt: `POST /api/v1/flux_2/text_to_image`."""

    async def run(self, *, timeout: float | None = None, **fields: Unpack[TextToImageFields]) -> Task:  # noqa: ASYNC109  # the task goes on
        """Make an image and wait until its checked file is on disk.

        Args:
            timeout: Seconds; None: until it has ended. RunAPI's first answer is waited for at least 10 seconds.
            fields: See `TextToImageFields`.

        Raises:
            InvalidRequestError: Arguments break the contract; all are named. Nothing was sent.
            BudgetError: It would cost more than `max_cost_usd` or a cap allows, or more than FLUX2_CONFIRM_USD and
                `max_cost_usd` is not given. Nothing was sent.
            ApiError: RunAPI refused it: AuthenticationError, InsufficientCreditsError, RejectedError and others.
            TaskFailedError: RunAPI took it, and it failed, or its image can't be had; `task` has the rest. With
                `background` or `upscale` also if a later step was not made; the message has the files that are there,
                and the same call goes on from them.
            TaskTimeoutError: The time is over; the task goes on, and `task` has its id.
            JournalError: FLUX2_HOME is not writable. Nothing was sent.
        """
        return await self._run(fields, timeout)

    async def create(self, **fields: Unpack[TextToImageFields]) -> Task:
        """Make an image; return when RunAPI has answered with an id. After 10 seconds, `error` says what holds it up.

        Args and errors are those of `run`; a task that fails later is seen by `get` and `tasks.wait`.
        """
        return await self._create(fields)


class AsyncRemixImage(_AsyncAction):
    """Images from other images and a prompt: `POST /api/v1/flux_2/remix_image`."""

    async def run(self, *, timeout: float | None = None, **fields: Unpack[RemixImageFields]) -> Task:  # noqa: ASYNC109  # the task goes on
        """Remix images and wait until the checked file is on disk.

        Args:
            timeout: Seconds; None: until it has ended. RunAPI's first answer is waited for at least 10 seconds.
            fields: See `RemixImageFields`. Of a local file only the pixels are sent.

        Raises as `AsyncTextToImage.run`. InvalidRequestError also for a source that can't be read.
        """
        return await self._run(fields, timeout)

    async def create(self, **fields: Unpack[RemixImageFields]) -> Task:
        """Remix images; return when RunAPI has answered with an id. See `AsyncTextToImage.create`."""
        return await self._create(fields)


class AsyncRemoveBackground(_AsyncAction):
    """Pictures cut out: `POST /api/v1/recraft/remove_background`."""

    async def run(self, *, timeout: float | None = None, **fields: Unpack[RemoveBackgroundFields]) -> Task:  # noqa: ASYNC109  # the task goes on
        """Cut out the subject of a picture and wait until the checked file, with a transparent ground, is on disk.

        Args:
            timeout: Seconds; None: until it has ended. RunAPI's first answer is waited for at least 10 seconds.
            fields: See `RemoveBackgroundFields`. `save_to` is .png, .webp or a folder: a JPEG has no transparent ground.

        Raises as `AsyncTextToImage.run`. InvalidRequestError also for a source that can't be read.
        """
        return await self._run(fields, timeout)

    async def create(self, **fields: Unpack[RemoveBackgroundFields]) -> Task:
        """Cut out; return when RunAPI has answered with an id. See `AsyncTextToImage.create`."""
        return await self._create(fields)


class AsyncUpscaleImage(_AsyncAction):
    """Pictures enlarged: `POST /api/v1/topaz/upscale_image`, or recraft's endpoint of that name."""

    async def run(self, *, timeout: float | None = None, **fields: Unpack[UpscaleImageFields]) -> Task:  # noqa: ASYNC109  # the task goes on
        """Enlarge a picture and wait until the checked file is on disk.

        Args:
            timeout: Seconds; None: until it has ended. RunAPI's first answer is waited for at least 10 seconds.
            fields: See `UpscaleImageFields`. The source has at most 64 megapixels, the result at most 300.

        Raises as `AsyncTextToImage.run`. InvalidRequestError also for a source that can't be read.
        """
        return await self._run(fields, timeout)

    async def create(self, **fields: Unpack[UpscaleImageFields]) -> Task:
        """Enlarge; return when RunAPI has answered with an id. See `AsyncTextToImage.create`."""
        return await self._create(fields)
