"""Kill the server with SIGKILL at every step of a task's life, again and again: python -m bench.kill [--kills 200].

One sandbox, one FLUX2_HOME. In each round a server is started, asked for an image, and killed at a step that the dice
choose; the next one finds what it left. In the end a last server must bring every task to its end. Prints what was killed
where, and compares the creates and tasks of the service with the journal. Exits with 1 if a task was lost or paid twice.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from bench.proxy import Proxy
from flux2_mcp.sandbox.server import Sandbox
from tests.process.stdio import LEGACY, Host

STEPS = (
    "intent written",
    "create sent",
    "create answered",
    "poll sent",
    "poll answered",
    "fetch sent",
    "fetch streaming",
    "any moment",
)
SPEED = 20.0
ROUND_SECONDS = 8.0
END_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `kills` by step; the rest are numbers of tasks."""

    kills: Mapping[str, int]
    logical: int
    made: int
    creates: int
    delivered: int
    twice: int
    lost: int
    missing_files: int

    @property
    def good(self) -> bool:
        """True when every task that was written down was made once, ended and landed on disk."""
        return (self.twice, self.lost, self.missing_files) == (0, 0, 0) and self.made == self.logical == self.delivered


class Trap:
    """Kills a process as soon as the step it is set for is reached."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._step: str | None = None
        self._pid = 0
        self.sprung = threading.Event()

    def set(self, step: str, pid: int) -> None:
        with self._lock:
            self._step, self._pid = step, pid
            self.sprung.clear()

    def reached(self, step: str) -> None:
        with self._lock:
            if step == self._step:
                self._step = None
                os.kill(self._pid, signal.SIGKILL)
                self.sprung.set()


def run(kills: int, seed: int, folder: Path) -> Report:
    """Kill so many times, then let a last server finish."""
    dice, trap, counts = Random(seed), Trap(), Counter[str]()
    home = folder / "home"
    with (
        Sandbox(folder / "runapi", speed=SPEED, rate=None, seed=seed) as runapi,
        Proxy(int(runapi.base_url.rpartition(":")[2]), trap.reached) as proxy,
    ):
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "FLUX2_HOME": str(home),
            "FLUX2_RATE": "1000",
            "FLUX2_MAX_IN_FLIGHT": "1000",
            "RUNAPI_API_KEY": runapi.api_key,
            "RUNAPI_BASE_URL": proxy.base_url,
        }
        for number in range(kills):
            step = STEPS[number % len(STEPS)]
            counts[_round(env, home, trap, step, number, dice)] += 1
        with Host(env, LEGACY) as host:
            host.call("check_task")
            deadline = time.monotonic() + END_SECONDS
            while _states(home).keys() - {"delivered"} and time.monotonic() < deadline:
                time.sleep(0.2)
        made, creates = runapi.tasks(), runapi.creates()
    rows = _rows(home, "SELECT key, state, images FROM task")
    files = list((home / "images").glob("*"))
    keys = Counter(task.idempotency_key for task in made)
    return Report(
        kills=dict(counts),
        logical=len(rows),
        made=len(made),
        creates=creates,
        delivered=sum(1 for row in rows if row[1] == "delivered"),
        twice=sum(number - 1 for number in keys.values()),
        lost=sum(1 for row in rows if row[1] != "delivered") + len(keys.keys() - {row[0] for row in rows}),
        missing_files=len(rows) - sum(1 for file in files if file.suffix == ".png"),
    )


def _round(env: Mapping[str, str], home: Path, trap: Trap, step: str, number: int, dice: Random) -> str:
    host = Host(env, LEGACY)
    with host:
        before = sum(_states(home).values())
        trap.set(step, host.process.pid)
        arguments = {"prompt": f"number {number}, a red fox in snow"}
        host.send({"jsonrpc": "2.0", "id": "kill", "method": "tools/call",
                   "params": {"name": "generate", "arguments": arguments}})  # fmt: skip
        if step == "any moment":
            time.sleep(dice.uniform(0, 1.5))
        elif step == "intent written":
            deadline = time.monotonic() + ROUND_SECONDS
            while sum(_states(home).values()) == before and time.monotonic() < deadline:
                pass
        elif not trap.sprung.wait(ROUND_SECONDS):
            step = "any moment"
        host.process.kill()
    return step


def _rows(home: Path, sql: str) -> list[tuple[str, ...]]:
    path = home / "journal.sqlite3"
    if not path.exists():
        return []
    connection = sqlite3.connect(path, timeout=10)
    try:
        return connection.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []  # not migrated yet
    finally:
        connection.close()


def _states(home: Path) -> Counter[str]:
    return Counter(row[0] for row in _rows(home, "SELECT state FROM task"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = run(options.kills, options.seed, Path(folder))
    print(f"{sum(report.kills.values())} kills in {time.monotonic() - began:.0f} s, seed {options.seed}")
    for step, number in sorted(report.kills.items()):
        print(f"  {step:16} {number}")
    print(
        f"tasks in the journal {report.logical}, made by the service {report.made}, creates it received {report.creates}"
    )
    print(
        f"delivered {report.delivered}, lost {report.lost}, paid twice {report.twice}, files missing {report.missing_files}"
    )
    sys.exit(0 if report.good else 1)


if __name__ == "__main__":
    main()
