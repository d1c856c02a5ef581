"""A thousand tasks in flight in one process, beside raw httpx at the same rate: python -m bench.crowd.

Ours is a service in a process of its own, asked for all of them at once: it writes each down, sends, asks, fetches, checks.
Raw httpx sends its requests evenly at the same rate: it creates all, then asks in turn for what is open, and fetches what
is done. It writes nothing down but the images. Neither is told beforehand how long a task takes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import anyio
import httpx

from bench.report import NOISE, ROOT, Reach, Report, end, options
from bench.talk import live, resident, sandbox
from flux2_mcp.domain.models import RequestArgs, StoredImage
from flux2_mcp.domain.pacing import WINDOW_SECONDS
from flux2_mcp.sandbox import tasks
from flux2_mcp.sandbox.state import SandboxState

TASKS = 1000
TOGETHER = 8
"""Tasks of one call of ours."""
DEADLINE = 300.0
LOOK = 0.25
PATH = "/api/v1/flux_2/text_to_image"


async def raw(url: str, key: str, count: int, rate: float, folder: Path) -> float:
    """Seconds that plain httpx takes."""
    opened: deque[str] = deque()
    done = 0
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as web:

        async def create(number: int) -> None:
            body = {"model": "flux-2-pro-text-to-image", "prompt": f"raw fox {number}"}
            opened.append((await web.post(PATH, json=body)).raise_for_status().json()["id"])

        async def ask(task: str) -> None:
            nonlocal done
            seen = (await web.get(f"{PATH}/{task}")).raise_for_status().json()
            if seen["status"] != "completed":
                opened.append(task)
                return
            content = (await web.get(seen["images"][0]["url"])).raise_for_status().content
            await anyio.Path(folder / f"{task}.png").write_bytes(content)
            done += 1

        async with anyio.create_task_group() as group:
            sent = turns = 0
            while done < count:
                await anyio.sleep(max(0.0, began + turns / rate - time.monotonic()))
                turns += 1
                if sent < count:
                    group.start_soon(create, sent)
                    sent += 1
                elif opened:
                    group.start_soon(ask, opened.popleft())
    return time.monotonic() - began


async def ours(count: int) -> tuple[float, list[float], list[StoredImage]]:
    """What this process, a service alone, makes of the same: seconds, its memory in MiB from time to time, the images."""
    from flux2_mcp.engine.service import Service
    from flux2_mcp.settings import from_env

    memory: list[float] = []

    async def watch() -> None:
        while True:
            memory.append(resident(os.getpid()) / 2**20)
            await anyio.sleep(LOOK)

    images: list[StoredImage] = []
    async with Service.opened(from_env(os.environ)) as service, anyio.create_task_group() as group:
        group.start_soon(watch)
        began = time.monotonic()

        async def call(first: int) -> None:
            together = min(TOGETHER, count - first)
            asked = await service.request(RequestArgs(prompt=f"our fox {first}"))
            offer = await service.offer(asked, count=together)
            outcome = await service.generate(offer, approved=True, wait_seconds=DEADLINE)
            images.extend(image for told in outcome.tasks for image in told.record.images)

        async with anyio.create_task_group() as calls:
            for first in range(0, count, TOGETHER):
                calls.start_soon(call, first)
        seconds = time.monotonic() - began
        group.cancel_scope.cancel()
    return seconds, memory, images


def alone(count: int) -> dict[str, Any]:
    """The same with every file read again, once the clock has stopped: how many are there and whole."""
    seconds, memory, images = anyio.run(ours, count)
    whole = [image for image in images if hashlib.sha256(Path(image.path).read_bytes()).hexdigest() == image.sha256]
    return {"seconds": seconds, "memory": memory, "delivered": len(whole)}


def in_flight(state: SandboxState) -> int:
    """The most tasks that were open at once."""
    every = tasks.every(state)
    changes = sorted([(task.created_at, 1) for task in every] + [(task.ends_at or 0.0, -1) for task in every])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def measure(count: int, rate: int, seed: int) -> Report:
    """One after the other, raw, ours, raw: two at once would take the machine from each other."""
    seconds: dict[str, list[float]] = {"raw httpx": [], "ours": []}
    most: list[int] = []
    told: dict[str, Any] = {}
    creates: list[int] = []
    seconds_each = 1.5 * count * WINDOW_SECONDS / rate
    for who in ("raw httpx", "ours", "raw httpx"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            # A task takes about as long as all creates do, so that at some time all of them are open.
            with sandbox(folder / "runapi", speed=4 / seconds_each, seed=seed) as (url, key):
                if who == "ours":
                    env = live(url, key, rate=rate, in_flight=count)
                    env |= {"PATH": os.environ["PATH"], "HOME": name, "FLUX2_HOME": str(folder / "home"), "FLUX2_CONFIRM_USD": "off"}  # fmt: skip
                    command = [sys.executable, "-m", "bench.crowd", "--alone", str(count)]
                    done = subprocess.run(
                        command, env=env, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=DEADLINE
                    )
                    told = json.loads(done.stdout)
                    seconds[who].append(told["seconds"])
                else:
                    seconds[who].append(anyio.run(raw, url, key, count, rate / WINDOW_SECONDS, folder))
            state = SandboxState(folder / "runapi")
            most.append(in_flight(state))
            creates.append(len(tasks.every(state)))
            state.close()
    best = min(seconds["raw httpx"])
    memory = told["memory"]
    third, last = memory[len(memory) // 2 : -len(memory) // 4], memory[-len(memory) // 4 :]
    return Report(
        "crowd",
        (f"{count} tasks, {rate} a second at most", "seconds", "tasks a second", "made", "most open at once"),
        [
            ("raw httpx", seconds["raw httpx"][0], count / seconds["raw httpx"][0], creates[0], most[0]),
            ("ours", seconds["ours"][0], count / seconds["ours"][0], creates[1], most[1]),
            ("raw httpx, again", seconds["raw httpx"][1], count / seconds["raw httpx"][1], creates[2], most[2]),
        ],
        (
            Reach("throughput, against the better of raw httpx", best / seconds["ours"][0], 0.95, least=True),
            Reach("tasks that were lost or made twice", abs(creates[1] - count) + count - told["delivered"], 0, "tasks"),
            Reach("memory: the most of the last quarter against the most of the one before", max(last) / max(third), 1.1),
        ),
        (
            NOISE,
            f"FLUX2_RATE is {rate}; the limiter lets as many through in {WINDOW_SECONDS} s, so raw httpx makes {rate / WINDOW_SECONDS:.0f} a second.",
            "The runs follow each other: two at once would take the machine from each other.",
            f"Tasks take {seconds_each:.0f} s on average; the sandbox hands out one real picture for all of them.",
            f"Memory of ours: {memory[0]:.0f} MiB at the start, {memory[len(memory) // 2]:.0f} in the middle, {max(memory):.0f} at most, {memory[-1]:.0f} at the end.",
        ),
        seed,
        {"seconds": seconds, "memory MiB": memory},
    )  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--alone"]:
        print(json.dumps(alone(int(sys.argv[2]))))
        return
    chosen = options("crowd", __doc__, tasks=TASKS, rate=100)
    end(measure(chosen.tasks, chosen.rate, chosen.seed), chosen)


if __name__ == "__main__":
    main()
