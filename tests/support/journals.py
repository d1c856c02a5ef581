"""What tests of the journal share: requests and intents, a clock to turn by hand, journals that are closed at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.domain.models import ImageRequest
from flux2_mcp.journal.records import Intent, IntentResult, TaskChange, TaskRecord
from flux2_mcp.journal.sqlite.store import SqliteJournal

AT = datetime(2026, 11, 20, 10, 0, 0, 250_000, tzinfo=UTC)
ACCOUNT = "runapi.ai:0123456789ab"
NO_CAPS = Caps()
CAT = catalog.request(prompt="a cat")


class Clock:
    """A monotonic clock that stands still until it is told otherwise. Seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Home:
    """One FLUX2_HOME: `journal(owner)` opens it as another process would."""

    def __init__(self, path: Path, stack: AsyncExitStack) -> None:
        self.path = path
        self.clock = Clock()
        self._stack = stack

    def journal(self, owner: str = "a", *, account: str = ACCOUNT, clock: Clock | None = None) -> SqliteJournal:
        journal = SqliteJournal(self.path, account, owner, monotonic=clock or self.clock)
        self._stack.push_async_callback(journal.close)
        return journal


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Home]:
    async with AsyncExitStack() as stack:
        yield Home(path, stack)


def intent(key: str = "k", request: ImageRequest = CAT, usd: str | None = "0.05", **more: Any) -> Intent:  # noqa: ANN401  # Intent's own fields
    amount = None if usd is None else Decimal(usd)
    given: dict[str, Any] = {"quoted_usd": amount, "reserved_usd": amount, "workspace": "/work", "session": "s"} | more
    return Intent(key=key, request=request, **given)


async def intend(
    journal: SqliteJournal,
    *intents: Intent,
    at: datetime = AT,
    caps: Caps = NO_CAPS,
    join: bool = False,
    in_flight: int = 100,
) -> IntentResult:
    return await journal.tasks.intend(intents, at=at, caps=caps, join=join, in_flight=in_flight)


async def new(journal: SqliteJournal, *intents: Intent, **more: Any) -> tuple[TaskRecord, ...]:  # noqa: ANN401  # as intend
    """Intents that are written down, as they must be here."""
    intended = await intend(journal, *intents, **more)
    assert (intended.over, intended.joined) == (None, False)
    return intended.records


async def apply(journal: SqliteJournal, key: str, event: Event, change: TaskChange) -> TaskRecord:
    """A step of a task as the journal has it, by the process that holds it."""
    (entry,) = await journal.tasks.find([key])
    return await journal.tasks.apply(entry, event, change)


async def start(journal: SqliteJournal, key: str, *, in_flight: int, at: datetime = AT) -> TaskRecord:
    (entry,) = await journal.tasks.find([key])
    return await journal.tasks.start(entry, at=at, in_flight=in_flight)


async def failed(home: Path, account: str, count: int) -> list[str]:
    """So many tasks that have all failed, written down as another process would; their ids, oldest first."""
    async with opened(home) as there:
        journal = there.journal(account=account)
        for number in range(count):
            await new(journal, intent(f"k{number}"))
            await steps(journal, f"k{number}", Event.ACCEPTED, Event.FAILED)
    return [f"task-k{number}" for number in range(count)]


async def steps(
    journal: SqliteJournal, key: str, *events: Event, at: datetime = AT, usd: str | None = None
) -> TaskRecord:
    """Several steps of one task's life, a second apart; `usd` is charged with the last."""
    entry: TaskRecord | None = None
    for number, event in enumerate(events):
        charged = Decimal(usd) if usd is not None and number == len(events) - 1 else None
        task_id = f"task-{key}" if event is Event.ACCEPTED else None
        change = TaskChange(at=at + timedelta(seconds=number), task_id=task_id, charged_usd=charged)
        entry = await apply(journal, key, event, change)
    assert entry is not None
    return entry
