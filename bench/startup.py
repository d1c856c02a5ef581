"""What a host waits for when it starts us, beside the least server of the SDK and the bare interpreter: python -m bench.startup.

Each round starts every contestant once, in an order that the dice choose, and speaks with it as a host does (2025-06-18): spawn to
the answer of `initialize`, of `tools/list`, of a first `list_variants`; then more of these calls, the resident memory, and the end
of input to the end of the process. Prints medians and ratios, writes all of it to a file.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from random import Random

from bench.report import NOISE, Reach, Report, certain, end, options, ratio
from bench.talk import HELLO, MINIMAL, SERVER, Conversation

BARE = "import os; os.write(1, b'{}\\n'); os.read(0, 1)"
CALLS = 50
LIMITS = (
    NOISE,
    "Figures are medians; ratios are medians of the rounds' ratios.",
    "What only has to be no later is missed where it is later with a certainty of 95 %: the same code was seen to differ by 1.5 %.",
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
    Contestant("minimal MCPServer", MINIMAL),
    Contestant("bare interpreter", [sys.executable, "-c", BARE], speaks=False),
)
OURS, LATE, LEAST, _ = (one.name for one in CONTESTANTS)


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
    ("initialize", LATE, 1.05, LEAST),
    ("tools_list", LATE, 1.05, LEAST),
    ("memory", OURS, 1.1, LEAST),
    ("exit", OURS, 50.0, None),
)


def run(one: Contestant, home: str) -> Round:
    """One start of one contestant."""
    talk = Conversation(one.command, home, one.env)
    if not one.speaks:
        talk.line()
        return Round(talk.since(), None, None, talk.work(), None, None, talk.memory() / 2**20, talk.end())
    talk.ask("initialize", HELLO)
    initialize = talk.since()
    talk.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
    talk.ask("tools/list", {})
    tools_list = talk.since()
    talk.call("list_variants")
    first_call, work = talk.since(), talk.work()
    call = statistics.median(talk.timed("list_variants") for _ in range(CALLS))
    call_work = (talk.work() - work) / CALLS
    return Round(initialize, tools_list, first_call, work, call, call_work, talk.memory() / 2**20, talk.end())


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


def column(rounds: Sequence[Round], figure: str) -> list[float]:
    """One figure of all rounds; empty where nobody could say."""
    return [value for each in rounds if (value := asdict(each)[figure]) is not None]


def reached(found: Mapping[str, Sequence[Round]]) -> list[Reach]:
    """What was to be reached and what was."""
    told = []
    for figure, who, most, against in REACHES:
        mine, name = column(found[who], figure), figure.replace("_", " ")
        if against is None:
            told.append(Reach(f"{name}, {who}", statistics.median(mine), most, "ms"))
        else:
            theirs = column(found[against], figure)
            between = certain(mine, theirs) if most == 1 else None
            told.append(Reach(f"{name}, {who}, against {against}", ratio(mine, theirs), most, between=between))
    return told


def rows(found: Mapping[str, Sequence[Round]]) -> list[list[str]]:
    """The medians, each with its ratio to the minimal server's."""
    told = []
    for who, rounds in found.items():
        cells = [who]
        for figure in Round.__slots__:
            values, least = column(rounds, figure), column(found[LEAST], figure)
            cells.append(f"{statistics.median(values):.1f} ({ratio(values, least):.2f}x)" if values else "-")
        told.append(cells)
    return told


def main() -> None:
    chosen = options("startup", __doc__, rounds=21)
    found = measure(chosen.rounds, chosen.seed)
    head = ["ms, MiB (times the minimal)", *(name.replace("_", " ") for name in Round.__slots__)]
    raw = {name: [asdict(each) for each in rounds] for name, rounds in found.items()}
    end(Report("startup", head, rows(found), reached(found), LIMITS, chosen.seed, raw, chosen.rounds), chosen)


if __name__ == "__main__":
    main()
