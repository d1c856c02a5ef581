"""How soon serving ends, beside the least server of the SDK: python -m bench.ends.

Each round ends every contestant once, in an order that the dice choose: over stdio by the end of input, SIGTERM and SIGINT, over
HTTP by the signals; idle, and while a call waits for an image (over HTTP with a stream that listens beside it). A time goes from
there to the end of the process, whose code is looked at. Each server is new, with a home of its own.
"""

from __future__ import annotations

import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from bench.report import NOISE, Reach, Report, end, options, ratio
from bench.talk import MINIMAL, Conversation
from tests.conftest import environment
from tests.support.stdio import LEGACY, Host
from tests.support.web import WebHost

LEAST = "minimal MCPServer, end of input"
BARE = "bare interpreter, end of input"
MOST_MS = 500.0
PATIENCE = 60.0
STUCK = {"name": "generate", "arguments": {"prompt": "a red fox [sandbox:stuck]"}, "_meta": {"progressToken": "p"}}
LIMITS = (
    NOISE,
    "A server that waits runs the sandbox too, which ends with it.",
    "Whatever holds a server over stdio is left behind after 0.4 s: no end takes much longer there, and a time near that is one.",
    "The minimal server and the bare interpreter are only ended by the end of input: they have no codes for signals.",
)


@dataclass(frozen=True, slots=True)
class Ending:
    """One way to end. `number` is a signal; None: the end of input."""

    http: bool
    waits: bool
    number: signal.Signals | None

    def __str__(self) -> str:
        how = "end of input" if self.number is None else self.number.name
        return f"{'HTTP' if self.http else 'stdio'}, {'a call waits' if self.waits else 'idle'}, {how}"

    def run(self) -> float:
        """Milliseconds from there to the end of the process."""
        with tempfile.TemporaryDirectory() as folder, ExitStack() as calls:
            env = environment(Path(folder))
            host: Host | WebHost = WebHost(env, LEGACY, folder) if self.http else Host(env, LEGACY, folder)
            calls.enter_context(host)
            host.call("list_variants")
            if self.waits:
                calls.enter_context(_waiting(host))
            began = time.perf_counter()
            if self.number is not None:
                host.process.send_signal(self.number)
            else:
                assert host.process.stdin is not None
                host.process.stdin.close()
            code = host.process.wait(PATIENCE)
            took = (time.perf_counter() - began) * 1000
        assert code == (0 if self.number is None else 128 + self.number), code
        return took


@contextmanager
def _waiting(host: Host | WebHost) -> Iterator[None]:
    """A call that waits, and has told how it stands."""
    if isinstance(host, Host):
        host.ask("tools/call", STUCK)
        while host.next().get("method") != "notifications/progress":
            pass
        yield
        return
    message = {"jsonrpc": "2.0", "id": "stuck", "method": "tools/call", "params": STUCK}
    with (
        host.http.stream("GET", host.served.url),
        host.http.stream("POST", host.served.url, json=message) as answer,
    ):
        for line in answer.iter_lines():
            if "notifications/progress" in line:
                break
        yield


ENDINGS = tuple(
    Ending(http, waits, number)
    for http in (False, True)
    for waits in (False, True)
    for number in (*((None,) if not http else ()), signal.SIGTERM, signal.SIGINT)
)


def other(command: list[str], *, speaks: bool) -> float:
    """The same for a process that only knows the end of input."""
    with tempfile.TemporaryDirectory() as home:
        talk = Conversation(command, home)
        if speaks:
            talk.__enter__()
        else:
            talk.line()
        return talk.end()


CONTESTANTS: Mapping[str, Callable[[], float]] = {
    **{str(ending): ending.run for ending in ENDINGS},
    LEAST: partial(other, MINIMAL, speaks=True),
    BARE: partial(other, [sys.executable, "-c", "import os; os.write(1, b'{}\\n'); os.read(0, 1)"], speaks=False),
}


def measure(rounds: int, seed: int) -> dict[str, list[float]]:
    """All contestants, interleaved; a first round that only warms is not counted."""
    dice, found = Random(seed), {name: list[float]() for name in CONTESTANTS}
    for number in range(rounds + 1):
        for name in dice.sample(list(CONTESTANTS), len(CONTESTANTS)):
            took = CONTESTANTS[name]()
            if number:
                found[name].append(took)
    return found


def main() -> None:
    chosen = options("ends", __doc__, rounds=11)
    found = measure(chosen.rounds, chosen.seed)
    rows: list[list[str | float]] = [
        [name, statistics.median(times), max(times), f"{ratio(times, found[LEAST]):.2f}x"]
        for name, times in found.items()
    ]
    reaches = [Reach(f"end, {each}", statistics.median(found[str(each)]), MOST_MS, "ms") for each in ENDINGS]
    head = ("ended", "median ms", "longest ms", "times the minimal")
    end(Report("ends", head, rows, reaches, LIMITS, chosen.seed, found, chosen.rounds), chosen)


if __name__ == "__main__":
    main()
