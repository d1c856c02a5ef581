"""A journal with 100,000 tasks beside one with 100: python -m bench.ledger.

Each step is taken on both in turn: a claim in a journal that is opened for it, as at a start; what each start learns of
durations; an intent with its caps; one transition of a task. Over stdio, with a server that is started for it: the first
check_task without ids, from the spawn, and the next.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random

import anyio
from msgspec.structs import replace

from bench.report import NOISE, Reach, Report, end, options, ratio
from bench.talk import SERVER, Conversation
from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.engine.backend import account_name
from flux2_mcp.journal import owners
from flux2_mcp.journal.records import Intent, TaskChange, TaskRecord
from flux2_mcp.journal.sqlite.migrations import MIGRATIONS
from flux2_mcp.journal.sqlite.store import SqliteJournal
from flux2_mcp.settings import from_env
from flux2_mcp.system.sqlite_file import Database

SIZES = (100, 100_000)
CAPS = Caps(session_usd=Decimal(1000), daily_usd=Decimal(100_000))
REQUEST = catalog.request(prompt="a red fox in the snow")
IN_FLIGHT = 32
CALLS = 5
APART = 300.0
"""Seconds between two of the tasks that are there: the day that a cap looks back holds 288 of 100,000."""
DURATIONS = "start: durations"
MULTIPLY = """
INSERT INTO task ({columns})
WITH RECURSIVE number(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM number WHERE i < {more})
SELECT {values} FROM task, number WHERE key = 'first'
"""
CHANGED = {
    "key": "'task-' || i",
    "task_id": "'remote-' || i",
    "digest": "'digest-' || i",
    "session": "'session-' || (i / 20)",
    "model": "CASE i % 4 WHEN 0 THEN model ELSE 'model-' || (i % 4) END",
    **dict.fromkeys(("created_at", "sent_at", "submitted_at", "completed_at", "delivered_at", "told_at"), None),
}


class Ledger:
    """One journal, with so many delivered tasks in it, and the server that has it."""

    def __init__(self, home: Path, tasks: int) -> None:
        self.home = home
        self.account = account_name(from_env({"FLUX2_HOME": str(home), "FLUX2_MODE": "sandbox"}))
        self.tasks = tasks
        self.made = 0

    def journal(self) -> SqliteJournal:
        return SqliteJournal(self.home, self.account, owners.name())

    async def fill(self) -> None:
        """One task is taken through its life by the journal itself; the file then multiplies it, in the past."""
        journal, at = self.journal(), datetime.now(UTC)
        entry = await intend(journal, "first", at)
        for event, change in (
            (Event.ACCEPTED, TaskChange(at=at, task_id="remote-first")),
            (Event.COMPLETED, TaskChange(at=at + timedelta(seconds=4), charged_usd=Decimal("0.05"))),
            (Event.DELIVERED, TaskChange(at=at + timedelta(seconds=5))),
        ):
            entry = await journal.tasks.apply(entry, event, change)
        await journal.tasks.mark_reported(["first"], at=at)
        await journal.close()
        with closing(Database(journal.path, MIGRATIONS, durable=False)) as database, database.write():
            columns = [row["name"] for row in database.read("PRAGMA table_info(task)") if row["name"] != "n"]
            values = [CHANGED.get(name, name) or f"{name} - ({self.tasks} - i) * {APART}" for name in columns]
            text = MULTIPLY.format(columns=", ".join(columns), values=", ".join(values), more=self.tasks - 1)
            assert database.execute(text) == self.tasks - 1

    async def steps(self) -> dict[str, float]:
        """Milliseconds of each step, taken once."""
        self.made += 1
        key, at, took = f"new-{self.made}", datetime.now(UTC), dict[str, float]()

        async def timed(name: str, step: Callable[[], Awaitable[object]]) -> None:
            began = time.perf_counter()
            await step()
            took[name] = (time.perf_counter() - began) * 1000

        journal = self.journal()
        await timed("start: open and claim", journal.leases.claim)
        await timed(DURATIONS, journal.history.durations)
        await timed("intent, with both caps", lambda: intend(journal, key, at))
        (entry,) = await journal.tasks.find([key])
        accepted = TaskChange(at=at, task_id=f"remote-{key}")
        await timed("one transition", lambda: journal.tasks.apply(entry, Event.ACCEPTED, accepted))
        failed = TaskChange(at=at, error="bench")
        await journal.tasks.apply(entry, Event.FAILED, failed)
        await journal.close()
        with Conversation(SERVER, str(self.home), {"FLUX2_MODE": "sandbox"}) as talk:
            talk.call("check_task")
            took["spawn to the first check_task"] = talk.since()
            took["check_task without ids"] = statistics.median(talk.timed("check_task") for _ in range(CALLS))
        return took


async def intend(journal: SqliteJournal, key: str, at: datetime) -> TaskRecord:
    intent = Intent(
        key=key,
        request=replace(REQUEST, prompt=f"{REQUEST.prompt} {key}"),
        quoted_usd=Decimal("0.05"),
        reserved_usd=Decimal("0.05"),
        session="bench",
    )
    found = await journal.tasks.intend([intent], at=at, caps=CAPS, join=True, in_flight=IN_FLIGHT)
    assert found.records[0].started, found
    return found.records[0]


async def measure(rounds: int, seed: int) -> Report:
    dice, found = Random(seed), {size: list[Mapping[str, float]]() for size in SIZES}
    with tempfile.TemporaryDirectory() as folder:
        ledgers = [Ledger(Path(folder) / str(size), size) for size in SIZES]
        for ledger in ledgers:
            ledger.home.mkdir()
            await ledger.fill()
        for number in range(rounds + 1):
            for ledger in dice.sample(ledgers, len(ledgers)):
                took = await ledger.steps()
                if number:
                    found[ledger.tasks].append(took)
    few, many = ({name: [each[name] for each in found[size]] for name in found[size][0]} for size in SIZES)
    return Report(
        "ledger",
        ("median ms", *(f"{size:,} tasks" for size in SIZES), "ratio"),
        [(name, statistics.median(few[name]), statistics.median(many[name]), ratio(many[name], few[name])) for name in few],
        [Reach(f"{name}, {SIZES[1]:,} tasks against {SIZES[0]}", ratio(many[name], few[name]), 1.5) for name in few if name != DURATIONS],
        (
            NOISE,
            f"The tasks lie {APART:.0f} s apart, of four kinds and twenty to a session; ratios are medians of the rounds' ratios.",
            "Of durations at most the latest 200 of each kind are read: the smaller journal has 25 of each, so nothing is to be reached.",
            "A first round, which fills SQLite's and the system's caches, is not counted.",
        ),
        seed,
        {str(size): found[size] for size in SIZES},
        rounds,
    )  # fmt: skip


def main() -> None:
    chosen = options("ledger", __doc__, rounds=15)
    end(anyio.run(measure, chosen.rounds, chosen.seed), chosen)


if __name__ == "__main__":
    main()
