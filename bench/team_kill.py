"""A team's servers, killed again and again: python -m bench.team_kill [--kills 200] [--stops 10] [--store-stops 5] [--seed N].

Three replicas of `flux2-mcp serve --http`, each as on a machine of its own, so that no table of processes tells of an end. One
PostgreSQL, one object store, and the sandbox as RunAPI, at RunAPI's own pace. People with personal tokens call through
whichever replica lives, half over RunAPI's HTTP and half by the tools, several calls of a person at once, until their cap
is used up; then another person comes. Of the tasks some fail, and free what they had reserved. When the cap of all is
nearly used up, all that is asked for fails, so that the sum stays at the edge to the end. Meanwhile replicas are killed at
random moments, the database is stopped at once, as a machine that falls, and the store is lost, or says nothing.

Exits with 1 if a task was lost, made twice or paid twice, if a cap was passed or never reached, an image is not in the store or
has other bytes than the journal says, a task has no entry in the audit, or a takeover took longer than 10 s. A time in which the
database was away is added to these.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random

import anyio

from bench import team_report
from bench.caps_race import Watcher
from bench.rows import DatabaseRows, journal, states
from bench.soak import DOCS, TEAM, machine, write_page
from bench.takeovers import Takeovers
from bench.talk import live, sandbox
from bench.team_callers import CAPS, Caller, NotAnsweredError, Replicas
from bench.team_checks import Call, compared
from bench.team_report import Report
from bench.team_report import Takeovers as Took
from flux2_mcp.engine.team import Team
from flux2_mcp.sandbox import tasks as sandbox_tasks
from flux2_mcp.sandbox.state import SandboxState
from flux2_mcp.settings import from_env
from tests.conftest import environment
from tests.support import object_store
from tests.support.object_store import S3Server
from tests.support.pg_proxy import LineProxy
from tests.support.sandboxed import LOGO

REPLICAS = 3
LANES, CALLS_AT_ONCE = 8, 3
"""People who call at the same time, and how many calls each of them has under way."""
FAILING = 0.4
"""Of the calls; at the edge of the cap of all, each."""
SLOW = 0.1
PERSON_CAP = Decimal("0.50")
EDGE = Decimal("0.20")
"""When no more than this is left of the cap of all, nothing that will be charged is asked for."""
KILL_PAUSE = (0.5, 4.5)
AWAY_SECONDS = (0.0, 3.0)
STORE_AWAY_SECONDS = (2.0, 8.0)
TAKEOVER_SECONDS = 10.0
END_SECONDS = 300.0
ENDED = {"delivered", "failed"}


class Crowd:
    """People who call until they are told to end.

    Args:
        replicas: Where to call.
        tokens: A personal token for each person.
        cap: That of all.
        seed: For their dice.
    """

    def __init__(self, replicas: Replicas, tokens: Sequence[str], cap: Decimal, seed: int) -> None:
        self._replicas = replicas
        self._tokens = tokens
        self._cap = cap
        self._seed = seed
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._used_up = set[int]()
        self._next = LANES
        self._lane = list(range(LANES))
        self._asked = Decimal(0)
        self._number = 0
        self.calls: list[Call] = []
        self.unanswered: list[str] = []
        self.tries = Counter[str]()
        self._pool = ThreadPoolExecutor(LANES * CALLS_AT_ONCE)
        self._lives = [self._pool.submit(self._live, number) for number in range(LANES * CALLS_AT_ONCE)]

    def end(self) -> None:
        """Let all calls under way be answered."""
        self._over.set()
        self._pool.shutdown()

    def must_have_lived(self) -> None:
        """Raise what a person's thread has raised."""
        for life in self._lives:
            life.result()

    def _live(self, number: int) -> None:
        dice = Random(f"{self._seed}-{number}")
        while not self._over.is_set():
            with self._lock:
                person = self._lane[number % LANES]
            caller = Caller(self._replicas, self._tokens[person], dice, self.tries)
            try:
                self._stay(caller, person, number % LANES, dice)
            finally:
                caller.close()

    def _stay(self, caller: Caller, person: int, lane: int, dice: Random) -> None:
        """Call for this person, until the person's cap is used up."""
        while not self._over.is_set() and self._lane[lane] == person:
            # What is under way may still fail, and free what it has reserved.
            call = self._call(caller, dice)
            if call is None:
                continue
            with self._lock:
                self.calls.append(call)
                if call.cap == CAPS[0] and self._lane[lane] == person and self._next < len(self._tokens):
                    if person in self._used_up:
                        self._lane[lane], self._next = self._next, self._next + 1
                    self._used_up.add(person)
            if call.cap is not None:
                time.sleep(dice.uniform(0.2, 1.0))

    def _call(self, caller: Caller, dice: Random) -> Call | None:
        count = dice.choice([1, 1, 2]) if dice.getrandbits(1) else 0  # 0: over RunAPI's own HTTP, which makes one
        variant, cost = dice.choice([("pro", "0.05"), ("pro", "0.05"), ("flex", "0.14")])
        with self._lock:
            self._number += 1
            price = Decimal(cost) * max(1, count)
            fails = dice.random() < FAILING or self._asked + price > self._cap - EDGE
            self._asked += 0 if fails else price
            number = self._number
        marked = f"{LOGO}, number {number}."
        marked += " [sandbox:moderation]" if fails else ""
        marked += " [sandbox:slow]" if dice.random() < SLOW else ""
        key, sha256 = f"call {number}", None
        try:
            if count:
                ids, cap = caller.generate(key, prompt=marked, variant=variant, count=count)
                if ids:
                    caller.check(ids)
            else:
                ids, cap = caller.create({"model": f"flux-2-{variant}-text-to-image", "prompt": marked}, key)
                if ids and caller.ended(ids[0]) == "completed":
                    sha256 = hashlib.sha256(caller.image(ids[0])).hexdigest()
        except NotAnsweredError as exc:
            self.unanswered.append(f"{number}: {exc}")
            return None
        if not ids and not fails:
            with self._lock:
                self._asked -= price
        return Call(number, max(1, count), fails, tuple(ids), cap, sha256)


class Stops:
    """Stops the database and the store in the background, one at a time each; remembers when the database was away."""

    def __init__(self, rows: DatabaseRows, store: S3Server, line: LineProxy, dice: Random) -> None:
        self._rows = rows
        self._store = store
        self._line = line
        self._dice = dice
        self._turns = {"database": threading.Lock(), "store": threading.Lock()}
        self._threads: list[threading.Thread] = []
        self.away: list[tuple[float, float]] = []
        self.store_stops = 0

    def database(self) -> None:
        self._begin("database", self._stop_database)

    def store(self) -> None:
        self._begin("store", self._stop_store)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _begin(self, what: str, work: Callable[[], None]) -> None:
        def stop() -> None:
            with self._turns[what]:
                work()

        thread = threading.Thread(target=stop)
        self._threads.append(thread)
        thread.start()

    def _stop_database(self) -> None:
        assert self._rows.cluster is not None
        began = time.monotonic()
        self._rows.cluster.stop()
        time.sleep(self._dice.uniform(*AWAY_SECONDS))
        self._rows.cluster.start()
        self.away.append((began, time.monotonic()))

    def _stop_store(self) -> None:
        """By turns it is gone, with what was on its way, and says nothing."""
        self.store_stops += 1
        seconds = self._dice.uniform(*STORE_AWAY_SECONDS)
        if self.store_stops % 2:
            self._line.lost = True
            self._line.cut()
            time.sleep(seconds)
            self._line.lost = False
        else:
            self._store.signal(signal.SIGSTOP)
            time.sleep(seconds)
            self._store.signal(signal.SIGCONT)

    def overlap(self, begin: float, end: float) -> float:
        """For how many of these seconds the database was away."""
        return sum(max(0.0, min(end, back) - max(begin, gone)) for gone, back in self.away)


async def _tokens(env: Mapping[str, str], count: int) -> list[str]:
    async with Team.opened(from_env(env)) as team:
        return [(await team.make_token(f"person-{number}", days=None, daily_usd=None, monthly_usd=None))[0] for number in range(count)]  # fmt: skip


def run(
    kills: int,
    stops: int,
    store_stops: int,
    seed: int,
    folder: Path,
    cap: Decimal,
    takeover_seconds: float = TAKEOVER_SECONDS,
) -> Report:
    """Kill so many times, wait until all tasks have ended, and compare the journal with all the others."""
    dice, began = Random(seed), time.monotonic()
    stop_at = dict(Counter(dice.choices(range(kills), k=stops)))
    store_at = dict(Counter(dice.choices(range(kills), k=store_stops)))
    with ExitStack() as stack:
        rows = stack.enter_context(journal("postgres", folder))
        assert isinstance(rows, DatabaseRows)
        store = stack.enter_context(object_store.running())
        line = stack.enter_context(LineProxy(lambda: socket.create_connection(("127.0.0.1", store.port))))
        url, key = stack.enter_context(sandbox(folder / "runapi", speed=1.0, seed=seed, one_picture=False))
        env = {
            **environment(folder), **live(url, key, in_flight=1000), **rows.env, **store.env,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{line.port}",
            "FLUX2_IMAGES_URL": store.url,
            "FLUX2_SEAL_KEY": secrets.token_hex(32),
            "FLUX2_CONFIRM_USD": "off",
            CAPS[0]: str(PERSON_CAP),
            CAPS[1]: str(cap),
        }  # fmt: skip
        people = LANES + int(2 * cap / PERSON_CAP)
        tokens = anyio.run(_tokens, env, people)
        takeovers, watcher = Takeovers(rows.env["FLUX2_JOURNAL_URL"]), Watcher(rows, 0.1)
        stack.callback(takeovers.end)
        stack.callback(watcher.end)
        with Replicas(env, folder, REPLICAS) as replicas:
            while len(replicas.bases()) < REPLICAS:
                time.sleep(0.1)
            crowd = Crowd(replicas, tokens, cap, seed)
            stack.callback(crowd.end)
            away = Stops(rows, store, line, dice)
            for number in range(kills):
                time.sleep(dice.uniform(*KILL_PAUSE))
                for _ in range(stop_at.get(number, 0)):
                    away.database()
                for _ in range(store_at.get(number, 0)):
                    away.store()
                while not replicas.bases():
                    time.sleep(0.01)
                takeovers.killed(*replicas.kill(dice))
            away.join()
            crowd.end()
            crowd.must_have_lived()
            deadline = time.monotonic() + END_SECONDS
            while states(rows).keys() - ENDED and time.monotonic() < deadline:
                time.sleep(0.2)
        left = takeovers.end()
        watcher.end()
        state = SandboxState(folder / "runapi")
        made, creates = sandbox_tasks.every(state), state.counted("creates")
        state.close()
        checks = compared(rows, store, crowd.calls, made)
    plain = [end - begin for begin, end in takeovers.done if not away.overlap(begin, end)]
    meanwhile = [end - begin for begin, end in takeovers.done if away.overlap(begin, end)]
    late = sum(end - begin - away.overlap(begin, end) > takeover_seconds for begin, end in takeovers.done)
    wrong = {
        **checks.wrong,
        "stops that were not made": stops + store_stops - len(away.away) - away.store_stops,
        f"takeovers after more than {takeover_seconds:g} s": late,
        "tasks that nobody took over": left,
        "calls that were never answered": len(crowd.unanswered),
        "sums above the cap of all": int(max(watcher.most, checks.charged) > cap),
        "sums above a person's cap": int(max(watcher.most_of_person, checks.most_of_person) > PERSON_CAP),
        "lines of a traceback in what the servers said": sum("Traceback" in said for said in replicas.said),
    }
    refused = Counter(call.cap for call in crowd.calls if call.cap is not None)
    wrong |= {f"refusals by something else: {text}": number for text, number in refused.items() if text not in CAPS}
    return Report(
        date=f"{datetime.now(UTC):%Y-%m-%d}", machine=machine(), replicas=REPLICAS,
        command=f"python -m bench.team_kill --kills {kills} --stops {stops} --store-stops {store_stops} --seed {seed}",
        kills=kills, stops=len(away.away), store_stops=away.store_stops, seconds=round(time.monotonic() - began),
        calls=len(crowd.calls), refused=dict(refused), tasks=checks.tasks, made=len(made), creates=creates,
        delivered=checks.delivered, linked=checks.linked, unaudited=checks.unaudited, charged=str(checks.charged), cap=str(cap),
        most=str(watcher.most), person_cap=str(PERSON_CAP), most_of_person=str(watcher.most_of_person),
        looks=watcher.looks, takeovers=Took.of(plain), takeovers_while_away=Took.of(meanwhile), tries=dict(crowd.tries),
        failed_starts=replicas.failed_starts, wrong=[f"{what}: {number}" for what, number in wrong.items() if number],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--stops", type=int, default=10, help="immediate stops of PostgreSQL")
    parser.add_argument("--store-stops", type=int, default=5)
    parser.add_argument("--cap", type=Decimal, default=Decimal(25), help="USD a day, of all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write its part of docs/reliability.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(given.kills, given.stops, given.store_stops, given.seed, Path(folder), given.cap)
    for what, measured in team_report.rows(report):
        print(f"{what}: {measured}")
    print(f"{report.seconds:.0f} s; starts that failed: {report.failed_starts}")
    for why, number in Counter(report.tries).most_common():
        print(f"  called again {number:5}: {why}")
    if given.write:
        text = json.dumps(asdict(report) | {"tries": {"calls": sum(report.tries.values())}}, indent=2) + "\n"
        (DOCS / TEAM).write_text(text, "utf-8")
        write_page()
    sys.exit(1 if report.wrong or not report.reached else 0)


if __name__ == "__main__":
    main()
