"""A hero in three widths and three formats, and the icons of a site and an app: python -m bench.derive.

The time is that of the processor in this process: nothing here waits, and nothing of it runs on a second core. The pictures are the
sandbox's, with grain, which is what takes an encoder its time.
"""

from __future__ import annotations

import io
import statistics
import time
from random import Random

from bench.report import Reach, Report, end, options
from flux2_mcp.images.derive import DerivedFile, derive, wanted
from flux2_mcp.sandbox.drawing.draw import render

WIDTHS = (640, 960, 1280)
FORMATS = ("avif", "webp", "jpeg")
HERO_PX = (1360, 768)
ICON_PX = (1024, 1024)
GRAIN = 4
"""The standard deviation of the noise that is laid over a drawn picture, of 255: that of a photograph by daylight."""
EVEN_SPREAD = 74
"""The standard deviation of bytes that are all equally frequent."""
MOST_SECONDS = 2.0


def grained(prompt: str, size: tuple[int, int], seed: int) -> bytes:
    """A drawn picture with as much noise as a photograph has."""
    from PIL import Image, ImageChops

    drawn = render(
        prompt=prompt,
        variant="pro",
        model="flux-2/pro",
        action="text_to_image",
        aspect_ratio="1:1",
        output_resolution="1k",
        size=size,
    )
    with Image.open(io.BytesIO(drawn)) as picture:
        even = Image.frombytes("RGB", size, Random(seed).randbytes(3 * size[0] * size[1]))
        noise = even.point(lambda value: 128 + (value - 128) * GRAIN / EVEN_SPREAD)
        out = io.BytesIO()
        ImageChops.add(picture.convert("RGB"), noise, 1, -128).save(out, "PNG", compress_level=1)
    return out.getvalue()


def once(original: bytes, files: tuple[DerivedFile, ...]) -> tuple[float, dict[str, bytes]]:
    """Seconds of the processor, and what came of them."""
    began = time.process_time()
    made = derive(original, files)
    return time.process_time() - began, made


def measure(rounds: int, seed: int) -> Report:
    jobs = {
        "hero, 3 widths x 3 formats": (
            grained("a lighthouse at dusk", HERO_PX, seed),
            wanted("hero.png", widths=WIDTHS, formats=FORMATS),
        ),
        "icons": (grained("a lighthouse, app icon", ICON_PX, seed), wanted("icon.png", icons=True)),
    }
    took: dict[str, list[float]] = {name: [] for name in jobs}
    kilobytes, other = dict[str, float](), 0
    for _ in range(rounds):
        for name, (original, files) in jobs.items():
            (seconds, made), (_, again) = once(original, files), once(original, files)
            took[name].append(seconds)
            kilobytes[name] = sum(map(len, made.values())) / 1000
            other += made != again
    both = [sum(each) for each in zip(*took.values(), strict=True)]
    rows = [(name, len(jobs[name][1]), statistics.median(each), kilobytes[name]) for name, each in took.items()]
    return Report(
        "derive",
        ("one original", "files", "seconds", "kB"),
        rows,
        (
            Reach("a hero in 3 widths x 3 formats and the icons, one core", statistics.median(both), MOST_SECONDS, "s"),
            Reach("runs that gave other bytes", other, 0, "runs"),
        ),
        (
            "The processor's time of this process. On a machine that is busy with others it is up to a half longer, as they share caches.",
            "The originals are drawn, with grain. Those of FLUX.2 have less grain and more detail.",
            "Starting Python and loading Pillow are not in it.",
        ),
        seed,
        took,
        rounds,
    )


def main() -> None:
    chosen = options("derive", __doc__, rounds=5)
    end(measure(chosen.rounds, chosen.seed), chosen)


if __name__ == "__main__":
    main()
