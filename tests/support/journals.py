"""What tests of the journal share: requests and intents, a clock to turn by hand, journals that are closed at the end."""

from __future__ import annotations

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg

from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.domain.models import ImageRequest
from flux2_mcp.journal.contract import LEASE_SECONDS, Journal
from flux2_mcp.journal.postgres.store import PostgresJournal
from flux2_mcp.journal.records import Intent, IntentResult, TaskChange, TaskRecord
from flux2_mcp.journal.sqlite.store import SqliteJournal
from tests.support import postgres

AT = datetime(2026, 11, 20, 10, 0, 0, 250_000, tzinfo=UTC)
ACCOUNT = "runapi.ai:0123456789ab"
NO_CAPS = Caps()
CAT = catalog.request(prompt="a cat")
FULL = catalog.request(
    prompt="ein Hund — «zwei»",
    variant="flex",
    source_image_urls=["https://example.com/a.png", "https://example.com/b.png"],
    aspect_ratio="auto",
    output_resolution="2k",
    enable_safety_checker=False,
    callback_url="https://example.com/hook",
)


class Clock:
    """A monotonic clock that stands still until it is told otherwise. Seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Home(ABC):
    """One FLUX2_HOME, whose journals stand in one database: all that the contract's suite knows of it."""

    url: str | None = None
    """The address of the database; None if it is a file of the home."""

    def __init__(self, path: Path, stack: AsyncExitStack) -> None:
        self.path = path
        self.clock = Clock()
        """The clock by which its journals keep time: leases, turns."""
        self._stack = stack

    @abstractmethod
    def journal(self, owner: str = "a", *, account: str = ACCOUNT) -> Journal:
        """The journal as a process of this name would open it; it is closed at the end."""

    @abstractmethod
    def busy(self) -> AbstractContextManager[None]:
        """While another process is in the middle of a write."""


class SqliteHome(Home):
    @property
    def file(self) -> Path:
        return self.path / "journal.sqlite3"

    def journal(
        self, owner: str = "a", *, account: str = ACCOUNT, clock: Callable[[], float] | None = None
    ) -> SqliteJournal:
        journal = SqliteJournal(self.path, account, owner, monotonic=clock or self.clock)
        self._stack.push_async_callback(journal.close)
        return journal

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """A connection of another program's, in a transaction that is committed at the end. The file must be there."""
        with closing(sqlite3.connect(f"{self.file.as_uri()}?mode=rw", uri=True, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def busy(self) -> Iterator[None]:
        with self.connected():
            yield


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteHome]:
    async with AsyncExitStack() as stack:
        yield SqliteHome(path, stack)


class PostgresHome(Home):
    """A schema of its own on the server that the tests share; without an address, a new one."""

    def __init__(self, path: Path, stack: AsyncExitStack, url: str | None = None) -> None:
        super().__init__(path, stack)
        self.path.mkdir(exist_ok=True)
        self.url: str = url or postgres.shared().with_schema()

    def journal(self, owner: str = "a", *, account: str = ACCOUNT) -> PostgresJournal:
        journal = PostgresJournal(self.url, account, owner, clock=self.clock, lease_seconds=LEASE_SECONDS)
        self._stack.push_async_callback(journal.close)
        return journal

    @contextmanager
    def connected(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A connection of another program's, in a transaction that is committed at the end."""
        with psycopg.connect(self.url) as connection:
            yield connection

    @contextmanager
    def busy(self) -> Iterator[None]:
        with self.connected() as connection:
            lock = "SELECT pg_advisory_xact_lock(hashtextextended('flux2 home ' || current_schema(), 0))"
            connection.execute(lock)
            yield


EMPTIED: list[str] = []
"""Schemas of this process whose tables are there and empty: to make them took more time than most tests."""
TABLES = (
    "task",
    "pace",
    "turn",
    "upload",
    "placed",
    "holder",
    "lost",
    "total",
    "spent",
    "person",
    "token",
    "audit",
    "consent",
    "fact",
)
KEPT = "ALTER TABLE audit {} TRIGGER audit_kept"
"""SQL that lets entries of the audit be deleted, or not: a test's are of no use to the next one."""


@asynccontextmanager
async def in_new_schema(path: Path) -> AsyncIterator[PostgresHome]:
    """With no tables yet; for a test that changes them."""
    async with AsyncExitStack() as stack:
        yield PostgresHome(path, stack)


@asynccontextmanager
async def in_postgres(path: Path) -> AsyncIterator[PostgresHome]:
    async with AsyncExitStack() as stack:
        yield PostgresHome(path, stack, url := EMPTIED.pop() if EMPTIED else postgres.shared().with_schema())
    with suppress(psycopg.errors.UndefinedTable), psycopg.connect(url, autocommit=True) as connection:
        emptied = [KEPT.format("DISABLE"), *(f"DELETE FROM {table}" for table in TABLES), KEPT.format("ENABLE")]  # noqa: S608  # names above
        connection.execute("; ".join(emptied).encode())
        EMPTIED.append(url)


HOMES: dict[str, Callable[[Path], AbstractAsyncContextManager[Home]]] = {"postgres": in_postgres, "sqlite": opened}
"""Every implementation of `journal.contract`: the contract's suite runs over each."""


def newest_url(home: Path) -> str:
    """The address of the newest image, as RunAPI gave it: results name it only where no file is."""
    with closing(sqlite3.connect(f"{(home / 'journal.sqlite3').as_uri()}?mode=ro", uri=True)) as connection:
        found = connection.execute("SELECT urls ->> 0 FROM task WHERE urls <> '[]' ORDER BY n DESC LIMIT 1").fetchone()
    return str(found[0])


def intent(key: str = "k", request: ImageRequest = CAT, usd: str | None = "0.05", **more: Any) -> Intent:  # noqa: ANN401  # Intent's own fields
    amount = None if usd is None else Decimal(usd)
    given: dict[str, Any] = {"quoted_usd": amount, "reserved_usd": amount, "workspace": "/work", "session": "s"} | more
    return Intent(key=key, request=request, **given)


async def intend(
    journal: Journal,
    *intents: Intent,
    at: datetime = AT,
    caps: Caps = NO_CAPS,
    join: bool = False,
    in_flight: int = 100,
) -> IntentResult:
    return await journal.tasks.intend(intents, at=at, caps=caps, join=join, in_flight=in_flight)


async def new(journal: Journal, *intents: Intent, **more: Any) -> tuple[TaskRecord, ...]:  # noqa: ANN401  # as intend
    """Intents that are written down, as they must be here."""
    intended = await intend(journal, *intents, **more)
    assert (intended.over, intended.joined) == (None, False)
    return intended.records


async def apply(journal: Journal, key: str, event: Event, change: TaskChange) -> TaskRecord:
    """A step of a task as the journal has it, by the process that holds it."""
    (record,) = await journal.tasks.find([key])
    return await journal.tasks.apply(record, event, change)


async def start(journal: Journal, key: str, *, in_flight: int, at: datetime = AT) -> TaskRecord:
    (record,) = await journal.tasks.find([key])
    return await journal.tasks.start(record, at=at, in_flight=in_flight)


async def failed(home: Path, account: str, count: int) -> list[str]:
    """So many tasks that have all failed, written down as another process would; their ids, oldest first."""
    async with opened(home) as there:
        # The machine's own clock: a server beside it sees that these tasks are looked after.
        journal = there.journal(account=account, clock=time.monotonic)
        for number in range(count):
            await new(journal, intent(f"k{number}"))
            await steps(journal, f"k{number}", Event.ACCEPTED, Event.FAILED)
    return [f"task-k{number}" for number in range(count)]


async def steps(journal: Journal, key: str, *events: Event, at: datetime = AT, usd: str | None = None) -> TaskRecord:
    """Several steps of one task's life, a second apart; `usd` is charged with the last."""
    record: TaskRecord | None = None
    for number, event in enumerate(events):
        charged = Decimal(usd) if usd is not None and number == len(events) - 1 else None
        task_id = f"task-{key}" if event is Event.ACCEPTED else None
        change = TaskChange(at=at + timedelta(seconds=number), task_id=task_id, charged_usd=charged)
        record = await apply(journal, key, event, change)
    assert record is not None
    return record
