"""Resident memory, idle and with 100 calls that wait, beside the least server: python -m bench.memory.

Each call of ours waits for a task of its own that never ends; a call of the minimal server waits for nothing at all. What a
first waiting call loads is told apart from what each further one takes.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from bench.report import NOISE, Reach, Report, end, options, ratio
from bench.talk import MINIMAL, SERVER, Conversation, live, sandbox
from flux2_mcp.sandbox import tasks
from flux2_mcp.sandbox.state import SandboxState

WAITING = 100
DEADLINE = 60.0
PAUSE = 0.05
SETTLED = 20
"""Looks in a row at which the memory has not grown."""
KB = 1000


def settled(talk: Conversation) -> int:
    """Bytes, once they have stopped growing."""
    most, same, until = talk.memory(), 0, time.monotonic() + DEADLINE
    while same < SETTLED and time.monotonic() < until:
        time.sleep(PAUSE)
        now = talk.memory()
        most, same = max(most, now), 0 if now > most else same + 1
    return most


def grown(talk: Conversation, ask: Callable[[int], object], waits: Callable[[], int]) -> dict[str, float]:
    """Memory while idle, with one call that waits, and what each of a hundred more adds. MiB, MiB, kB."""
    talk.call("list_variants")
    idle = settled(talk)
    before = waits()
    memory, asked = [], 0
    for count in (1, WAITING):
        for _ in range(count):
            ask(asked)
            asked += 1
        until = time.monotonic() + DEADLINE
        while waits() - before < asked:
            assert time.monotonic() < until, "they do not all wait"
            time.sleep(PAUSE)
        memory.append(settled(talk))
    one, all_ = memory
    return {"idle MiB": idle / 2**20, "one waits MiB": one / 2**20, "each further kB": (all_ - one) / WAITING / KB}


def ours(folder: Path, url: str, key: str, state: SandboxState) -> dict[str, float]:
    def ask(number: int) -> None:
        arguments = {"prompt": f"[sandbox:stuck] fox {number} of {folder.name}", "wait_seconds": 300}
        talk.start("tools/call", {"name": "generate", "arguments": arguments})

    with Conversation(SERVER, str(folder), live(url, key, in_flight=10_000)) as talk:
        found = grown(talk, ask, lambda: len(tasks.every(state)))
        talk.process.kill()
        talk.process.wait()
    return found


def minimal(folder: Path) -> dict[str, float]:
    asked = 0

    def ask(number: int) -> None:
        nonlocal asked
        talk.start("tools/call", {"name": "check_task", "arguments": {"task_id": str(number)}})
        asked += 1

    with Conversation(MINIMAL, str(folder)) as talk:
        found = grown(talk, ask, lambda: asked)
        talk.process.kill()
        talk.process.wait()
    return found


def measure(rounds: int, seed: int) -> Report:
    dice, found = Random(seed), {who: list[dict[str, float]]() for who in ("ours", "minimal MCPServer")}
    with tempfile.TemporaryDirectory() as name, sandbox(Path(name) / "runapi", speed=1, seed=seed) as (url, key):
        state = SandboxState(Path(name) / "runapi")
        for number in range(rounds):
            for who in dice.sample(sorted(found), len(found)):
                home = Path(name) / f"{who[0]}{number}"
                home.mkdir()
                found[who].append(ours(home, url, key, state) if who == "ours" else minimal(home))
        state.close()
    figures = {who: {each: [one[each] for one in rows] for each in rows[0]} for who, rows in found.items()}
    mine, least = figures.values()
    return Report(
        "memory",
        ("resident", *mine),
        [(who, *(statistics.median(values) for values in each.values())) for who, each in figures.items()],
        (
            Reach("idle, against the minimal server", ratio(mine["idle MiB"], least["idle MiB"]), 1.1),
            Reach("each call that waits", statistics.median(mine["each further kB"]), 40, "kB"),
        ),
        (
            NOISE,
            "VmRSS counts pages that are shared with other processes; what was freed and not given back counts, too.",
            f"The last column is what {WAITING} calls add to the first that waits, divided by them: the first loads the client and the journal.",
            "The minimal server's calls wait for nothing: its figure is the SDK's own part of each.",
        ),
        seed,
        found,
        rounds,
    )  # fmt: skip


def main() -> None:
    chosen = options("memory", __doc__, rounds=3)
    end(measure(chosen.rounds, chosen.seed), chosen)


if __name__ == "__main__":
    main()
