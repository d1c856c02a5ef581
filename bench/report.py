"""What every measurement ends with: a table, what was to be reached and what was, and the same as a JSON file in dist/bench."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOUND = ROOT / "dist" / "bench"
UNCERTAIN = 0.05
"""How often a median may lie outside the interval that is told of it."""
COMMAS = 1000
"""From here on digits want a comma."""
NOISE = "One machine, whatever else it did meanwhile: contestants are interleaved, look at ratios before times."


@dataclass(frozen=True, slots=True)
class Reach:
    """What was to be reached and what was. `bound` is the most that is allowed, or, with `least`, the least.

    Milliseconds and seconds say as much of the machine as of us; every other unit is compared with what was recorded.
    `between`: where it lies with a certainty of 95 %, of a figure that only has to be no worse than another. What can't be
    told apart from the bound is no miss then: measured equal, two that are equal would miss it every other time.
    """

    what: str
    measured: float
    bound: float
    unit: str = "x"
    least: bool = False
    between: tuple[float, float] | None = None

    @property
    def ok(self) -> bool:
        """Whether it is reached."""
        best = self.measured if self.between is None else self.between[self.least]
        return best >= self.bound if self.least else best <= self.bound

    @property
    def lasting(self) -> bool:
        """Whether another machine would find about the same."""
        return self.unit not in {"ms", "s"}

    @property
    def told(self) -> str:
        """All but the verdict."""
        between = "" if self.between is None else " (between {:.4g} and {:.4g})".format(*self.between)
        side = "at least" if self.least else "at most"
        return f"{self.what}: {cell(self.measured)} {self.unit}{between}, {side} {cell(self.bound)}"

    def __str__(self) -> str:
        return f"{'reached' if self.ok else 'MISSED':8} {self.told}"


@dataclass(frozen=True, slots=True)
class Report:
    """One measurement. `rows` are lines of the table under `head`; `raw` is what they were made from, for the file alone."""

    bench: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | float]]
    reaches: Sequence[Reach]
    limits: Sequence[str]
    seed: int
    raw: object = None
    rounds: int = 0
    """How often each contestant was measured; 0 where there are no rounds."""

    def tell(self, file: Path) -> int:
        """Print it and write it down. Gives the exit code: 1 where something was not reached."""
        told = {
            "bench": self.bench,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine(),
            "made_by": f"Python {platform.python_version()}, mcp {version('mcp')}, flux2-mcp {version('flux2-mcp')}",
            "seed": self.seed,
            "rounds": self.rounds,
            "head": self.head,
            "rows": self.rows,
            "reaches": [asdict(reach) for reach in self.reaches],
            "limits": self.limits,
            "raw": self.raw,
        }
        print(f"{self.bench}, seed {self.seed}; {told['made_by']}; {told['machine']}\n")
        print(table(self.head, self.rows), *map(str, self.reaches), "", "Limits:", sep="\n")
        print(*(f"- {limit}" for limit in self.limits), sep="\n")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
        return 0 if all(reach.ok for reach in self.reaches) else 1


def options(module: str, doc: str | None, *, seed: int = 1, **counts: int) -> argparse.Namespace:
    """The arguments of a measurement: `--seed`, `--json` and a number for each of `counts`."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{module}", description=doc)
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--json", type=Path, metavar="FILE", default=FOUND / f"{module}.json")
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def machine() -> str:
    """What it ran on, and how busy that is: the average of the last minute."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"


def cell(value: str | float) -> str:
    """A figure as tables show it."""
    return value if isinstance(value, str) else f"{value:,.0f}" if abs(value) >= COMMAS else f"{value:.4g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """Columns of text: the first to the left, the others to the right."""
    lines = [list(head), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    text = "\n".join(
        "  ".join(f"{one:<{width}}" if not at else f"{one:>{width}}" for at, (one, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )  # fmt: skip
    return text + "\n"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of pairs that were measured beside each other."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def certain(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Where the median ratio of such pairs lies with a certainty of 95 %, whatever their distribution (the sign test's)."""
    ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
    count, out, chance = len(ratios), 0, 2 * 0.5 ** len(ratios)
    while chance <= UNCERTAIN:
        out += 1
        chance += 2 * math.comb(count, out) * 0.5**count
    return ratios[max(0, out - 1)], ratios[count - max(1, out)]


def end(report: Report, chosen: argparse.Namespace) -> None:
    """Tell, and exit."""
    sys.exit(report.tell(chosen.json))
