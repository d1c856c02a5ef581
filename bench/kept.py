"""A journal in PostgreSQL with very many tasks of very many people, made by SQL, and what calls on it cost: for `team_load`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
from msgspec.structs import replace

from bench.report import ROOT
from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.domain.models import StoredImage
from flux2_mcp.engine.backend import account_name
from flux2_mcp.journal.postgres.migrations import MIGRATIONS
from flux2_mcp.journal.postgres.store import PostgresJournal
from flux2_mcp.journal.records import Intent, TaskChange, TaskRecord
from flux2_mcp.settings import from_env
from tests.support import postgres

SETTINGS = postgres.SAFE | {"shared_buffers": "256MB", "max_wal_size": "2GB"}
DAYS = 90
"""The age of the oldest task."""
SESSION_TASKS = 25_000
"""Tasks that one server makes between two starts."""
ENV = {"RUNAPI_API_KEY": "bench", "RUNAPI_BASE_URL": "http://127.0.0.1:9"}
"""Nothing is sent there."""
CAPS = Caps(
    monthly_usd=Decimal(10_000_000),
    person_monthly_usd=Decimal(10_000_000),
)
PERSON_KEY = "md5('person ' || ({number}))"
CHANGED = {
    "key": "md5('key ' || i)",
    "task_id": "md5('task ' || i)",
    "digest": "md5('digest ' || i)",
    "session": f"'session ' || (i / {SESSION_TASKS})",
    "person": PERSON_KEY.format(number="i % {people}"),
    **dict.fromkeys(("created_at", "sent_at", "submitted_at", "completed_at", "delivered_at", "told_at"), None),
}
IMAGE = StoredImage(path="a-red-fox-in-the-snow-1a2b3c4d.png", sha256="0" * 64, size_bytes=1_400_000, width=1024, height=1024, mime_type="image/png")  # fmt: skip
INDICES = (
    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() AND tablename IN ('task', 'audit')"
    " AND indexname NOT IN (SELECT conname FROM pg_constraint)"
)
BLOCKS = "SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = current_database()"
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "team people": ("team", "people"),
    "spend --by person": ("spend", "--by", "person"),
    "team audit": ("team", "audit"),
    "team audit --person": ("team", "audit", "--person", "person 0"),
}


@dataclass
class Cost:
    """What one call costs: milliseconds of each round, and blocks of 8 KiB that the server touched for it."""

    ms: list[float] = field(default_factory=list)
    blocks: float = 0.0

    @property
    def told(self) -> str | float:
        return self.blocks or "-"

    @property
    def median(self) -> float:
        return statistics.median(self.ms)


class Kept:
    """One journal with so many tasks of so many people, in an empty schema.

    Args:
        url: The address of the database.
        home: An empty folder.
    """

    def __init__(self, url: str, home: Path, *, tasks: int, people: int) -> None:
        self.url = url
        self.home = home
        self.tasks = tasks
        self.people = people
        self.account = account_name(from_env(ENV | {"FLUX2_HOME": str(home)}))
        with psycopg.connect(url) as connection:
            self.person = _one(connection, f"SELECT {PERSON_KEY.format(number=0)}")

    def journal(self) -> PostgresJournal:
        return PostgresJournal(self.url, self.account, "bench")

    async def fill(self) -> None:
        """One task is taken through its life by the journal itself; the database then multiplies it, in the past."""
        journal, at = self.journal(), datetime.now(UTC)
        theirs = journal.of(self.person, client="bench 1", address="192.0.2.1")
        record = await intend(theirs, "first", at)
        for event, change in (
            (Event.ACCEPTED, TaskChange(at=at, task_id="remote-first")),
            (Event.COMPLETED, TaskChange(at=at + timedelta(seconds=4), charged_usd=Decimal("0.05"))),
            (Event.DELIVERED, TaskChange(at=at + timedelta(seconds=5), images=(IMAGE,))),
        ):
            record = await theirs.tasks.apply(record, event, change)
        await theirs.tasks.mark_reported(["first"], at=at)
        await journal.close()
        with psycopg.connect(self.url, autocommit=True) as connection:
            # Row by row, the triggers would take minutes; what they keep is counted once, as their migrations do.
            connection.execute("SET session_replication_role = replica")
            connection.execute("SET maintenance_work_mem = '256MB'")
            indices = connection.execute(INDICES).fetchall()
            for name, _ in indices:  # made at once, an index takes a tenth of the time
                connection.execute(f"DROP INDEX {name}".encode())
            for statement in self._multiply(connection):
                connection.execute(statement.encode())
            for _, definition in indices:
                connection.execute(str(definition).encode())
            connection.execute("VACUUM ANALYZE")

    def _multiply(self, connection: psycopg.Connection[tuple[object, ...]]) -> list[str]:
        key, now = PERSON_KEY.format(number="i"), int(time.time())
        named = f"SELECT {key}, 'https://sso.example.com', i, 'person ' || i, 0, {now} - i"  # constants and numbers
        sums = [last for _, script in MIGRATIONS if (last := script.rpartition(";\n")[2]).startswith("INSERT INTO")]
        of_audit = {"at": None, "person": CHANGED["person"], "task": CHANGED["key"]}
        columns = "person, issuer, subject, name, admin, seen_at"
        return [
            self._copied(connection, "task", CHANGED, "key = 'first'"),
            self._copied(connection, "audit", of_audit, "task = 'first'"),
            f"INSERT INTO person ({columns}) {named} FROM generate_series(0, {self.people - 1}) AS i",
            *(f"TRUNCATE {one.split()[2]}; {one}" for one in sums),
        ]

    def _copied(
        self,
        connection: psycopg.Connection[tuple[object, ...]],
        table: str,
        changed: Mapping[str, str | None],
        where: str,
    ) -> str:
        """SQL that makes so many rows like one, each some time before the next; None stands for a time."""
        sql = f"SELECT * FROM {table} LIMIT 0"  # noqa: S608  # a constant of this module
        columns = [column.name for column in connection.execute(sql.encode()).description or () if column.name != "n"]
        older = f"({self.tasks} - i) * {DAYS * 86_400 / self.tasks}"
        values = [(changed.get(name, name) or f"{name} - {older}").format(people=self.people) for name in columns]
        return (
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)}"  # noqa: S608  # as above
            f" FROM {table}, generate_series(1, {self.tasks - 1}) AS i WHERE {where}"
        )

    async def costs(self, rounds: int) -> dict[str, Cost]:
        """What each call costs, by its name."""
        found = {name: await self._cost(call, rounds) for name, call in self._calls().items()}
        for name, command in COMMANDS.items():
            found[name] = Cost([self._command(command) for _ in range(max(1, rounds // 5))])
        return found

    def _calls(self) -> dict[str, Callable[[PostgresJournal, int], Awaitable[object]]]:
        at = datetime.now(UTC)
        sessions = self.tasks // SESSION_TASKS
        ids = [str(self._read(f"SELECT md5('task ' || {self.tasks * part // 5})")) for part in range(1, 5)]

        async def intended(journal: PostgresJournal, number: int) -> None:
            key = f"new {at.timestamp()} {number} {os.getpid()}"
            await intend(journal, key, datetime.now(UTC), session=f"session {sessions - 1}")

        return {
            "intend, with monthly caps": intended,
            "the newest ten of one's own": lambda journal, _: journal.tasks.recent(limit=10),
            "sums of one's own": lambda journal, _: journal.history.matched(),
            "one task by its id": lambda journal, number: journal.tasks.find([ids[number % len(ids)]]),
            "sums for the caps": lambda journal, _: journal.money.spent(at=datetime.now(UTC), session=None, caps=CAPS),
        }

    async def _cost(self, call: Callable[[PostgresJournal, int], Awaitable[object]], rounds: int) -> Cost:
        journal = self.journal()
        theirs, cost = journal.of(self.person), Cost()
        await call(theirs, -1)  # opens the connection, and fills the caches
        await journal.close()
        before = self._blocks()
        await (await self._open()).close()
        opened = self._blocks() - before
        journal = await self._open()
        theirs = journal.of(self.person)
        for number in range(rounds):
            began = time.perf_counter()
            await call(theirs, number)
            cost.ms.append((time.perf_counter() - began) * 1000)
        await journal.close()
        cost.blocks = (self._blocks() - before - 2 * opened) / rounds
        return cost

    async def _open(self) -> PostgresJournal:
        """The journal with a connection that has read a task."""
        journal = self.journal()
        await journal.of(self.person).tasks.find(["nothing"])
        return journal

    def _blocks(self) -> int:
        """Blocks that the server has touched. Each connection tells its own at its end, which takes a moment."""
        time.sleep(1)
        return int(str(self._read(BLOCKS)))

    def size(self) -> int:
        """The size of the database, bytes."""
        return int(str(self._read("SELECT pg_database_size(current_database())")))

    def _read(self, sql: str) -> object:
        with psycopg.connect(self.url) as connection:
            return _one(connection, sql)

    def _command(self, command: tuple[str, ...]) -> float:
        env = {name: os.environ[name] for name in ("PATH", "PYTHONPYCACHEPREFIX") if name in os.environ}
        env |= ENV | {"HOME": str(self.home), "FLUX2_HOME": str(self.home), "FLUX2_JOURNAL_URL": self.url}
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "flux2_mcp", *command], env=env, cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
        return (time.perf_counter() - began) * 1000


async def intend(journal: PostgresJournal, key: str, at: datetime, session: str = "bench") -> TaskRecord:
    request = replace(catalog.request(prompt="a red fox in the snow"), prompt=f"a red fox in the snow, {key}")
    usd = Decimal("0.05")
    intent = Intent(key=key, request=request, quoted_usd=usd, reserved_usd=usd, session=session)
    found = await journal.tasks.intend([intent], at=at, caps=CAPS, join=True, in_flight=100)
    return found.records[0]


def _one(connection: psycopg.Connection[tuple[object, ...]], sql: str) -> str:
    row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return str(row[0])
