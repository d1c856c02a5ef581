"""Servers of a team on one journal, and how many tasks a second they make: for `team_load`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx2
import psycopg

from bench.rows import FileRows, Rows
from bench.talk import live, resident, sandbox
from flux2_mcp.engine.team import Team as People
from flux2_mcp.settings import from_env
from tests.conftest import environment
from tests.support import postgres
from tests.support.postgres import Cluster
from tests.support.team import Team

PUBLIC = "https://flux2.example.com"
TEXT = "/api/v1/flux_2/text_to_image"
BODY = {"model": "flux-2-pro-text-to-image"}
CALLERS = 16
"""Who call at the same time, each with a token of their own."""
SPEED = 20.0
IDLE_SECONDS = 8.0
END_SECONDS = 300.0
CAPS = {
    "FLUX2_DAILY_BUDGET_USD": "100000",
    "FLUX2_MONTHLY_BUDGET_USD": "100000",
    "FLUX2_PERSON_MONTHLY_BUDGET_USD": "100000",
}
SETTINGS = postgres.SAFE | {"shared_preload_libraries": "pg_stat_statements", "shared_buffers": "128MB"}
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What came of it. Seconds of a CPU are those of all servers, and of the database; without one, 0.

    `calls_ms` is how long each call took until its task was written, sent and answered.
    """

    tasks: int
    seconds: float
    calls_ms: Sequence[float]
    server_cpu: float
    database_cpu: float
    transactions: float
    statements: float
    memory_mib: float


class Counters:
    """What the database has done since its start. Each connection tells its own about once a second."""

    def __init__(self, cluster: Cluster) -> None:
        self._url = cluster.url
        self._pid = int((cluster.data / "postmaster.pid").read_text("ascii").split()[0])
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    def read(self) -> tuple[int, int, float]:
        """Transactions, statements, and seconds of a CPU."""
        with psycopg.connect(self._url) as connection:
            row = connection.execute(
                "SELECT xact_commit, (SELECT sum(calls) FROM pg_stat_statements) FROM pg_stat_database"
                " WHERE datname = current_database()"
            ).fetchone()
        assert row is not None
        return int(row[0]), int(row[1]), self._cpu()

    def _cpu(self) -> float:
        ticks = 0
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text("ascii").rpartition(") ")[2].split()
            except OSError:
                continue  # it has ended
            if entry.parent.name == str(self._pid):
                ticks += sum(map(int, fields[11:15]))  # its own, and those of its processes that have ended
            elif fields[1] == str(self._pid):
                ticks += sum(map(int, fields[11:13]))
        return ticks / TICKS


def cpu(pid: int) -> float:
    """Seconds on a CPU so far, all threads of a process together."""
    return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3), as Linux makes it


@contextmanager
def _journal(kind: str, home: Path) -> Iterator[tuple[Mapping[str, str], Rows | Cluster]]:
    if kind == "sqlite":
        yield {}, FileRows(home)
    else:
        with postgres.cluster(SETTINGS) as cluster:
            yield {"FLUX2_JOURNAL_URL": cluster.url}, cluster


def run(folder: Path, kind: str, *, replicas: int, rate: int, tasks: int) -> Made:
    """Let the callers ask for so many tasks, as fast as they are answered, and wait until all images are there."""
    folder.mkdir()
    (folder / "user").mkdir()
    with (
        sandbox(folder / "runapi", speed=SPEED, seed=1) as (base_url, api_key),
        _journal(kind, folder / "home") as (there, journal),
        ExitStack() as stack,
    ):
        env = environment(folder) | CAPS | live(base_url, api_key, rate=rate, in_flight=tasks) | dict(there)
        env["FLUX2_SEAL_KEY"] = "a-secret-of-the-bench-which-all-servers-share"
        tokens = anyio.run(_tokens, env)
        servers = [stack.enter_context(Team(env, None, "--public-url", PUBLIC, public=PUBLIC)) for _ in range(replicas)]
        callers = [
            httpx2.Client(base_url=servers[n % replicas].base, timeout=60, headers={"Authorization": f"Bearer {token}"})
            for n, token in enumerate(tokens)
        ]
        for caller in callers:
            stack.enter_context(caller)
            caller.get("/api/v1/me").raise_for_status()  # its token is known
        counters = Counters(journal) if isinstance(journal, Cluster) else None
        idle = _during(counters, lambda: time.sleep(IDLE_SECONDS))
        pids = [server.process.pid for server in servers]
        before, began = sum(map(cpu, pids)), time.monotonic()
        calls_ms = list[float]()

        def work() -> None:
            with ThreadPoolExecutor(CALLERS) as pool:
                calls_ms.extend(pool.map(lambda n: _create(callers[n % CALLERS], n), range(tasks)))
            _wait(journal, tasks)

        done = _during(counters, work)
        seconds = time.monotonic() - began
        return Made(
            tasks=tasks,
            seconds=seconds,
            calls_ms=calls_ms,
            server_cpu=sum(map(cpu, pids)) - before,
            database_cpu=done[2] - idle[2] * seconds / IDLE_SECONDS,
            transactions=(done[0] - idle[0] * seconds / IDLE_SECONDS) / tasks,
            statements=(done[1] - idle[1] * seconds / IDLE_SECONDS) / tasks,
            memory_mib=max(map(resident, pids)) / 2**20,
        )


def _during(counters: Counters | None, work: object) -> tuple[float, float, float]:
    assert callable(work)
    if counters is None:
        work()
        return 0, 0, 0
    before = counters.read()
    work()
    time.sleep(1.5)
    after = counters.read()
    return after[0] - before[0], after[1] - before[1], after[2] - before[2]


async def _tokens(env: Mapping[str, str]) -> list[str]:
    async with People.opened(from_env(env)) as people:
        made = [
            await people.make_token(f"program {n}", days=None, daily_usd=None, monthly_usd=None) for n in range(CALLERS)
        ]
    return [token for token, _ in made]


def _create(caller: httpx2.Client, number: int) -> float:
    began = time.monotonic()
    caller.post(TEXT, json=BODY | {"prompt": f"a red fox, {number}"}).raise_for_status()
    return (time.monotonic() - began) * 1000


def _wait(journal: Rows | Cluster, tasks: int) -> None:
    deadline = time.monotonic() + END_SECONDS
    sql = "SELECT count(*) FROM task WHERE state = 'delivered'"
    with ExitStack() as stack:
        if isinstance(journal, Cluster):
            connection = stack.enter_context(psycopg.connect(journal.url, autocommit=True))

        def delivered() -> int:
            if isinstance(journal, Cluster):
                row = connection.execute(sql.encode()).fetchone()
                assert row is not None
                return int(row[0])
            return int(journal.read(sql)[0][0])

        while delivered() < tasks:
            assert time.monotonic() < deadline
            time.sleep(0.5)
