"""A tool call that needs no network beside a trivial tool of the least server, both over stdio: python -m bench.calls."""

from __future__ import annotations

import statistics
import tempfile
from random import Random

from bench.report import NOISE, Reach, Report, end, options, percentile, ratio
from bench.talk import MINIMAL, SERVER, Conversation

WARM = 50
CALLS = 200
"""Calls of each in a round: its median and its p99 are of these."""


def measure(rounds: int, seed: int) -> Report:
    """Both are up; each call of the one follows a call of the other, in an order that the dice choose."""
    dice, commands = Random(seed), {"ours": SERVER, "minimal MCPServer": MINIMAL}
    took: dict[str, list[list[float]]] = {name: [] for name in commands}
    with (
        tempfile.TemporaryDirectory() as home,
        Conversation(SERVER, home) as ours,
        Conversation(MINIMAL, home) as minimal,
    ):
        talks = {"ours": ours, "minimal MCPServer": minimal}
        for talk in talks.values():
            for _ in range(WARM):
                talk.timed("list_variants")
        for _ in range(rounds):
            for each in took.values():
                each.append([])
            for _ in range(CALLS):
                for name in dice.sample(sorted(talks), 2):
                    took[name][-1].append(talks[name].timed("list_variants"))
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
            f"Each round has {CALLS} calls of each, one at a time; ratios are medians of the rounds' ratios.",
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
