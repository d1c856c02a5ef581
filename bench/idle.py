"""A server that nobody has asked for an image, beside one that does not sleep: python -m bench.idle.

In each round every host's recorded opening is said to a server of its own, asleep and awake, with an empty home and with a
used one; all of them then wait side by side. Apart from these: a call that follows at once; a `generate` from the call to its
POST; how soon a task is taken over whose lease has ended. `--vendor COMMAND` measures another server's memory, too.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import shutil
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

from bench.report import FOUND, NOISE, Reach, Report, certain, end, ratio
from bench.talk import HELLO, MINIMAL, SERVER, Conversation
from tests.support.openings import SESSIONS

SETTLED_SECONDS = 10.0
MINUTE = 60.0
LEASE_SECONDS = 4.0
"""How long the lease of a task that is left behind lasts here."""
PAUSE = 0.02
DEADLINE = 60.0
TASKS = 60
"""In the used journal: more than a list of resources has on a page."""
OURS, AWAKE, VENDOR = "ours", "ours, awake", "vendor's"
ENVS: Mapping[str, Mapping[str, str]] = {OURS: {}, AWAKE: {"FLUX2_SLEEP": "0"}, VENDOR: {}}
GENERATE = "a first generate to its POST"
JOURNALS = ("empty", "used")
SANDBOX = {"FLUX2_MODE": "sandbox", "FLUX2_SANDBOX_SPEED": "1000", "FLUX2_RATE": "1000"}
BARE = [sys.executable, "-c", "import os; os.write(1, b'{}\\n'); os.read(0, 1)"]
LIMITS = (
    NOISE,
    "Awake is the same server with FLUX2_SLEEP=0: it loads everything at its start, as every version before did.",
    f"Memory is VmRSS, and counts pages that are shared; work is time on a CPU, until {SETTLED_SECONDS:g} s after the last answer.",
    "Each figure is the median of the rounds; a reach holds for the host and the journal where it is worst.",
    "A call at once follows the list of tools without a pause; then what sleep saves is nothing, and it may cost nothing.",
    "The import of the SDK is that of the minimal server, from its spawn to `initialize`, less the start of a bare interpreter.",
    "The vendor's server needs Node and is measured only where its command is given.",
)


@dataclass(frozen=True, slots=True)
class Idling:
    """One server: ms from its spawn to the list of tools; MiB and ms of CPU until it has settled; ms of CPU in a minute."""

    tools_list: float
    memory: float
    work: float
    minute: float


Key = tuple[str, str, str]
"""Who, which journal, which host."""


def say(talk: Conversation, lines: Sequence[str]) -> float:
    """Say a host's lines, and wait for each answer, as hosts do. Milliseconds from the spawn to the list of tools."""
    found = 0.0
    for line in lines:
        message = json.loads(line)
        talk.send(message)
        if "id" in message:
            while json.loads(talk.line()).get("id") != message["id"]:
                pass
        if message["method"] == "tools/list":
            found = talk.since()
    return found


def used_home(folder: Path) -> None:
    """A home with the tasks of an earlier session."""
    with Conversation(SERVER, str(folder), SANDBOX) as talk:
        for number in range(TASKS):
            talk.call("generate", prompt=f"[sandbox:instant] fox {number}", wait_seconds=60)


def idle(keys: Sequence[Key], used: Path, folder: Path, vendor: Sequence[str], seconds: float) -> dict[Key, Idling]:
    """All these servers, started one after the other; then they wait together."""
    told = {}
    with ExitStack() as stack:
        talks = {}
        for number, key in enumerate(keys):
            who, journal, host = key
            home = folder / str(number)
            if journal == "used":
                shutil.copytree(used, home)
            else:
                home.mkdir()
            talk = Conversation(vendor if who == VENDOR else SERVER, str(home), {**SANDBOX, **ENVS[who]})
            stack.callback(stopped, talk)
            tools_list = say(talk, SESSIONS[host])
            quiet(talk)
            talks[key] = talk, tools_list, time.monotonic() + SETTLED_SECONDS
        settled = {}
        for key, (talk, _, until) in talks.items():
            time.sleep(max(0.0, until - time.monotonic()))
            settled[key] = talk.memory() / 2**20, talk.work()
        began = time.monotonic()
        time.sleep(seconds)
        for key, (talk, tools_list, _) in talks.items():
            memory, work = settled[key]
            minute = (talk.work() - work) * MINUTE / (time.monotonic() - began)
            told[key] = Idling(tools_list, memory, work, minute)
    return told


def stopped(talk: Conversation) -> None:
    talk.process.kill()
    talk.process.wait()
    for pipe in (talk.process.stdin, talk.process.stdout):
        if pipe is not None:
            pipe.close()


def quiet(talk: Conversation) -> None:
    """Wait until it has loaded what it loads: the next one is not to wait for it."""
    before = -math.inf
    while talk.work() - before > 1:
        before = talk.work()
        time.sleep(10 * PAUSE)


def first_call(who: str, home: str) -> tuple[float, float]:
    """Milliseconds from the spawn to the list of tools, and to the answer of a call that follows at once."""
    with Conversation(SERVER, home, ENVS[who]) as talk:
        tools_list = talk.since()
        talk.call("list_variants")
        return tools_list, talk.since()


class Posts(ThreadingHTTPServer):
    """A RunAPI that refuses all, and notes when the first task arrived. Threads serve it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Refusal)
        self.arrived = threading.Event()
        self.at = 0.0
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Refusal(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        if isinstance(self.server, Posts) and "image" in self.path and not self.server.arrived.is_set():
            self.server.at = time.perf_counter()
            self.server.arrived.set()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_GET(self) -> None:
        body = b'{"error": {"code": "tests", "message": "refused"}}'
        self.send_response(400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing goes to stderr."""


@contextmanager
def posts() -> Iterator[Posts]:
    with Posts() as server:
        yield server
        server.shutdown()


def generate(who: str, home: str) -> float:
    """Milliseconds from a `generate` in a session that has settled to its POST."""
    with posts() as runapi:
        env = {"RUNAPI_BASE_URL": f"http://127.0.0.1:{runapi.server_port}", "RUNAPI_API_KEY": "k" * 20, **ENVS[who]}
        with Conversation(SERVER, home, env) as talk:
            time.sleep(1)  # awake, it has loaded everything by then
            began = time.perf_counter()
            talk.start("tools/call", {"name": "generate", "arguments": {"prompt": "a fox", "wait_seconds": 0}})
            assert runapi.arrived.wait(DEADLINE), "no POST came"
            took = (runapi.at - began) * 1000
            talk.line()
        return took


def importing(home: str) -> float:
    """Milliseconds that the import of the SDK takes."""
    least = Conversation(MINIMAL, home)
    least.ask("initialize", HELLO)
    took = least.since()
    stopped(least)
    bare = Conversation(BARE, home)
    bare.line()
    took -= bare.since()
    stopped(bare)
    return took


def taken_over(home: Path) -> float:
    """Seconds from the end of a lease to another lease of the same task, by a server that slept."""
    with closing(sqlite3.connect(home / "journal.sqlite3", isolation_level=None)) as journal:
        until = time.monotonic() + LEASE_SECONDS
        journal.execute(
            "UPDATE task SET state = 'submitted', owner = 'another machine/1/x', lease_until = ? WHERE n = 1", (until,)
        )
        with Conversation(SERVER, str(home), SANDBOX):
            deadline = until + DEADLINE
            while journal.execute("SELECT owner FROM task WHERE n = 1").fetchone()[0].startswith("another"):
                assert time.monotonic() < deadline, "nobody took it over"
                time.sleep(PAUSE)
            return time.monotonic() - until


def measure(rounds: int, calls: int, seed: int, seconds: float, vendor: Sequence[str]) -> Report:
    dice, who = Random(seed), (OURS, AWAKE)
    keys = [(one, journal, host) for one in who for journal in JOURNALS for host in SESSIONS]
    keys += [(VENDOR, "empty", host) for host in SESSIONS if vendor]
    found: dict[Key, list[Idling]] = {key: [] for key in keys}
    lists, at_once, to_post = ({one: list[float]() for one in who} for _ in range(3))
    sdk, over = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (used := folder / "used").mkdir()
        used_home(used)
        for number in range(-1, calls):  # a first round that only warms
            for one in dice.sample(who, len(who)):
                told = first_call(one, name)
                if number >= 0:
                    lists[one].append(told[0])
                    at_once[one].append(told[1])
        for number in range(rounds):
            for one in dice.sample(who, len(who)):
                (home := folder / f"post {one} {number}").mkdir()
                to_post[one].append(generate(one, str(home)))
            sdk.append(importing(name))
            over.append(taken_over(Path(shutil.copytree(used, folder / f"over {number}"))))
            (round_ := folder / f"round {number}").mkdir()
            for key, idling in idle(dice.sample(keys, len(keys)), used, round_, vendor, seconds).items():
                found[key].append(idling)
    times = {"spawn to the list of tools": lists, "spawn to a first call at once": at_once, GENERATE: to_post}
    return report(found, times, sdk, over, rounds, seed)


def median(rounds: Sequence[Idling], figure: str) -> float:
    return statistics.median(float(getattr(one, figure)) for one in rounds)


def report(
    found: Mapping[Key, Sequence[Idling]],
    times: Mapping[str, Mapping[str, Sequence[float]]],
    sdk: Sequence[float],
    over: Sequence[float],
    rounds: int,
    seed: int,
) -> Report:
    mine = [rows for (who, _, _), rows in found.items() if who == OURS]

    def worst(figure: str) -> float:
        return max(median(rows, figure) for rows in mine)

    pairs = {what: (each[OURS], each[AWAKE]) for what, each in times.items()}
    later, before = map(statistics.median, pairs.pop(GENERATE))
    reaches = [
        Reach("resident memory", worst("memory"), 18, "MiB"),
        Reach("processor time until it has settled", worst("work"), 60, "ms"),
        Reach("processor time in a minute of idling", worst("minute"), 5, "ms"),
        *(Reach(what, ratio(*pair), 1, between=certain(*pair)) for what, pair in pairs.items()),
        Reach(
            f"{GENERATE}, more than awake; the SDK's import is the most", later - before, statistics.median(sdk), "ms"
        ),
        Reach("a task that was left, from the end of its lease to the next", statistics.median(over), 5, "s"),
    ]
    if theirs := [rows for (who, _, _), rows in found.items() if who == VENDOR]:
        least = min(median(rows, "memory") for rows in theirs)
        reaches.append(Reach("resident memory, against the vendor's server", worst("memory") / least, 0.25))
    head = ("who, journal, host", "MiB", "work ms", "a minute ms", "tools/list ms")
    rows: list[tuple[str | float, ...]] = [
        (", ".join(key), *(median(told, figure) for figure in ("memory", "work", "minute", "tools_list")))
        for key, told in found.items()
    ]
    alone = [(f"{who}: {what}", each) for what, of in times.items() for who, each in of.items()]
    rows += [(f"{what}, ms", statistics.median(each), "", "", "") for what, each in (*alone, ("the SDK's import", sdk))]
    raw = {
        "idle": {", ".join(key): [[getattr(one, name) for name in Idling.__slots__] for one in told] for key, told in found.items()},
        "times": times, "import": sdk, "taken over": over,
    }  # fmt: skip
    return Report("idle", head, rows, reaches, LIMITS, seed, raw, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", default=FOUND / "idle.json")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=21, help="starts with a call at once")
    parser.add_argument("--seconds", type=float, default=MINUTE, help="how long they idle in each round")
    parser.add_argument(
        "--vendor", type=shlex.split, default=[], metavar="COMMAND", help="another server to measure beside ours"
    )
    chosen = parser.parse_args()
    end(measure(chosen.rounds, chosen.calls, chosen.seed, chosen.seconds, chosen.vendor), chosen)


if __name__ == "__main__":
    main()
