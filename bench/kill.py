"""Kill the server with SIGKILL at every step of a task's life, again and again: python -m bench.kill [--kills 200].

With --journal postgres, the journal stands in a PostgreSQL, which falls over in each twentieth round. With --downloads: always at a random moment while images are on their way to disk and into the workspace.

One sandbox, one FLUX2_HOME. In each round a server is started, asked for an image, and killed at a step that the dice
choose; the next one finds what it left. In every ninth round it is stopped instead, and goes on 25 to 40 seconds later, when
others have taken its task over and the user has edited the file. In the end a last server must bring every task to its end.
Prints what was killed where, and compares the creates and tasks of the service with the journal, and the journal with the
disk. Exits with 1 if a task was lost or paid twice, a file is missing, broken, or there twice, or what was edited is undone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from bench.proxy import Proxy
from bench.rows import KINDS, DatabaseRows, Rows, journal, states
from bench.stops import Stops
from flux2_mcp.sandbox.server import Sandbox
from tests.conftest import environment
from tests.support.postgres import Cluster
from tests.support.stdio import LEGACY, Host

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
DOWNLOADS = ("while fetching",)
FETCH_SECONDS = 1.0
"""A picture takes about half of this on its way; kills fall anywhere in it."""
TRICKLE = 0.02
"""Seconds that each piece of a picture waits."""
SPEED = 20.0
ROUND_SECONDS = 60.0
STOP_EVERY = 9
"""Rounds, of which one is a stop; the steps take turns in that, too."""
CRASH_EVERY = 20
"""Rounds, of which in one the database is stopped at once, as a machine that falls, and started again."""
FIRST_CRASH = 1
END_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `kills` by step, stops among them; `crashes` of the database; the rest are numbers of tasks.

    Of `stopped` servers `overtaken` had lost their task when they woke. Of files that the user had `edited` by then, `undone` were
    written over.
    """

    kills: Mapping[str, int]
    stopped: int
    crashes: int
    overtaken: int
    edited: int
    undone: int
    logical: int
    made: int
    creates: int
    delivered: int
    twice: int
    lost: int
    missing_files: int
    broken_files: int
    other_files: int

    @property
    def good(self) -> bool:
        """True when every task that was written down was made once, ended and landed on disk, once and whole."""
        wrong = (self.twice, self.lost, self.missing_files, self.broken_files, self.other_files, self.undone)
        return not any(wrong) and self.made == self.logical == self.delivered


class Trap:
    """Kills or stops a process as soon as the step it is set for is reached; while fetching, so many seconds after that began."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self._lock = threading.Lock()
        self._step: str | None = None
        self._pid, self._signal = 0, signal.SIGKILL
        self.sprung = threading.Event()

    def set(self, step: str, pid: int, by: signal.Signals = signal.SIGKILL) -> None:
        with self._lock:
            self._step, self._pid, self._signal = step, pid, by
            self.sprung.clear()

    def reached(self, step: str) -> None:
        with self._lock:
            if step == "fetch sent" and self._step == DOWNLOADS[0]:
                self._step = None
                seconds = self._dice.uniform(0, FETCH_SECONDS)
                threading.Timer(seconds, self._spring, [self._pid, self._signal]).start()
            elif step == self._step:
                self._step = None
                self._spring(self._pid, self._signal)

    def _spring(self, pid: int, by: signal.Signals) -> None:
        os.kill(pid, by)
        self.sprung.set()


def run(kills: int, seed: int, folder: Path, steps: Sequence[str] = STEPS, kind: str = KINDS[0]) -> Report:
    """Kill so many times, then let a last server finish. `kind` of the journal: see `rows.KINDS`."""
    dice, counts = Random(seed), Counter[str]()
    trap, home, workspace = Trap(dice), folder / "home", folder / "workspace"
    workspace.mkdir()
    crashes = 0
    with (
        journal(kind, home) as rows_of,
        Sandbox(folder / "runapi", speed=SPEED, rate=None, seed=seed) as runapi,
        Proxy(
            int(runapi.base_url.rpartition(":")[2]), trap.reached, trickle=TRICKLE if steps is DOWNLOADS else 0.0
        ) as proxy,
    ):
        env = environment(folder) | {
            "FLUX2_WORKSPACE": str(workspace),
            "FLUX2_MAX_IN_FLIGHT": "1000",
            "RUNAPI_API_KEY": runapi.api_key,
            "RUNAPI_BASE_URL": proxy.base_url,
            **rows_of.env,
        }
        stops = Stops(dice, rows_of)
        for number in range(kills):
            step = steps[number % len(steps)]
            still = stops if number % STOP_EVERY == STOP_EVERY - 1 else None
            crashed = (
                rows_of.cluster if isinstance(rows_of, DatabaseRows) and number % CRASH_EVERY == FIRST_CRASH else None
            )
            crashes += crashed is not None
            counts[_round(env, rows_of, trap, step, number, dice, still, crashed)] += 1
        stops.join()
        with Host(env, LEGACY) as host:
            host.call("check_task")
            deadline = time.monotonic() + END_SECONDS
            while states(rows_of).keys() - {"delivered"} and time.monotonic() < deadline:
                time.sleep(0.2)
        made, creates = runapi.tasks(), runapi.creates()
        rows = rows_of.read("SELECT key, state, images FROM task")
    kept = [image for row in rows for image in json.loads(row[2])]
    files = _digests(home / "images") | _digests(workspace)
    wanted = {image["path"]: image["sha256"] for image in kept} | {image["saved"]: image["sha256"] for image in kept}
    keys = Counter(task.idempotency_key for task in made)
    return Report(
        kills=dict(counts),
        stopped=stops.stopped,
        crashes=crashes,
        overtaken=stops.overtaken,
        edited=len(stops.edited),
        undone=stops.undone(),
        logical=len(rows),
        made=len(made),
        creates=creates,
        delivered=sum(1 for row in rows if row[1] == "delivered"),
        twice=sum(number - 1 for number in keys.values()),
        lost=sum(1 for row in rows if row[1] != "delivered") + len(keys.keys() - {row[0] for row in rows}),
        missing_files=2 * len(rows) - len(files.keys() & wanted.keys()),
        broken_files=sum(
            1
            for path, digest in files.items()
            if path in wanted and path not in stops.edited and wanted[path] != digest
        ),
        other_files=len(files.keys() - wanted.keys()),
    )


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _round(
    env: Mapping[str, str],
    rows: Rows,
    trap: Trap,
    step: str,
    number: int,
    dice: Random,
    stops: Stops | None,
    crashed: Cluster | None,
) -> str:
    """Kill a server at a step, or stop it where `stops` are given; first crash the database. Gives the step."""
    host = Host(env, LEGACY).__enter__()
    deadline = time.monotonic() + ROUND_SECONDS
    while stops is not None and states(rows).keys() - {"delivered"} and time.monotonic() < deadline:
        time.sleep(0.1)  # else it would be stopped over what others have left
    before, by = sum(states(rows).values()), signal.SIGKILL if stops is None else signal.SIGSTOP
    trap.set(step, host.process.pid, by)
    prompt = f"number {number}, a red fox in snow"
    arguments = {"prompt": prompt, "save_to": f"made/fox-{number}.png", "overwrite": bool(dice.getrandbits(1))}
    host.send({"jsonrpc": "2.0", "id": "kill", "method": "tools/call",
               "params": {"name": "generate", "arguments": arguments}})  # fmt: skip
    if crashed is not None:
        time.sleep(dice.uniform(0, 0.5))
        crashed.stop()
        crashed.start()
    if step == "any moment":
        time.sleep(dice.uniform(0, 1.5))
    elif step == "intent written":
        deadline = time.monotonic() + ROUND_SECONDS
        while sum(states(rows).values()) == before and time.monotonic() < deadline:
            pass
    elif not trap.sprung.wait(ROUND_SECONDS):
        step = "any moment"
    host.process.send_signal(by)
    if stops is None:
        host.close()
    else:
        stops.add(host, prompt)
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--journal", choices=KINDS, default=KINDS[0], help="where the journal stands")
    parser.add_argument("--downloads", action="store_true", help="kill only while images are on their way")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        steps = DOWNLOADS if options.downloads else STEPS
        report = run(options.kills, options.seed, Path(folder), steps, options.journal)
    print(f"{sum(report.kills.values())} kills in {time.monotonic() - began:.0f} s, seed {options.seed}")
    print(
        f"of these {report.stopped} were stops: {report.overtaken} overtaken, {report.edited} files edited meanwhile and"
        f" {report.undone} of them written over"
    )
    if options.journal == "postgres":
        print(f"immediate stops of PostgreSQL in the middle of a call: {report.crashes}")
    for step, number in sorted(report.kills.items()):
        print(f"  {step:16} {number}")
    print(
        f"tasks in the journal {report.logical}, made by the service {report.made}, creates it received {report.creates}"
    )
    print(
        f"delivered {report.delivered}, lost {report.lost}, paid twice {report.twice}, files missing {report.missing_files},"
        f" broken {report.broken_files}, to nobody {report.other_files}"
    )
    sys.exit(0 if report.good else 1)


if __name__ == "__main__":
    main()
