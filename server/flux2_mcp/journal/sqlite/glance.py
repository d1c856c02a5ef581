"""A glance at the journal, of a process that does not work on it: is there work, and which tasks are the newest?

It loads none of what works on records, since the server that sleeps calls it (`server.transports.sleep`).
"""

from __future__ import annotations

import json

from flux2_mcp.journal.listed import ListedTask
from flux2_mcp.journal.owners import LEASE_SECONDS

TYPE_CHECKING = False  # as in `names`
if TYPE_CHECKING:
    from collections.abc import Mapping

    from flux2_mcp.journal.sql.store import Read, Row, Value

OPEN = "task INDEXED BY task_unfinished"
"""The task table, for queries of unfinished tasks. All indices begin with the account, and without statistics SQLite
may take any of them: then it would read a journal of years whole for a few open tasks."""
IS_OPEN = "state IN ('intent', 'submitted', 'processing', 'completed')"
"""The condition of the index `task_unfinished`, word for word: otherwise SQLite can't use that index. These are
`lifecycle.UNFINISHED`."""
UNHELD = "lease_until IS NULL OR lease_until NOT BETWEEN :now AND :until"
"""The lease is free or has lapsed. A lease far in the future was taken before the machine started anew."""
OLDEST = 0.0
LATEST = 200_000_000_000.0
"""Seconds since 1970: outside of these, a time is none that was written here. The last is in the year 8307."""
MAX_BYTES = 2**53

_HOLDERS = (
    f"SELECT owner, sum({UNHELD}) AS free, min(lease_until) AS first FROM {OPEN}"
    f" WHERE {IS_OPEN} AND (account = 'sandbox') = :sandbox GROUP BY owner"
)
_NEWEST = (
    "SELECT key, task_id, iif(json_valid(request), request ->> 'prompt', NULL) AS prompt, images, created_at,"
    " completed_at FROM task WHERE {seen}"
    " AND (:before IS NULL OR n < (SELECT n FROM task WHERE {seen} AND key = :before))"
    " ORDER BY n DESC LIMIT :limit"
)


class Holders:
    """Who holds the open tasks.

    Args:
        free: Whether no process holds one of them.
        first: When the first of the leases ends, on the machine's monotonic clock; None without leases.
        owners: The processes that hold leases.
    """

    __slots__ = ("first", "free", "owners")

    def __init__(self, *, free: bool, first: float | None, owners: tuple[str, ...]) -> None:
        self.free = free
        self.first = first
        self.owners = owners


def holders(read: Read, now: float, *, sandbox: bool) -> Holders:
    """Who holds the open tasks: the sandbox's, or all the others', whatever their key and their service.

    Another key's tasks count, since they may be of the same account of RunAPI, and only RunAPI knows: see `accounts`.
    """
    rows = read(_HOLDERS, {"now": now, "until": now + LEASE_SECONDS, "sandbox": sandbox})
    ends = [row["first"] for row in rows if isinstance(row["first"], float)]
    return Holders(
        free=any(row["free"] for row in rows),
        first=min(ends, default=None),
        owners=tuple(row["owner"] for row in rows if isinstance(row["owner"], str)),
    )


def newest(
    read: Read, values: Mapping[str, Value], *, limit: int, before: str | None, seen: str = "account = :account"
) -> tuple[ListedTask, ...]:
    """The newest tasks, newest first.

    Args:
        read: Runs a query.
        values: The values of `seen`.
        limit: The maximum number of tasks.
        before: A key: only tasks made before it.
        seen: SQL for the tasks that are seen, here all of an account: see `sql.people`.
    """
    rows = read(_NEWEST.format(seen=seen), {**values, "before": before, "limit": limit})
    return tuple(listed(row, row["prompt"]) for row in rows)


def listed(row: Row, prompt: object) -> ListedTask:
    """A task of a list, from its row and its prompt."""
    task_id, ended = row["task_id"], _time(row["completed_at"])
    return ListedTask(
        key=str(row["key"]),
        task_id=task_id if isinstance(task_id, str) else None,
        prompt=prompt if isinstance(prompt, str) else "",
        at=next((at for at in (ended, _time(row["created_at"])) if at is not None), OLDEST),
        image=_image(row["images"]),
    )


def _time(seconds: object) -> float | None:
    return seconds if isinstance(seconds, float) and OLDEST <= seconds <= LATEST else None


def _image(text: object) -> tuple[str, str, int] | None:
    """Path, MIME type and bytes of the first image in a record's JSON; None if there is none that can be read."""
    try:
        image = json.loads(str(text))[0]
        path, kind, size = image["path"], image["mime_type"], image["size_bytes"]
        f"{path}{kind}".encode()
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    good = isinstance(path, str) and "\0" not in path and isinstance(kind, str) and type(size) is int
    return (path, kind, size) if good and 0 <= size <= MAX_BYTES else None
