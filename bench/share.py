"""Our share of a generate call beside the vendor's own SDK: python -m bench.share.

Both have the same sandbox, in a process of its own, make an image that is done at once and bring it to disk. Ours: one
call over stdio, with the intent, the receipt and the delivery written down and synced. The SDK's: create, get, and a
download with httpx, in this process; nothing is written down, nothing checked, nothing synced.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from random import Random

import httpx
from runapi.flux_2 import Flux2Client

from bench.report import NOISE, Reach, Report, end, options, percentile, ratio
from bench.talk import SERVER, Conversation, live, sandbox

WARM = 12
"""Calls of each before any is counted: ours learns from them how soon a task is done."""
PROMPT = "[sandbox:instant] a red fox in the snow, number "


def ours(talk: Conversation, number: int, *, preview: bool) -> float:
    """Milliseconds of one call that ends with an image on disk."""
    began = time.perf_counter()
    result = talk.call("generate", prompt=f"{PROMPT}{number}", wait_seconds=60, preview=preview)
    took = talk.since(began)
    task = result["structuredContent"]["tasks"][0]
    assert task["status"] == "completed", task
    assert Path(task["images"][0]["path"]).stat().st_size == task["images"][0]["size_bytes"]
    return took


def vendor(sdk: Flux2Client, web: httpx.Client, number: int, folder: Path) -> float:
    """Milliseconds of the same with the SDK."""
    began = time.perf_counter()
    made = sdk.text_to_image.create(model="flux-2-pro-text-to-image", prompt=f"{PROMPT}{number}")
    seen = sdk.text_to_image.get(made.id)
    assert seen.status == "completed", seen
    (folder / f"{number}.png").write_bytes(web.get(seen.images[0].url).raise_for_status().content)
    return (time.perf_counter() - began) * 1000


def measure(rounds: int, seed: int) -> Report:
    """Each round has one call of each, in an order that the dice choose."""
    dice, took = Random(seed), {who: list[float]() for who in ("ours", "ours, with a preview", "vendor's SDK")}
    with tempfile.TemporaryDirectory() as name, sandbox(Path(name) / "runapi", speed=1000, seed=seed) as (url, key):
        folder = Path(name)
        with (
            Conversation(SERVER, str(folder / "home"), live(url, key)) as talk,
            httpx.Client() as web,
        ):
            sdk = Flux2Client(api_key=key, base_url=url, max_retries=0)
            for number in range(WARM + rounds):
                for at, who in enumerate(dice.sample(sorted(took), len(took))):
                    ident = number * len(took) + at
                    each = (
                        vendor(sdk, web, ident, folder)
                        if who == "vendor's SDK"
                        else ours(talk, ident, preview=who != "ours")
                    )
                    if number >= WARM:
                        took[who].append(each)
            syncs = synced(folder, rounds)
    more = [mine - theirs for mine, theirs in zip(took["ours"], took["vendor's SDK"], strict=True)]
    return Report(
        "share",
        ("an image on disk", "median ms", "p90 ms", "times the SDK's"),
        [
            (who, statistics.median(each), percentile(each, 0.9), ratio(each, took["vendor's SDK"]))
            for who, each in took.items()
        ]
        + [("(one sync of 4 kB on this disk)", statistics.median(syncs), percentile(syncs, 0.9), "")],
        (Reach("our share of a generate call, more than the vendor's SDK takes", statistics.median(more), 60, "ms"),),
        (
            NOISE,
            "The sandbox hands out one real picture of 1024 x 1024 for all tasks: drawing it is not what is measured.",
            f"{WARM} calls of each before are not counted. FLUX2_RATE is 1000, so that no call waits for its turn.",
            "What a disk takes to sync decides much of it; the last line says what it took here.",
        ),
        seed,
        took,
        rounds,
    )


def synced(folder: Path, count: int) -> list[float]:
    """Milliseconds that appending 4 kB to a file and syncing it takes on the disk that all this lies on."""
    took = []
    with (folder / "sync").open("ab", buffering=0) as file:
        for _ in range(count):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    return took


def main() -> None:
    chosen = options("share", __doc__, rounds=40)
    end(measure(chosen.rounds, chosen.seed), chosen)


if __name__ == "__main__":
    main()
