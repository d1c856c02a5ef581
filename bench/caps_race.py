"""Calls at the edge of a cap, from several processes at once: python -m bench.caps_race [--journal postgres] [--calls 4000].

Each replica is a process with the journal, on which all people call at the same time. All begin together. A call is for one to three images of
several prices; of those that are written, most fail and free what they had reserved, so that the sum stays at the edge until
the end, and the others are charged what was reserved or less. Beside them, the sums are read all the time. Exits with 1 if
a sum was ever above its cap, if the edge was not reached, or if anything is reserved after all have ended.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random

import anyio
import psycopg

from bench.rows import KINDS, Rows, journal
from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.journal import open_journal
from flux2_mcp.journal.contract import Journal
from flux2_mcp.journal.records import Intent, TaskChange, TaskRecord
from tests.conftest import environment

ACCOUNT = "runapi.ai:0123456789ab"
PRICES = ("0.01", "0.03", "0.05", "0.07")
FAILING = 0.97
"""Of the tasks: what they reserve is free again, and the edge is where it was."""
MICROS = 1_000_000
PERSON_CAP = "FLUX2_PERSON_DAILY_BUDGET_USD"
COUNTED = (
    "coalesce(sum(CASE WHEN state IN ('failed', 'rejected') THEN 0 ELSE coalesce(charged, reserved, quoted) END), 0)"
)
DAY = f"SELECT {COUNTED} FROM task"  # noqa: S608  # constants of this module
PEOPLE = f"SELECT {COUNTED} FROM task GROUP BY person"  # noqa: S608  # the same
SESSIONS = f"SELECT {COUNTED} FROM task GROUP BY session"  # noqa: S608  # the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of it. Amounts are USD; `most` are the largest sums that were seen, of all, of one replica and of one person."""

    calls: int
    granted: int
    refused: Mapping[str, int]
    cap: Decimal
    session_cap: Decimal
    person_cap: Decimal
    looks: int
    most: Decimal
    most_of_one: Decimal
    most_of_person: Decimal
    reserved_at_the_end: int
    seconds: float

    @property
    def good(self) -> bool:
        """True when no cap was passed by a cent, one was reached, and nothing is reserved."""
        held = self.most <= self.cap and self.most_of_one <= self.session_cap and not self.reserved_at_the_end
        held = held and self.most_of_person <= self.person_cap
        return held and bool(self.refused) and self.calls == self.granted + sum(self.refused.values())


class Watcher:
    """Reads the sums until it is told to end, so many seconds apart; not while the database is away."""

    def __init__(self, rows: Rows, pause: float = 0.01) -> None:
        self._rows = rows
        self._pause = pause
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.most = self.most_of_one = self.most_of_person = Decimal(0)
        self.looks = 0
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.is_set():
            with suppress(psycopg.OperationalError):
                self.look()
            self._over.wait(self._pause)

    def look(self) -> None:
        for (total,) in self._rows.read(DAY):
            self.most = max(self.most, Decimal(total) / MICROS)
        for (total,) in self._rows.read(SESSIONS):
            self.most_of_one = max(self.most_of_one, Decimal(total) / MICROS)
        for (total,) in self._rows.read(PEOPLE):
            self.most_of_person = max(self.most_of_person, Decimal(total) / MICROS)
        self.looks += 1

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        self.look()


def run(
    folder: Path,
    rows: Rows,
    *,
    replicas: int,
    people: int,
    calls: int,
    cap: Decimal,
    person_cap: Decimal,
    seed: int = 1,
) -> Report:
    """Let so many people call, `calls` times all together. The journal is empty; a file of it stands in `folder`."""
    session_cap = cap * 3 / 10
    began = time.monotonic()
    each_calls = calls // people // replicas
    told = {
        "people": people,
        "calls": each_calls,
        "cap": str(cap),
        "session": str(session_cap),
        "person": str(person_cap),
    }
    told |= {"home": str(folder), "url": rows.env.get("FLUX2_JOURNAL_URL")}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.caps_race", "--replica",
             json.dumps(told | {"name": f"r{number}", "seed": seed * 1000 + number})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1], env=environment(folder),
        )
        for number in range(replicas)
    ]  # fmt: skip
    for each in running:
        assert each.stdout is not None
        each.stdout.readline()  # it is ready, and the tables are there
    watcher = Watcher(rows)
    done = [json.loads(out) for out in _together(running)]
    seconds = time.monotonic() - began
    watcher.end()
    reserved = rows.read("SELECT count(*) FROM task WHERE state IN ('intent', 'submitted', 'processing', 'completed')")
    return Report(
        calls=people * each_calls * replicas,
        granted=sum(one["granted"] for one in done),
        refused=dict(sum((Counter(one["refused"]) for one in done), Counter[str]())),
        cap=cap,
        session_cap=session_cap,
        person_cap=person_cap,
        looks=watcher.looks,
        most=watcher.most,
        most_of_one=watcher.most_of_one,
        most_of_person=watcher.most_of_person,
        reserved_at_the_end=int(reserved[0][0]),
        seconds=seconds,
    )


def _together(running: Sequence[subprocess.Popen[str]]) -> list[str]:
    """Let all begin; gives what each said at its end."""
    for each in running:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    return [each.communicate()[0] for each in running]


class Replica:
    """One process: its people call at the same time."""

    def __init__(self, journal: Journal, told: Mapping[str, str]) -> None:
        self._journal = journal
        self._name = told["name"]
        self._caps = Caps(
            daily_usd=Decimal(told["cap"]),
            session_usd=Decimal(told["session"]),
            person_daily_usd=Decimal(told["person"]),
        )
        self.granted = 0
        self.refused = Counter[str]()

    async def person(self, number: int, calls: int, dice: Random) -> None:
        theirs = self._journal.of(f"person {number}")
        for call in range(calls):
            price, key = Decimal(dice.choice(PRICES)), f"{self._name}-{number}-{call}"
            asked = [self._intent(f"{key}-{image}", price) for image in range(dice.choice([1, 1, 2, 3]))]
            at = datetime.now(UTC)
            done = await theirs.tasks.intend(asked, at=at, caps=self._caps, join=False, in_flight=10_000)
            if done.over is not None:
                self.refused[done.over.name] += 1
                continue
            self.granted += 1
            for record in done.records:
                await self._live(record, price, dice)

    def _intent(self, key: str, usd: Decimal) -> Intent:
        request = catalog.request(prompt=f"a fox, {key}")
        return Intent(key=key, request=request, quoted_usd=usd, reserved_usd=usd, session=self._name)

    async def _live(self, record: TaskRecord, price: Decimal, dice: Random) -> None:
        apply, at = self._journal.tasks.apply, datetime.now(UTC)
        record = await apply(record, Event.ACCEPTED, TaskChange(at=at, task_id=f"id-{record.key}"))
        if dice.random() < FAILING:
            await apply(record, Event.FAILED, TaskChange(at=at, error="moderated"))
            return
        charged = price if dice.getrandbits(1) else price / 2
        record = await apply(
            record, Event.COMPLETED, TaskChange(at=at, charged_usd=charged, image_urls=("https://x/1",))
        )
        await apply(record, Event.DELIVERED, TaskChange(at=at, images=()))


async def replica(told: Mapping[str, str]) -> None:
    journal = open_journal(Path(told["home"]), ACCOUNT, told["url"] or None)
    await journal.tasks.recent(limit=1)
    this = Replica(journal, told)
    print("ready", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)
    async with anyio.create_task_group() as group:
        for number in range(int(told["people"])):
            group.start_soon(this.person, number, int(told["calls"]), Random(f"{told['seed']}-{number}"))
    await journal.close()
    print(json.dumps({"granted": this.granted, "refused": this.refused}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--journal", choices=KINDS, default="postgres", help="where the journal stands")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument(
        "--cap", type=Decimal, default=Decimal(2), help="USD a day, of all; of it a replica may spend three tenths"
    )
    parser.add_argument("--person-cap", type=Decimal, default=Decimal("0.20"), help="USD a day, of each person")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replica", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.replica is not None:
        anyio.run(replica, given.replica)
        return
    with tempfile.TemporaryDirectory() as folder, journal(given.journal, Path(folder)) as rows:
        report = run(
            Path(folder), rows, replicas=given.replicas, people=given.people, calls=given.calls,
            cap=given.cap, person_cap=given.person_cap, seed=given.seed,
        )  # fmt: skip
    print(f"{report.calls} calls of {given.people} people over {given.replicas} replicas in {report.seconds:.0f} s")
    print(f"granted {report.granted}, refused {sum(report.refused.values())}: {dict(sorted(report.refused.items()))}")
    print(
        f"of ${report.cap} at most ${report.most} were counted, of ${report.session_cap:.4f} of one replica ${report.most_of_one},"
        f" of ${report.person_cap} of one person ${report.most_of_person}"
    )
    print(f"({report.looks} looks); reserved after the end: {report.reserved_at_the_end}")
    sys.exit(0 if report.good and PERSON_CAP in report.refused else 1)


if __name__ == "__main__":
    main()
