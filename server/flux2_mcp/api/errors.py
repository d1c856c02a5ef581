"""The errors that only the client raises. All others are in `flux2_mcp.errors`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux2_mcp.errors import Flux2Error, together
from flux2_mcp.errors import TaskFailedError as RunApiTaskFailedError

if TYPE_CHECKING:  # results are loaded with the first answer
    from flux2_mcp.api.results import Task


class TaskFailedError(RunApiTaskFailedError):
    """The task failed, or its image can't be had any more. The message has the files that the steps before it have made.

    Args:
        task: The task.
        cost: As in `Flux2Error`.
        next_step: As in `Flux2Error`.
    """

    def __init__(self, task: Task, cost: str | None = None, next_step: str | None = None) -> None:
        message = together([task.error or f"The task {task.id} failed.", _kept(task)])
        super().__init__(message, cost=cost, next_step=next_step)
        self.task = task


class TaskTimeoutError(Flux2Error, TimeoutError):
    """The time is over before the task ended. The task goes on.

    Args:
        task: The task as it is now.
    """

    code = "task_timeout"
    retryable = True
    exit_code = 5
    default_cost = "The task goes on, and is charged when it completes."
    default_next = "Wait on with client.tasks.wait([error.task.id]), which costs nothing."

    def __init__(self, task: Task) -> None:
        super().__init__(f"The time is over, and the task {task.id} is still {task.status}.")
        self.task = task


class ClosedError(Flux2Error, RuntimeError):
    """The client is closed, or was not opened."""

    code = "closed"
    default_cost = "Tasks that were made before go on in the next client, or in another process."
    default_next = "Make a new client."


def _kept(task: Task) -> str | None:
    """Say which files the steps of a task have made; None if there are none."""
    files = [f"{step.model}: {image.path}" for step in task.steps for image in step.images if image.path is not None]
    return f"The pictures of the steps before are kept. {'; '.join(files)}." if files else None
