"""How soon a Python program with our client calls RunAPI, beside httpx with the same call: python -m bench.api [--rounds 15].

Each round starts a process for every contestant, in an order that the dice choose. Of each process that calls, it measures from
the spawn to the first request that arrives, and to the create; a server on loopback answers the price schedules with an empty list
and ends the process at the create. The home is new, so the journal is made on the way. An import is measured inside its process.
"""

from __future__ import annotations

import http.server
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from random import Random

from bench.report import NOISE, Reach, Report, end, options, ratio

KEY = "k" * 20
CREATE = "/api/v1/flux_2/text_to_image"
BODY = {"model": "flux-2-pro-text-to-image", "prompt": "A red fox"}
PLAIN = f"""
import os, httpx
client = httpx.Client(base_url=os.environ["RUNAPI_BASE_URL"], headers={{"Authorization": "Bearer {KEY}"}})
client.post("{CREATE}", json={BODY!r}, headers={{"Idempotency-Key": "k"}})
"""
ASYNC = f"""
import os, anyio, httpx
async def main():
    async with httpx.AsyncClient(base_url=os.environ["RUNAPI_BASE_URL"], headers={{"Authorization": "Bearer {KEY}"}}) as client:
        await client.post("{CREATE}", json={BODY!r}, headers={{"Idempotency-Key": "k"}})
anyio.run(main)
"""
OURS = f"""
from flux2_mcp import Flux2Client
Flux2Client(api_key="{KEY}").text_to_image.run(**{BODY!r})
"""
LEAST = f"""
import os, sqlite3, ssl, threading
import anyio, httpx
from anyio.from_thread import BlockingPortal
def journal():
    os.makedirs(os.environ["FLUX2_HOME"])
    file = sqlite3.connect(os.environ["FLUX2_HOME"] + "/journal.sqlite3", isolation_level=None)
    file.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL")
    for line in ("BEGIN IMMEDIATE", "CREATE TABLE task (key TEXT PRIMARY KEY, request TEXT)", "COMMIT"):
        file.execute(line)
async def main():
    async with BlockingPortal():
        await anyio.to_thread.run_sync(journal)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        async with httpx.AsyncClient(base_url=os.environ["RUNAPI_BASE_URL"], trust_env=False, verify=tls) as client:
            await client.post("{CREATE}", json={BODY!r}, headers={{"Idempotency-Key": "k"}})
thread = threading.Thread(target=anyio.run, args=[main])
thread.start()
thread.join()
"""
"""What ours stands on and no line of ours: a loop in a thread, a SQLite file that is synced, httpx without certificates."""
CALLERS = {"Flux2Client": OURS, "httpx.Client": PLAIN, "httpx.AsyncClient": ASYNC, "what ours stands on": LEAST}
TIMED = "import time; begun = time.perf_counter(); {}; print((time.perf_counter() - begun) * 1000)"
IMPORTS = {"import flux2_mcp": "import flux2_mcp", "nothing": "pass"}
DEADLINE_SECONDS = 60.0


class Listener(http.server.ThreadingHTTPServer):
    """Notes when requests arrive."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.arrived: dict[str, float] = {}
        self.created = threading.Event()

    def handle_error(self, *_: object) -> None:
        """A program is killed before it has read the answer: no trace of that in the table."""

    def note(self, path: str) -> None:
        now = time.perf_counter()
        self.arrived.setdefault("first", now)
        if path == CREATE:
            self.arrived.setdefault("create", now)
            self.created.set()


class Answers(http.server.BaseHTTPRequestHandler):
    """No prices, and no task."""

    server: Listener

    def do_GET(self) -> None:
        self.server.note(self.path)
        self._answer(200, {"as_of": "2026-11-28T00:00:00Z", "price_schedules": []})

    def do_POST(self) -> None:
        self.server.note(self.path)
        self._answer(503, {"error": "The measurement is over."})

    def _answer(self, status: int, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def calls(program: str) -> tuple[float, float]:
    """Milliseconds from the spawn of a program to its first request, and to its create."""
    with tempfile.TemporaryDirectory() as home, Listener() as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        env = {name: value for name, value in os.environ.items() if not name.startswith(("FLUX2_", "RUNAPI_"))}
        env |= {
            "RUNAPI_BASE_URL": f"http://127.0.0.1:{listener.server_port}",
            "HOME": home,
            "FLUX2_HOME": home + "/home",
        }
        begun = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", program], env=env, stderr=subprocess.DEVNULL)
        arrived = listener.created.wait(DEADLINE_SECONDS)
        process.kill()
        process.wait()
        listener.shutdown()
        thread.join()
        assert arrived
        return tuple((listener.arrived[name] - begun) * 1000 for name in ("first", "create"))  # type: ignore[return-value]  # two


def imported(line: str) -> float:
    """Milliseconds that a line takes in a new process, as that measures it itself."""
    command = [sys.executable, "-c", TIMED.format(line)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(rounds: int, seed: int) -> Report:
    """All contestants, interleaved; a first round that only warms is not counted."""
    dice = Random(seed)
    found = {name: list[tuple[float, float]]() for name in CALLERS}
    lines = {name: list[float]() for name in IMPORTS}
    for number in range(rounds + 1):
        for name in dice.sample([*CALLERS, *IMPORTS], len(CALLERS) + len(IMPORTS)):
            if name in CALLERS:
                called = calls(CALLERS[name])
                found[name] += [called] if number else []
            else:
                took = imported(IMPORTS[name])
                lines[name] += [took] if number else []
    firsts, creates = ({name: [each[at] for each in found[name]] for name in CALLERS} for at in (0, 1))
    ours, plain, other, _ = CALLERS
    extra = [one - two for one, two in zip(lines["import flux2_mcp"], lines["nothing"], strict=True)]
    return Report(
        bench="api",
        head=("from the spawn, ms", "first request", "create", f"times {plain}"),
        rows=[
            (
                name,
                statistics.median(firsts[name]),
                statistics.median(creates[name]),
                f"{ratio(firsts[name], firsts[plain]):.2f}x",
            )
            for name in CALLERS
        ],
        reaches=[
            Reach("Flux2Client, spawn to the first request", ratio(firsts[ours], firsts[plain]), 1.2),
            Reach("the same beside httpx.AsyncClient", ratio(firsts[ours], firsts[other]), 1.2),
            Reach("import flux2_mcp over a bare interpreter", statistics.median(extra), 3.0, "ms"),
        ],
        limits=[
            NOISE,
            "httpx.Client reads the certificates; ours does not where the address is plain HTTP, as here.",
            "httpx imports rich where that is installed, as here. Elsewhere, httpx.Client takes three quarters of this time.",
            "Our first request asks for the prices, which decide whether the create may be sent; the create follows the answer.",
            "Before the create, ours has made a journal and synced the intent to disk; httpx writes nothing down.",
        ],
        seed=seed,
        rounds=rounds,
        raw={"first": firsts, "create": creates, "import": lines},
    )


if __name__ == "__main__":
    chosen = options("api", __doc__, rounds=15)
    end(measure(chosen.rounds, chosen.seed), chosen)
