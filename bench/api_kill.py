"""Kill a program in `Flux2Client.run` at random moments, and start it again: python -m bench.api_kill [--kills 50].

Each program asks for one image under an idempotency key of its own. It is killed with SIGKILL at a moment that the dice
choose, from before its first request to after its last, and started again under the same key. Prints where the kills
fell. Exits with 1 if RunAPI has more or less than one task for a key, or an image is not there or not whole.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random

from PIL import Image

from bench.report import Reach, Report, end, options
from flux2_mcp import Flux2Client
from flux2_mcp.sandbox.server import Sandbox
from tests.conftest import environment

PROGRAM = """
import sys
from flux2_mcp import Flux2Client
with Flux2Client() as client:
    print("go", flush=True)
    print(client.text_to_image.run(prompt="A red fox", idempotency_key=sys.argv[1]).images[0].path)
"""
SPEED = 10.0
LONGEST_SECONDS = 2.0
"""A run takes about this long."""
DEADLINE_SECONDS = 120.0


def killed_and_again(env: Mapping[str, str], folder: Path, key: str, seconds: float) -> tuple[Path, bool]:
    """Kill a program so many seconds after it began, and start it again.

    Returns the image's file, and whether the first program was still in `run` then.
    """
    with _begun(env, folder, key) as program:
        assert program.stdout is not None
        program.stdout.readline()
        try:
            program.wait(seconds)
        except subprocess.TimeoutExpired:
            program.kill()
    killed = bool(program.returncode)
    with _begun(env, folder, key) as program:
        said, _ = program.communicate(timeout=DEADLINE_SECONDS)
    return Path(said.split("\n")[1]), killed


def _begun(env: Mapping[str, str], folder: Path, key: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, key], env=env, cwd=folder, stdout=subprocess.PIPE, text=True
    )


def run(kills: int, seed: int, folder: Path) -> Report:
    """Kill so many programs, each once."""
    dice, moments, whole, in_run = Random(seed), Counter[str](), 0, Counter[str]()
    with Sandbox(folder / "runapi", speed=SPEED, rate=None, seed=seed) as runapi:
        env = environment(folder) | {"RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url}
        for number in range(kills):
            key, seconds = f"key-{number}", dice.uniform(0, LONGEST_SECONDS)
            path, killed = killed_and_again(env, folder, key, seconds)
            with Image.open(path) as picture:
                picture.load()
                whole += 1
            moments[f"{seconds:.1f} s"] += 1
            in_run[f"{seconds:.1f} s"] += killed
        tasks = Counter(task.idempotency_key for task in runapi.tasks())
        creates = runapi.creates()
    with Flux2Client(environ=env) as client:
        known = client.tasks.recent(limit=1000)
    twice = sum(number - 1 for number in tasks.values())
    return Report(
        bench="api_kill",
        head=("killed after", "programs", "still in run"),
        rows=[(moment, moments[moment], in_run[moment]) for moment in sorted(moments)],
        reaches=[
            Reach("tasks at RunAPI beside the one for each key", twice, 0, "tasks"),
            Reach("keys with a task", len(tasks), kills, "keys", least=True),
            Reach("whole images on disk", whole, kills, "images", least=True),
            Reach("tasks in the journal that ended", sum(task.ended for task in known), kills, "tasks", least=True),
        ],
        limits=[
            f"{creates} creates arrived for {kills} programs, {in_run.total()} killed in run: a create without an answer is sent again."
        ],
        seed=seed,
    )


if __name__ == "__main__":
    chosen = options("api_kill", __doc__, kills=50)
    with tempfile.TemporaryDirectory() as where:
        end(run(chosen.kills, chosen.seed, Path(where)), chosen)
