"""Look at tasks, and wait for them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flux2_mcp.api.errors import TaskTimeoutError
from flux2_mcp.api.fields import PathText, absolute, not_whole, seconds, worded
from flux2_mcp.domain import times
from flux2_mcp.domain.lifecycle import STATUSES, TaskStatus
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.waiting import with_steps
from flux2_mcp.errors import InvalidRequestError, Problem, shortened

if TYPE_CHECKING:  # results are loaded with the first answer
    from flux2_mcp.api.results import Task

MAX_RECENT = 1000


class AsyncTasks:
    """What was made, by any program with the same FLUX2_HOME and account. Nothing here costs anything."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def wait(self, ids: Iterable[str], *, timeout: float | None = None) -> tuple[Task, ...]:  # noqa: ASYNC109  # as in `run`
        """Wait until all these tasks have ended or the time is over; return them in this order, each once.

        A task that failed is returned too. One that waits for help, such as for another key, is not waited for.

        Args:
            ids: RunAPI's ids, or idempotency keys.
            timeout: Seconds; None: until all have ended.

        Raises:
            NotFoundError: Neither the journal nor RunAPI knows an id.
        """
        from flux2_mcp.api import results

        with worded():
            wanted, most = _ids(ids), seconds(timeout)
            return results.named(await self._service.check(wanted, wait_seconds=most), wanted) if wanted else ()

    async def as_completed(self, ids: Iterable[str], *, timeout: float | None = None) -> AsyncIterator[Task]:  # noqa: ASYNC109  # as in `run`
        """Yield each of these tasks as it ends, each once. The arguments are those of `wait`.

        Raises:
            NotFoundError: As `wait`.
            TaskTimeoutError: The time is over; `task` is the first that has not ended.
        """
        from flux2_mcp.api import results

        with worded():
            left, until = _ids(ids), time.monotonic() + seconds(timeout)
        while left:
            with worded():
                most = max(0.0, until - time.monotonic())
                outcome = await self._service.check(left, wait_seconds=most, first=True)
                settled = {report.record.key for report in with_steps(outcome.tasks) if report.settled}
                tasks = results.named(outcome, left)
                ended = [task for task in tasks if task.idempotency_key in settled]
                if not ended:
                    raise TaskTimeoutError(tasks[0])
            done = {name for task in ended for name in (task.id, task.idempotency_key)}
            left = [ident for ident in left if ident not in done]
            for task in ended:
                yield task

    async def recent(
        self,
        *,
        limit: int = 20,
        status: TaskStatus | None = None,
        since: str | datetime | None = None,
        workspace: PathText | None = None,
    ) -> tuple[Task, ...]:
        """List tasks from the journal, newest first.

        Args:
            limit: 1 to 1000.
            status: Only these.
            since: Only those made since then: an age such as "24h", ISO 8601, or an aware datetime.
            workspace: Only those that were asked for in this folder.

        Raises:
            InvalidRequestError: An argument is not usable.
        """
        from flux2_mcp.api import results

        with worded():
            wrong = [*not_whole("limit", limit, MAX_RECENT)]
            if status is not None and status not in STATUSES.values():
                text = f"got {shortened(str(status))!r}; allowed: {', '.join(dict.fromkeys(STATUSES.values()))}."
                wrong.append(Problem("status", text))
            if isinstance(since, datetime) and since.tzinfo is None:
                wrong.append(Problem("since", "is a datetime without a time zone."))
            if wrong:
                raise InvalidRequestError(*wrong)
            return results.tasks(
                await self._service.recent(
                    limit=limit,
                    states=None if status is None else [state for state, word in STATUSES.items() if word == status],
                    since=times.since(since, datetime.now(UTC)) if isinstance(since, str) else since,
                    workspace=None if workspace is None else absolute(workspace),
                )
            )


def _ids(given: Iterable[str]) -> list[str]:
    ids: list[object] = [] if isinstance(given, str | bytes) else [*given]
    named = [each for each in ids if isinstance(each, str)]
    if isinstance(given, str | bytes) or named != ids:
        raise InvalidRequestError(Problem("ids", "must be a list of tasks' ids."))
    return named
