"""What a host waits for when it starts us, beside the least server of the SDK and the bare interpreter: python -m bench.startup.

Each round starts every contestant once, in an order that the dice choose, and speaks with it as a host does (2025-06-18): spawn to
the answer of `initialize`, of `tools/list`, of a first `list_variants`; then more of these calls, the resident memory, and the end
of input to the end of the process. Prints medians and ratios, writes all of it to a file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[1]
SERVER = [sys.executable, "-m", "flux2_mcp"]
BARE = "import os; os.write(1, b'{}\\n'); os.read(0, 1)"
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
CALL = {"name": "list_variants", "arguments": {}}
CALLS = 50
LIMITS = (
    "Medians over interleaved rounds on one machine, whatever else it did meanwhile; look at ratios before times.",
    "Byte-code and file cache are warm; a first start after an install takes longer.",
    "Every time includes this process's own writing, reading and waking up.",
    "Memory is VmRSS, which counts pages that are shared with other processes.",
    "The bare interpreter answers nothing: its first figure is spawn to its first byte, read it as the floor; 12 ms when idle.",
    "`work` and `call work` are the process's time on a CPU, to the first call's answer and for a later one: load hardly touches them.",
)


@dataclass(frozen=True, slots=True)
class Contestant:
    """A process to be measured. `speaks` is False where there is nobody to speak with."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    speaks: bool = True


CONTESTANTS = (
    Contestant("ours", SERVER, {"FLUX2_EARLY": "1"}),
    Contestant("ours, nothing early", SERVER, {"FLUX2_EARLY": "0"}),
    Contestant("minimal MCPServer", [sys.executable, "-m", "bench.minimal"]),
    Contestant("bare interpreter", [sys.executable, "-c", BARE], speaks=False),
)
OURS, LATE, MINIMAL, _ = (one.name for one in CONTESTANTS)


@dataclass(frozen=True, slots=True)
class Round:
    """One start. Milliseconds from the spawn to three answers, and of CPU to the last; of a later call; to the exit. MiB."""

    initialize: float
    tools_list: float | None
    first_call: float | None
    work: float
    call: float | None
    call_work: float | None
    memory: float
    exit: float


# What is to be reached, of which figure, against what: issue by issue the same numbers.
REACHES: tuple[tuple[str, str, float, str | None], ...] = (
    ("initialize", OURS, 60.0, None),
    ("tools_list", OURS, 60.0, None),
    ("first_call", OURS, 1.0, LATE),
    ("work", OURS, 1.0, LATE),
    ("call", OURS, 1.1, LATE),
    ("call_work", OURS, 1.1, LATE),
    ("initialize", LATE, 1.05, MINIMAL),
    ("tools_list", LATE, 1.05, MINIMAL),
    ("memory", OURS, 1.1, MINIMAL),
    ("exit", OURS, 50.0, None),
)


class Conversation:
    """One process and the lines that go to and fro."""

    def __init__(self, one: Contestant, home: str) -> None:
        env = {"PATH": os.environ["PATH"], "HOME": home, "FLUX2_HOME": home, **one.env}
        self.began = time.perf_counter()
        self.process = subprocess.Popen(one.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, cwd=ROOT)

    def since(self, began: float | None = None) -> float:
        """Milliseconds since the spawn, or since a time."""
        return (time.perf_counter() - (self.began if began is None else began)) * 1000

    def ask(self, ident: int, method: str, params: object) -> None:
        """Send a request and read its answer."""
        self.send({"jsonrpc": "2.0", "id": ident, "method": method, "params": params})
        answer = json.loads(self.line())
        assert answer["id"] == ident
        assert "result" in answer, answer

    def send(self, message: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def line(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def memory(self) -> float:
        """Resident, MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    def work(self) -> float:
        """Milliseconds on a CPU so far, all its threads together."""
        return time.clock_gettime((~self.process.pid << 3) | 2) * 1000  # clock_getcpuclockid(3), as Linux makes it

    def end(self) -> float:
        """Milliseconds from the end of its input to its own."""
        assert self.process.stdin is not None
        began = time.perf_counter()
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        took = self.since(began)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return took


def run(one: Contestant, home: str) -> Round:
    """One start of one contestant."""
    talk = Conversation(one, home)
    if not one.speaks:
        talk.line()
        return Round(talk.since(), None, None, talk.work(), None, None, talk.memory(), talk.end())
    talk.ask(1, "initialize", HELLO)
    initialize = talk.since()
    talk.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
    talk.ask(2, "tools/list", {})
    tools_list = talk.since()
    talk.ask(3, "tools/call", CALL)
    first_call, work, calls = talk.since(), talk.work(), []
    for ident in range(4, 4 + CALLS):
        began = time.perf_counter()
        talk.ask(ident, "tools/call", CALL)
        calls.append(talk.since(began))
    call, call_work = statistics.median(calls), (talk.work() - work) / CALLS
    return Round(initialize, tools_list, first_call, work, call, call_work, talk.memory(), talk.end())


def measure(rounds: int, seed: int) -> dict[str, list[Round]]:
    """All contestants, interleaved; a first round that only warms is not counted."""
    dice, found = Random(seed), {one.name: list[Round]() for one in CONTESTANTS}
    with tempfile.TemporaryDirectory() as home:
        for number in range(rounds + 1):
            for one in dice.sample(CONTESTANTS, len(CONTESTANTS)):
                took = run(one, home)
                if number:
                    found[one.name].append(took)
    return found


def medians(rounds: Sequence[Round]) -> dict[str, float | None]:
    """Each figure's median."""
    columns = {name: [asdict(each)[name] for each in rounds] for name in Round.__slots__}
    return {name: None if None in values else statistics.median(values) for name, values in columns.items()}


def reached(found: Mapping[str, Mapping[str, float | None]]) -> list[dict[str, object]]:
    """What was to be reached and what was."""
    told: list[dict[str, object]] = []
    for figure, who, most, against in REACHES:
        mine, other = found[who][figure], None if against is None else found[against][figure]
        assert mine is not None
        value = mine / other if other else mine
        told.append(
            {"figure": figure, "of": who, "against": against, "most": most, "is": value, "reached": value <= most}
        )
    return told


def table(found: Mapping[str, Mapping[str, float | None]]) -> str:
    """The medians, each with its ratio to the minimal server's."""
    lines = [f"{'':22}" + "".join(f"{name.replace('_', ' '):>18}" for name in Round.__slots__)]
    for who, figures in found.items():
        cells = []
        for name, value in figures.items():
            least = found[MINIMAL][name]
            cells.append("-" if value is None or least is None else f"{value:.1f} ({value / least:.2f}x)")
        lines.append(f"{who:22}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=ROOT / "dist" / "bench" / "startup.json")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    rounds = measure(options.rounds, options.seed)
    found = {name: medians(each) for name, each in rounds.items()}
    machine = (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, load {load:.1f} to {os.getloadavg()[0]:.1f}"
    )
    made_by = f"Python {platform.python_version()}, mcp {version('mcp')}, flux2-mcp {version('flux2-mcp')}"
    print(f"{options.rounds} rounds, seed {options.seed}; {made_by}; {machine}")
    print(f"milliseconds, memory in MiB; in brackets: times the {MINIMAL}\n")
    print(table(found), end="\n\n")
    reaches = reached(found)
    for each in reaches:
        unit = f"x {each['against']}" if each["against"] else "ms"
        print(f"{'reached' if each['reached'] else 'MISSED ':8} {each['figure']} of {each['of']}: {each['is']:.2f} {unit}, at most {each['most']}")  # fmt: skip
    print("\nLimits:", *LIMITS, sep="\n- ")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "bench": "startup",
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine,
        "made_by": made_by,
        "seed": options.seed,
        "medians": found,
        "reaches": reaches,
        "rounds": {name: [asdict(each) for each in all_of] for name, all_of in rounds.items()},
        "limits": LIMITS,
    }
    options.json.write_text(json.dumps(told, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
