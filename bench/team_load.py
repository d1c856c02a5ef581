"""What a team's server costs: python -m bench.team_load [--tasks 1000000] [--people 1 100 10000] [--made 200].

First, what calls cost in a PostgreSQL with so many tasks kept, of so many people, made by SQL over 90 days: milliseconds, and blocks
of 8 KiB that the database touches, which say the same on a busy machine. Then how many tasks a second 1 and 3 servers make on one
PostgreSQL, beside one on SQLite: at a rate that RunAPI allows, and at one that bounds nothing. Neither is a part of `make bench`: it
takes a quarter of an hour and 10 GB of disk.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import anyio

from bench import replicas
from bench.kept import DAYS, SETTINGS, Cost, Kept
from bench.replicas import Made
from bench.report import FOUND, NOISE, Reach, Report, percentile
from tests.support import postgres

RATE = 20
"""Requests a second of all servers together."""
NO_RATE = 1000
"""The most that a server takes."""
CONTESTANTS = (("sqlite", 1), ("postgres", 1), ("postgres", 3))
MOST_BLOCKS = {"intend, with monthly caps": 2500, "the newest ten of one's own": 100, "one task by its id": 50}
MOST_MS = {"team people": 30_000}
MIB = 2**20
FULL = 1_000_000
BEFORE = (
    "Before the sums of hours (2026-11-29, the same machine, as busy) these were, with 1, 100 and 10,000 people: intend 51,000, 13,000 and 9,000"
    " blocks, 640, 480 and 240 ms; sums for the caps 48,000, 9,400 and 6,100 blocks; sums of one's own 112,000, 10,000 and 150 blocks;"
    " team people 3.5, 11 and 528 s."
)
"""With a million tasks."""


async def kept(tasks: int, people: Sequence[int], rounds: int) -> Report:
    """What calls cost with so many tasks kept."""
    found, sizes = dict[int, dict[str, Cost]](), dict[int, float]()
    for number in people:
        with postgres.cluster(SETTINGS) as cluster, tempfile.TemporaryDirectory() as folder:
            one = Kept(cluster.with_schema(), Path(folder), tasks=tasks, people=number)
            await one.fill()
            sizes[number] = one.size() / MIB
            found[number] = await one.costs(rounds)
    names = list(found[people[0]])
    rows: list[list[str | float]] = [
        [name, *(figure for number in people for figure in (found[number][name].median, found[number][name].told))]
        for name in names
    ]
    rows.append(["the database, MiB", *(figure for number in people for figure in (sizes[number], "-"))])
    reaches = [
        Reach(f"{name}, {_told(number)}", found[number][name].blocks, most, "blocks")
        for name, most in MOST_BLOCKS.items()
        for number in people
    ]
    reaches += [
        Reach(f"{name}, {_told(number)}", found[number][name].median, most, "ms")
        for name, most in MOST_MS.items()
        for number in people
    ]
    head = [f"{tasks:,} tasks kept", *(text for number in people for text in (f"{_told(number)}, ms", "blocks"))]
    return Report(
        "team_load",
        head,
        rows,
        reaches,
        (
            NOISE,
            (
                f"The tasks are spread evenly over {DAYS} days and over the people; the database has just been vacuumed, as autovacuum"
                " keeps it, and has 256 MB for its cache."
            ),
            "Milliseconds are medians of one process's calls through a socket, each with all its ways to the database and back.",
            "Commands are whole processes, of which loading is half a second; what they touch is not counted.",
            "An intend writes a task, its entry in the audit and the sums, and waits for the disk.",
            *([BEFORE] if tasks == FULL else []),
        ),
        0,
        {str(number): {name: cost.ms for name, cost in each.items()} for number, each in found.items()},
        rounds,
    )


def _told(people: int) -> str:
    return f"{people:,} {'person' if people == 1 else 'people'}"


def made(tasks: int) -> Report:
    """How many tasks a second servers make."""
    found = dict[tuple[int, str, int], Made]()
    with tempfile.TemporaryDirectory() as folder:
        for rate in (RATE, NO_RATE):
            for kind, number in CONTESTANTS:
                path = Path(folder) / f"{kind}-{number}-{rate}"
                found[rate, kind, number] = replicas.run(path, kind, replicas=number, rate=rate, tasks=tasks)
    rows = [
        [
            f"{number} x {kind}, rate {'none' if rate == NO_RATE else rate}",
            one.tasks / one.seconds,
            statistics.median(one.calls_ms),
            percentile(one.calls_ms, 0.95),
            one.server_cpu / one.tasks * 1000,
            one.database_cpu / one.tasks * 1000 if kind == "postgres" else "-",
            one.transactions if kind == "postgres" else "-",
            one.statements if kind == "postgres" else "-",
            one.memory_mib,
        ]
        for (rate, kind, number), one in found.items()
    ]
    alone = found[RATE, "sqlite", 1]
    reaches = [
        Reach(
            f"tasks a second at the same rate, {number} x {kind} against one on SQLite",
            (one.tasks / one.seconds) / (alone.tasks / alone.seconds),
            0.9,
            least=True,
        )
        for (rate, kind, number), one in found.items()
        if rate == RATE and kind == "postgres"
    ]
    return Report(
        "team_load",
        ("servers", "tasks a second", "call, ms", "95 %, ms", "server CPU ms a task", "database CPU ms a task", "transactions a task",
         "statements a task", "server MiB"),
        rows,
        reaches,
        (
            NOISE,
            (f"{tasks} tasks, asked for by {replicas.CALLERS} programs with tokens of their own, each as soon as its last call is answered;"
            " until the last image is on disk. All caps are set."),
            "All of it is on one machine: callers, servers, database and the sandbox that stands for RunAPI share its CPUs.",
            "Where the CPUs are the bound, neither the rate nor the database is: what a task costs is what to read.",
            "A call is a create over RunAPI's HTTP; it is answered when the task is written and RunAPI has its id.",
            ("What idle servers do meanwhile is subtracted. A statement is a way to the database and back; a read outside a transaction"
            " counts as one."),
        ),
        0,
        {f"{rate} {kind} {number}": {"seconds": one.seconds} for (rate, kind, number), one in found.items()},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.team_load", description=__doc__)
    parser.add_argument("--tasks", type=int, default=FULL)
    parser.add_argument("--people", type=int, nargs="*", default=[1, 100, 10_000])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--made", type=int, default=200, help="tasks of each run of servers; 0: none")
    chosen = parser.parse_args()
    code = 0
    if chosen.people:
        code = anyio.run(kept, chosen.tasks, chosen.people, chosen.rounds).tell(FOUND / "team_load.json")
    if chosen.made:
        code = max(code, made(chosen.made).tell(FOUND / "team_rate.json"))
    sys.exit(code)


if __name__ == "__main__":
    main()
