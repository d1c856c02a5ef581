"""What doctor looks at in the journal beside its soundness; changes nothing in it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from flux2_mcp.journal.sqlite import holders, task_rows
from flux2_mcp.journal.sqlite.migrations import MIGRATIONS
from flux2_mcp.journal.sqlite.shared import LEASE_SECONDS, lost
from flux2_mcp.system.sqlite_file import reading

UNENDED = "SELECT * FROM task WHERE state NOT IN ('delivered', 'failed', 'rejected', 'undelivered', 'unknown')"


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found, as ids of tasks.

    `unread` are records that can't be read, `strangers` open tasks that another key has made and nobody looks after, `away`
    those of other services, by service. `lost`: what closes the day, see `Spent.lost`. `known`: it is written down which account the key belongs to.
    """

    unread: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()
    known: bool = False
    away: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


def inspect(path: Path, account: str) -> Inspection:
    """Look at what has not ended.

    Args:
        path: The file, which is sound.
        account: Names the service and the key; see `SqliteJournal`.

    Raises:
        sqlite3.Error: The file can't be read.
    """
    with reading(path) as read:
        if read("SELECT count(*) FROM migration")[0][0] < len(MIGRATIONS):
            return Inspection()  # of an older version, and nobody has opened it since
        now = time.monotonic()
        unread = [entry for entry in task_rows.entries(read(UNENDED)) if not entry.readable]
        strangers = holders.strangers(account, now, now + LEASE_SECONDS, read)
        by_service: dict[str, list[str]] = {}
        for entry in strangers:
            by_service.setdefault(holders.service_of(holders.spelled(entry.account)), []).append(
                entry.task_id or entry.key
            )
        here = by_service.pop(holders.service_of(account), [])
        return Inspection(
            tuple(entry.task_id or entry.key for entry in unread),
            tuple(here),
            holders.known(account, read),
            by_service,
            lost(account, datetime.now(UTC), read),
        )
