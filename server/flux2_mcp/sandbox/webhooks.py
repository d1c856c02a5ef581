"""Callbacks: a task that ended is POSTed to its `callback_url`, by the first process of the folder that claims it.

Only loopback addresses are called: the sandbox never leaves the machine.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread

from flux2_mcp.domain.urls import is_loopback
from flux2_mcp.sandbox import tasks
from flux2_mcp.sandbox.state import SandboxState
from flux2_mcp.sandbox.tasks import SandboxTask

MAX_TRIES = 3
ANSWER_SECONDS = 5.0
CLAIM_SECONDS = 30.0
"""A claim lapses after this time if its process dies. It is longer than a try can take."""
RETRY_SECONDS = 1.0
"""The wait before the second try, at speed 1; the wait before the third is twice as long."""
LOOK_SECONDS = 1.0
"""How often to look for callbacks that other processes left undelivered."""

logger = logging.getLogger(__name__)


def deliverable(url: str | None) -> bool:
    """True for an address that the sandbox will call; false for None, and for an address beyond this machine."""
    if url is None:
        return False
    parts = urlsplit(url)
    if parts.scheme == "http" and is_loopback(parts.hostname):
        return True
    logger.debug("callback skipped: the sandbox calls http on loopback only")
    return False


async def deliver(state: SandboxState, wake: asyncio.Event, shown: Callable[[SandboxTask], dict[str, Any]]) -> None:
    """Deliver callbacks when they are due, until cancelled.

    Args:
        state: The folder.
        wake: Set when a task was made or a try has failed: the next callback may be due earlier.
        shown: The JSON of a task.
    """
    async with asyncio.TaskGroup() as group:
        while True:
            wake.clear()
            due = await anyio.to_thread.run_sync(_next, state)
            wait = LOOK_SECONDS if due is None else min(due - state.clock(), LOOK_SECONDS)
            if wait > 0:
                with anyio.move_on_after(wait):
                    await wake.wait()
            elif (task := await anyio.to_thread.run_sync(_claim, state)) is not None:
                group.create_task(_attempt(state, task, shown(task), wake))


def _next(state: SandboxState) -> float | None:
    due = state.database.read("SELECT min(callback_due) AS due FROM task WHERE callback_due IS NOT NULL")[0]["due"]
    return None if due is None else float(due)


def _claim(state: SandboxState) -> SandboxTask | None:
    """Claim the task that is due first, for `CLAIM_SECONDS`; no other process gets it in that time."""
    now = state.clock()
    with state.database.write():
        sql = "SELECT id FROM task WHERE callback_due <= ? ORDER BY callback_due LIMIT 1"
        for row in state.database.read(sql, (now,)):
            sql = "UPDATE task SET callback_due = ?, callback_tries = callback_tries + 1 WHERE id = ?"
            state.database.execute(sql, (now + CLAIM_SECONDS, row["id"]))
            return tasks.find(state, row["id"])
    return None


async def _attempt(state: SandboxState, task: SandboxTask, body: dict[str, Any], wake: asyncio.Event) -> None:
    # The thread is abandoned when the server closes: it holds only a socket, and the claim lapses.
    taken = await anyio.to_thread.run_sync(_post, task, body, abandon_on_cancel=True)
    again = not taken and task.callback_tries < MAX_TRIES
    wait = RETRY_SECONDS * 2 ** (task.callback_tries - 1) / state.speed
    await anyio.to_thread.run_sync(_settle, state, task, state.clock() + wait if again else None)
    wake.set()


def _post(task: SandboxTask, body: dict[str, Any]) -> bool:
    """One POST; true for a 2xx answer. Redirects are not followed."""
    parts = urlsplit(task.body["callback_url"])
    target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    headers = {"Content-Type": "application/json", "X-RunAPI-Task-Id": task.id, "Connection": "close"}
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=ANSWER_SECONDS)
    try:
        connection.request("POST", target, json.dumps(body), headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError) as exc:
        logger.debug("callback of task %s failed: %s", task.id, type(exc).__name__)
        return False
    finally:
        connection.close()
    logger.debug("callback of task %s answered %d", task.id, status)
    return status // 100 == 2  # noqa: PLR2004  # the 2xx


def _settle(state: SandboxState, task: SandboxTask, due: float | None) -> None:
    state.database.execute("UPDATE task SET callback_due = ? WHERE id = ?", (due, task.id))
