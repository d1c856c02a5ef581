"""What `flux2-mcp doctor` says of the tasks that have not ended. It changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flux2_mcp.domain.lifecycle import UNFINISHED, State
from flux2_mcp.journal.contract import LEASE_SECONDS
from flux2_mcp.journal.records import Inspection, service_of
from flux2_mcp.journal.sql import accounts, task_rows
from flux2_mcp.journal.sql.fragments import among
from flux2_mcp.journal.sql.money import lost
from flux2_mcp.journal.sqlite import names

if TYPE_CHECKING:
    from flux2_mcp.journal.sql.store import Read

UNENDED = f"SELECT * FROM task WHERE NOT ({among(frozenset(State) - UNFINISHED)})"


def inspect(read: Read, account: str, now: float) -> Inspection:
    """Inspect the tasks that have not ended.

    Args:
        read: Runs a query on the journal, which is sound.
        account: A name made from the service and the key; see `engine.backend.account_name`.
        now: The time for leases; see `Store.now`.
    """
    unread = [record for record in task_rows.records(read(UNENDED)) if not record.readable]
    foreign = accounts.foreign_tasks(account, now, now + LEASE_SECONDS, read)
    by_service: dict[str, list[str]] = {}
    for record in foreign:
        by_service.setdefault(service_of(accounts.spelled(record.account)), []).append(record.task_id or record.key)
    here = by_service.pop(service_of(account), [])
    return Inspection(
        tuple(record.task_id or record.key for record in unread),
        tuple(here),
        names.known(account, read),
        by_service,
        lost(account, datetime.now(UTC), read),
    )
