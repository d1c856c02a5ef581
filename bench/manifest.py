"""A project of 200 pictures: what a plan takes, and apply killed at random moments: python -m bench.manifest [--kills 50].

First `plan` is timed beside an interpreter that does nothing, on pictures of the size that the sandbox draws: where nothing is
to do, where all are new, and as CI runs it. Then `apply` is started again and again and killed with SIGKILL at a random
moment; in between nobody mends anything. A last run has to bring all to its end. What the service made is compared with the
entries, and flux2.lock with the disk.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

from bench.report import Reach, Report, end, options
from flux2_mcp.domain.manifest import lock
from flux2_mcp.engine.project import UNFINISHED_SECONDS, Project
from flux2_mcp.sandbox.drawing import draw
from flux2_mcp.sandbox.server import Sandbox
from tests.conftest import environment

PROGRAM = [sys.executable, "-m", "flux2_mcp"]
PLAN = [*PROGRAM, "plan"]
NOTHING = [sys.executable, "-c", "pass"]
ENTRIES, FEW = 200, 60
EVERY = 10
"""Pictures, of which one is made from the one before it."""
SPEED = 200.0
RATE = 40
"""Calls a second. The runs that are killed take seconds, and so few of them would see a download at the usual 12."""
IN_FLIGHT = 16
LONGEST_SECONDS = 0.8
"""The latest kill, after the first write of a run. Later ones would leave few runs with anything to do."""
DEADLINE_SECONDS = 600.0
PLAN_SECONDS = 0.3
FLAT = 1.15
"""How much larger a process may be that makes three times as many pictures, both of them more than are under way at once."""


def manifest(count: int) -> str:
    """Every tenth picture is made from another one; two ask for the same."""
    style = '[style]\nprompt = "flat illustration"\n\n'
    return style + "\n".join(
        f'[images."art/{number:03}.png"]\nprompt = "a fox number {max(number, 1)}"\n'
        + (f'sources = ["art/{number - 1:03}.png"]\n' if number % EVERY == EVERY - 1 else "")
        for number in range(count)
    )


@contextmanager
def one_picture() -> Iterator[None]:
    """Draw one picture and use it for all: drawing is the sandbox's work, not ours."""
    usual = draw.render
    first = usual(
        prompt="a fox", variant="pro", model="flux-2-pro-text-to-image", action="text_to_image", aspect_ratio="1:1",
        output_resolution="1k", sources=[], size=None, take="",
    )  # fmt: skip

    def same(**_: object) -> bytes:
        return first

    draw.render = same
    try:
        yield
    finally:
        draw.render = usual


def timed(command: Sequence[str], env: Mapping[str, str], folder: Path, code: int) -> tuple[float, float]:
    """Milliseconds that a command takes, on the wall and on a processor."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(command, env=env, cwd=folder, stdout=subprocess.DEVNULL, check=False)
    took, after = (time.perf_counter() - began) * 1000, os.times()
    assert done.returncode == code, (command, done.returncode)
    work = after.children_user + after.children_system - before.children_user - before.children_system
    return took, work * 1000


def plans(env: Mapping[str, str], folder: Path, new: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Each kind of plan beside the interpreter alone, interleaved; the first round only warms."""
    wanted: Mapping[str, tuple[Sequence[str], Path, int]] = {
        "the interpreter": (NOTHING, folder, 0),
        "plan, nothing to do": (PLAN, folder, 0),
        "plan --check, nothing to do": ([*PLAN, "--check"], folder, 0),
        "plan --check, all new": ([*PLAN, "--check"], new, 8),
        "plan, all new: asks for prices and the balance": (PLAN, new, 8),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
    for number in range(rounds + 1):
        for name, (command, where, code) in wanted.items():
            took = timed(command, env, where, code)
            if number:
                found[name].append(took)
    return found


def applied(env: Mapping[str, str], folder: Path) -> float:
    """Let apply end. Gives its largest resident memory in MiB."""
    process = subprocess.Popen([*PROGRAM, "apply", "--yes"], env=env, cwd=folder, stdout=subprocess.DEVNULL)
    most = 0.0
    began = time.monotonic()
    while process.poll() is None:
        assert time.monotonic() - began < DEADLINE_SECONDS
        try:
            status = Path(f"/proc/{process.pid}/status").read_text("ascii")
        except OSError:
            break
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            most = max(most, int(found[1]) / 1024)
        time.sleep(0.05)
    assert process.wait() == 0, process.returncode
    return most


def newest(home: Path) -> int:
    """When a file of the journal was last written, in nanoseconds."""
    latest = 0
    for path in home.glob("journal*"):
        with suppress(FileNotFoundError):  # SQLite removes its own beside the journal
            latest = max(latest, path.stat().st_mtime_ns)
    return latest


def kill(env: Mapping[str, str], folder: Path, seconds: float) -> str:
    """Start apply, and kill it so many seconds after its first write into the journal. Tells whether it had ended before."""
    home = Path(env["FLUX2_HOME"])
    before = newest(home)
    process = subprocess.Popen(
        [*PROGRAM, "apply", "--yes"], env=env, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    began = time.monotonic()
    while process.poll() is None and newest(home) == before and time.monotonic() - began < DEADLINE_SECONDS:
        time.sleep(0.01)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    return "killed" if process.wait() == -signal.SIGKILL else "had ended"


def project(folder: Path, name: str, count: int) -> Path:
    """A folder with such a manifest."""
    (made := folder / name).mkdir()
    (made / "flux2.toml").write_text(manifest(count), "utf-8")
    return made


def measure(kills: int, rounds: int, seed: int, folder: Path) -> Report:
    dice, ends = Random(seed), Counter[str]()
    with one_picture(), Sandbox(folder / "runapi", speed=SPEED, rate=None, seed=seed, opening_cents=10**6) as runapi:
        env = environment(folder) | {
            "RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url,
            "FLUX2_RATE": str(RATE), "FLUX2_MAX_IN_FLIGHT": str(IN_FLIGHT), "FLUX2_CONFIRM_USD": "off",
        }  # fmt: skip
        few, many = (applied(env, project(folder, name, count)) for name, count in (("few", FEW), ("many", ENTRIES)))
        made_before = len(runapi.tasks())
        site = project(folder, "site", ENTRIES)
        for _ in range(kills):
            ends[kill(env, site, dice.uniform(0, LONGEST_SECONDS))] += 1
        left = [image for image in Project(site, live=True).plan().images if image.standing != "current"]
        applied(env, site)
        made = len(runapi.tasks()) - made_before
        again = len(runapi.tasks()) - made_before - len({task.idempotency_key for task in runapi.tasks()[made_before:]})
        plan = Project(site, live=True).plan()
        right = sum(image.standing == "current" for image in plan.images)
        locked = lock.read((site / "flux2.lock").read_bytes())
        time.sleep(UNFINISHED_SECONDS)
        applied(env, site)  # a run after that time tidies up
        parts = [path for path in site.rglob("*") if path.name.startswith(".")]
        found = plans(env, site, project(folder, "new", ENTRIES), rounds)
    base = statistics.median(wall for wall, _ in found["the interpreter"])
    base_work = statistics.median(work for _, work in found["the interpreter"])
    rows = [
        (name, statistics.median(w for w, _ in each) - base, statistics.median(c for _, c in each) - base_work)
        for name, each in found.items()
        if name != "the interpreter"
    ]
    return Report(
        bench="manifest",
        head=("200 pictures", "ms over the interpreter", "of a processor"),
        rows=rows,
        reaches=[
            *(
                Reach(f"{name}: processor time over the interpreter's start", work / 1000, PLAN_SECONDS, "s")
                for name, _, work in rows
            ),
            Reach("pictures made for 200 entries", made, ENTRIES, "pictures"),
            Reach("of them under one key", again, 0, "pictures"),
            Reach("entries whose picture and lines in the lock are right", right, ENTRIES, "entries", least=True),
            Reach("pictures in the lock", len(locked), ENTRIES, "pictures"),
            Reach("unfinished files left in the project", len(parts), 0, "files"),
            Reach(f"memory of apply with {ENTRIES} entries against {FEW}", many / few, FLAT),
        ],
        limits=[
            f"{kills} runs of apply: {', '.join(f'{count} {how}' for how, count in ends.items())}; before the last run {len(left)} pictures were left.",
            f"apply at its largest: {many:.0f} MiB with {ENTRIES} entries, {few:.0f} MiB with {FEW}.",
            "A plan reads a picture that no plan has read since it was changed; here all were read by the first round.",
            "The sandbox stands in for RunAPI on the same machine; it draws one picture for all.",
        ],
        seed=seed,
        rounds=rounds,
    )


if __name__ == "__main__":
    chosen = options("manifest", __doc__, kills=50, rounds=11)
    with tempfile.TemporaryDirectory() as where:
        end(measure(chosen.kills, chosen.rounds, chosen.seed, Path(where)), chosen)
