"""However long a journal is: what is asked of it often reads no more of it. Counted in SQLite's own steps, not in seconds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import anyio
import pytest

from bench.ledger import Ledger, intend
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.journal.records import TaskChange
from flux2_mcp.journal.sqlite.store import SqliteJournal
from tests.support.journals import apply
from tests.support.rows import rows

pytestmark = pytest.mark.anyio
SMALL, LARGE = 1_000, 10_000
"""Tasks. Of each kind both have the 200 whose durations are read."""
EVERY = 10
AT = datetime.now(UTC)

Step = Callable[[SqliteJournal, str], Awaitable[object]]
STEPS: dict[str, Step] = {
    "claim": lambda journal, _: journal.leases.claim(),
    "unfinished": lambda journal, _: journal.leases.unfinished(),
    "durations": lambda journal, _: journal.history.durations(),
    "recent": lambda journal, _: journal.tasks.recent(limit=10),
    "find": lambda journal, key: journal.tasks.find([f"remote-{key}"]),
    "intend": lambda journal, key: intend(journal, f"{key}-again", AT),
    "apply": lambda journal, key: apply(journal, key, Event.PROCESSING, TaskChange(at=AT)),
    "told": lambda journal, key: journal.tasks.mark_reported([key], at=AT),
    "nudge": lambda journal, key: journal.callbacks.mark(f"https://example.com/{key}"),
    "nudged": lambda journal, _: journal.callbacks.take(),
    "release": lambda journal, _: journal.leases.release(),
}


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> list[Ledger]:
    found = [Ledger(tmp_path_factory.mktemp(str(size)), size) for size in (SMALL, LARGE)]
    for ledger in found:
        anyio.run(ledger.fill)
    return found


async def instructions(ledger: Ledger, name: str) -> int:
    """SQLite's, about, that a step takes beside one open task."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    journal = ledger.journal()
    try:
        await intend(journal, name, AT)
        await apply(journal, name, Event.ACCEPTED, TaskChange(at=AT, task_id=f"remote-{name}"))
        await journal.file.run(lambda database: database.connection.set_progress_handler(tick, EVERY))
        await STEPS[name](journal, name)
        await journal.file.run(lambda database: database.connection.set_progress_handler(None, 0))
    finally:
        await journal.close()
    return count * EVERY


@rows("name", STEPS)
async def test_a_step_reads_no_more_of_a_journal_ten_times_as_long(name: str, ledgers: list[Ledger]) -> None:
    few, many = [await instructions(ledger, name) for ledger in ledgers]
    assert many <= 1.2 * few + 5 * EVERY
