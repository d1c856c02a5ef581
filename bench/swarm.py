"""Eight servers on one FLUX2_HOME make 200 tasks through one limiter, under one budget: python -m bench.swarm.

Every request passes a proxy that knows which process made it. Prints, and exits with 1 unless: no task was polled by two
processes, no second saw more requests than FLUX2_RATE, and exactly as many tasks were made as the budget pays for.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.proxy import Proxy
from bench.talk import sandbox
from flux2_mcp.sandbox import tasks as tasks_made
from flux2_mcp.sandbox.state import SandboxState
from tests.support.stdio import LEGACY, Host

SPEED = 4.0
CENTS = 5
ESTABLISHED = "01"
END_SECONDS = 240.0
_TASK = re.compile(rb"GET /api/v1/flux_2/\w+/([0-9a-f-]{36})")
_SOCKET = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it."""

    asked: int
    paid_for: int
    made: int
    refused: int
    unfinished: int
    requests: int
    busiest_second: int
    busiest_five: int
    polled_by_two: int
    polls: int
    unknown: int
    seconds: float


class Watch:
    """Who asked for what, and when: from the proxy's connections and the processes' open sockets."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.pollers: defaultdict[bytes, set[int]] = defaultdict(set)
        self.polls = 0
        self.unknown = 0
        self.proxy_port = 0
        self.pids: list[int] = []

    def seen(self, data: bytes, port: int) -> None:
        """One request came over the connection from this port."""
        self.times.append(time.monotonic())
        if task := _TASK.match(data):
            self.polls += 1
            if pid := self._pid(port):
                self.pollers[task[1]].add(pid)
            else:
                self.unknown += 1

    def _pid(self, port: int) -> int | None:
        # Our servers' end of the connection: the proxy's own, to the sandbox, may have the same port.
        lines = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
        ends = f":{port:04X}", f":{self.proxy_port:04X}", ESTABLISHED
        inodes = {line[9] for line in lines if (line[1][8:], line[2][8:], line[3]) == ends}
        for pid in self.pids:
            try:
                links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
            except OSError:
                continue  # it has ended, or has just closed one
            if any((found := _SOCKET.fullmatch(link)) and found[1] in inodes for link in links):
                return pid
        return None

    def busiest(self, seconds: float) -> int:
        """The most requests that any so many seconds saw, where they arrived."""
        times, most, first = sorted(self.times), 0, 0
        for last, at in enumerate(times):
            while at - times[first] >= seconds:
                first += 1
            most = max(most, last - first + 1)
        return most


def run(processes: int, tasks: int, rate: int, pays_for: int, folder: Path) -> Report:
    """Start the servers, share the tasks out, and count."""
    watch, began = Watch(), time.monotonic()
    with (
        sandbox(folder / "runapi", speed=SPEED, seed=1, one_picture=False) as (base_url, api_key),
        Proxy(int(base_url.rpartition(":")[2]), seen=watch.seen) as proxy,
    ):
        watch.proxy_port = proxy.port
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "FLUX2_HOME": str(folder / "home"),
            "FLUX2_RATE": str(rate),
            "FLUX2_MAX_IN_FLIGHT": str(tasks),
            "FLUX2_DAILY_BUDGET_USD": f"{pays_for * CENTS / 100:.2f}",
            "FLUX2_LOG": os.environ.get("FLUX2_LOG", "warning"),
            "RUNAPI_API_KEY": api_key,
            "RUNAPI_BASE_URL": proxy.base_url,
        }
        with ThreadPoolExecutor(processes) as pool:
            refused = sum(pool.map(lambda number: _server(env, number, tasks // processes, watch), range(processes)))
    state = SandboxState(folder / "runapi")
    made = tasks_made.every(state)
    state.close()
    return Report(
        asked=tasks,
        paid_for=pays_for,
        made=len(made),
        refused=refused,
        unfinished=sum(1 for task in made if task.ends_at is None or task.ends_at > time.time()),
        requests=len(watch.times),
        busiest_second=watch.busiest(1),
        busiest_five=watch.busiest(5),
        polled_by_two=sum(1 for pids in watch.pollers.values() if len(pids) > 1),
        polls=watch.polls,
        unknown=watch.unknown,
        seconds=time.monotonic() - began,
    )


def _server(env: Mapping[str, str], number: int, tasks: int, watch: Watch) -> int:
    """One host with one server: asks for its tasks one by one without waiting, then waits for all. Gives the refusals."""
    ids, refused = [], 0
    with Host(env, LEGACY) as host:
        watch.pids.append(host.process.pid)
        for each in range(tasks):
            result = host.call("generate", prompt=f"fox {each} of server {number}", wait_seconds=0)
            if result.get("isError"):
                assert "FLUX2_DAILY_BUDGET_USD" in result["content"][0]["text"], f"{result}\n{host.close()}"
                refused += 1
            else:
                ids += [task["task_id"] for task in result["structuredContent"]["tasks"]]
        deadline = time.monotonic() + END_SECONDS
        while ids and time.monotonic() < deadline:
            done = host.call("check_task", task_ids=ids, wait_seconds=20)["structuredContent"]
            ids = (done["next_action"] or {"arguments": {"task_ids": []}})["arguments"]["task_ids"]
    sys.stderr.write(host.errors)
    return refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--rate", type=int, default=30)
    parser.add_argument("--pays-for", type=int, default=150)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(options.processes, options.tasks, options.rate, options.pays_for, Path(folder))
    print(f"{options.processes} servers, {report.asked} tasks asked for, {report.seconds:.0f} s")
    print(f"the budget pays for {report.paid_for}: made {report.made}, refused {report.refused}")
    print(f"requests {report.requests}; in the busiest second {report.busiest_second} of {options.rate} allowed,"
          f" in the busiest five {report.busiest_five} of {5 * options.rate}")  # fmt: skip
    print(f"polls {report.polls} ({report.polls / report.made:.1f} a task); tasks polled by two {report.polled_by_two}"
          f" (polls by a process that could not be told: {report.unknown})")  # fmt: skip
    good = (
        report.made == min(report.paid_for, report.asked)
        and report.refused == report.asked - report.made
        and report.busiest_second <= options.rate
        and not report.polled_by_two
        and not report.unfinished
    )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
