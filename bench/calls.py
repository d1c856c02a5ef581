"""A tool call that needs no network beside a trivial tool of the least server, both over stdio: python -m bench.calls."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from random import Random

from bench.report import NOISE, Reach, Report, end, options, percentile, ratio
from bench.talk import MINIMAL, SERVER, Conversation

WARM = 50
CALLS = 200
"""Calls of each in a round: its median and its p99 are of these."""


def once(dice: Random, home: str, commands: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
    """Both are up; each call of the one follows a call of the other, in an order that the dice choose. Milliseconds."""
    took: dict[str, list[float]] = {name: [] for name in commands}
    with ExitStack() as stack:
        talks = {name: stack.enter_context(Conversation(command, home)) for name, command in commands.items()}
        for talk in talks.values():
            for _ in range(WARM):
                talk.timed("list_variants")
        for _ in range(CALLS):
            for name in dice.sample(sorted(talks), len(talks)):
                took[name].append(talks[name].timed("list_variants"))
    return took


def measure(rounds: int, seed: int) -> Report:
    """In each round both are started anew: what a process happens to have where in memory stays with it, up to a third of a call."""
    dice, commands = Random(seed), {"ours": SERVER, "minimal MCPServer": MINIMAL}
    took: dict[str, list[list[float]]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as home:
        for _ in range(rounds):
            for name, times in once(dice, home, commands).items():
                took[name].append(times)
    figures = {
        name: ([statistics.median(one) for one in each], [percentile(one, 0.99) for one in each])
        for name, each in took.items()
    }
    (ours_median, ours_p99), (least_median, least_p99) = figures.values()
    return Report(
        "calls",
        ("list_variants", "median ms", "p99 ms"),
        [(name, statistics.median(median), statistics.median(p99)) for name, (median, p99) in figures.items()],
        (
            Reach("list_variants, median, against a trivial tool of the minimal server", ratio(ours_median, least_median), 1.5),
            Reach("list_variants, p99, against the same", ratio(ours_p99, least_p99), 1.5),
        ),
        (
            NOISE,
            f"Each round has {CALLS} calls of each, one at a time, and new processes; ratios are medians of the rounds' ratios.",
            "Ours answers with the whole table of variants, the minimal server with one word: writing and reading it counts.",
        ),
        seed,
        figures,
        rounds,
    )  # fmt: skip


def main() -> None:
    chosen = options("calls", __doc__, rounds=11)
    end(measure(chosen.rounds, chosen.seed), chosen)


if __name__ == "__main__":
    main()
