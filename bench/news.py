"""From a task's end to whoever waits for it, where something brings the news: python -m bench.news.

Callbacks: from the end of a task in RunAPI's books to our knowing it, for a server that RunAPI calls back, for one whose callbacks
another process hears, and, beside them, for one that only polls. Waking: two servers wait for one task, which the first keeps;
from its answer to that of the second, which hears of the end through the journal.
"""

from __future__ import annotations

import socket
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

from bench.report import Reach, Report, end, options, percentile, ratio
from bench.talk import SERVER, Conversation, live, sandbox

SPEED = 20.0
"""A slow task takes one and a half seconds, and its length says nothing of a fast one's."""
CALLED, BY_ANOTHER, POLLING, WOKEN = (
    "called back",
    "another process is called back",
    "only polling",
    "woken by the journal",
)
MOST_CALLBACK_MS, MOST_WAKE_MS = 50.0, 100.0
LIMITS = (
    "One machine, whatever else it did meanwhile, and one contestant after the other: look at ratios before times.",
    "The sandbox posts a callback when it next looks after its tasks, which is a part of the delay.",
    "Polling is measured with no history to learn from but these tasks: all take the same time, and it soon knows.",
    "Waking includes the answer's own way, twice: both processes make it.",
)


def delays(folder: Path, home: Path, after: int) -> list[float]:
    """Milliseconds from the end of each task, by RunAPI's clock, to our knowing it; without the first so many."""
    with closing(sqlite3.connect(folder / "runapi" / "state.db")) as books:
        ended = dict(books.execute("SELECT id, ends_at FROM task").fetchall())
    with closing(sqlite3.connect(home / "journal.sqlite3")) as journal:
        known = journal.execute("SELECT task_id, completed_at FROM task ORDER BY n").fetchall()
    return [(at - ended[task]) * 1000 for task, at in known[after:]]


def called(folder: Path, rounds: int, seed: int, kind: str) -> list[float]:
    """Delays of tasks that one server makes, one after the other. The first is not counted."""
    with sandbox(folder / "runapi", speed=SPEED, seed=seed) as (url, key), ExitStack() as stack:
        env, home = live(url, key), folder / "home"
        if kind != POLLING:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            env |= {"FLUX2_CALLBACK_PORT": str(port), "FLUX2_CALLBACK_URL": f"http://127.0.0.1:{port}/hooks"}
        if kind == BY_ANOTHER:
            first = stack.enter_context(Conversation(SERVER, str(home), env))
            first.call("generate", prompt="[sandbox:instant] it has the port from now on", wait_seconds=60)
        talk = stack.enter_context(Conversation(SERVER, str(home), env))
        for number in range(rounds + 1):
            talk.call("generate", prompt=f"fox {number} [sandbox:slow]", wait_seconds=60, preview=False)
        return delays(folder, home, 2 if kind == BY_ANOTHER else 1)


def woken(folder: Path, rounds: int, seed: int) -> list[float]:
    """Milliseconds between the answers of two servers that wait for one task. The first task is not counted."""
    took = []
    with sandbox(folder / "runapi", speed=SPEED, seed=seed) as (url, key), ExitStack() as stack:
        one, two = (stack.enter_context(Conversation(SERVER, str(folder / "home"), live(url, key))) for _ in range(2))
        pool = stack.enter_context(ThreadPoolExecutor(2))

        def answered(talk: Conversation, ident: str) -> float:
            talk.call("check_task", task_ids=[ident], wait_seconds=60)
            return time.perf_counter()

        for number in range(rounds + 1):
            made = one.call("generate", prompt=f"fox {number} [sandbox:slow]", wait_seconds=0, preview=False)
            ident = made["structuredContent"]["tasks"][0]["task_id"]
            first, second = (pool.submit(answered, talk, ident) for talk in (one, two))
            took.append((second.result() - first.result()) * 1000)
    return took[1:]


def measure(rounds: int, seed: int) -> dict[str, list[float]]:
    """Each after the other: a task takes longer than all that is measured."""
    found: dict[str, list[float]] = {}
    for kind in (CALLED, BY_ANOTHER, POLLING, WOKEN):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            found[kind] = woken(folder, rounds, seed) if kind == WOKEN else called(folder, rounds, seed, kind)
    return found


def row(name: str, times: Sequence[float], against: Sequence[float]) -> list[str | float]:
    """One contestant's line of the table."""
    return [name, statistics.median(times), percentile(times, 0.9), f"{ratio(times, against):.2f}x"]


def main() -> None:
    chosen = options("news", __doc__, rounds=15)
    found = measure(chosen.rounds, chosen.seed)
    rows = [row(name, times, found[POLLING]) for name, times in found.items()]
    most = {CALLED: MOST_CALLBACK_MS, BY_ANOTHER: MOST_WAKE_MS, WOKEN: MOST_WAKE_MS}
    reaches = [Reach(f"delay, {name}", statistics.median(found[name]), bound, "ms") for name, bound in most.items()]
    head = ("told", "median ms", "p90 ms", "times polling")
    end(Report("news", head, rows, reaches, LIMITS, chosen.seed, found, chosen.rounds), chosen)


if __name__ == "__main__":
    main()
