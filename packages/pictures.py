"""`make pictures`: the two pictures of README and docs/ anew, an image that the sandbox drew and the gallery with it.

Needs Chromium. Not part of `make packages`: what a browser draws is not the same to the byte on two machines.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from packages.facts import ROOT

MADE = (
    ("Night train through a city in the rain", "16:9"),
    ("A robot watering a flower", "3:4"),
    ("Forest path in autumn, soft light", "1:1"),
    ("Mountain lake under a full moon", "3:2"),
    ("A cat asleep in a bookshop window", "4:3"),
    ("Dunes at noon, one long shadow", "3:2"),
    ("A hero image: paper boats on a calm sea", "16:9"),
)
"""Prompts and their ratios, oldest first; the last is the README's own."""
WIDTH = 640
"""Pixels of the image's longer side."""
WINDOW = {"width": 1120, "height": 584}
QUALITY = 80
FLUX2 = (sys.executable, "-m", "flux2_mcp")


def draw(folder: Path) -> None:
    """Write `sandbox.webp` and `gallery.webp` into a folder."""
    with tempfile.TemporaryDirectory() as home:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("FLUX2_", "RUNAPI_"))}
        env = clean | {
            "HOME": home,
            "FLUX2_HOME": f"{home}/flux2",
            "FLUX2_MODE": "sandbox",
            "FLUX2_SANDBOX_SPEED": "50",  # from 100 on, pictures are plain
        }
        made = b"{}"
        for prompt, ratio in MADE:
            asked = (*FLUX2, "generate", prompt, "--aspect-ratio", ratio, "--json")
            made = subprocess.run(asked, env=env, cwd=home, check=True, capture_output=True).stdout
        with Image.open(json.loads(made)["tasks"][0]["images"][0]["path"]) as image:
            image.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
            image.save(folder / "sandbox.webp", quality=QUALITY)
        with Image.open(io.BytesIO(_gallery(env))) as window:
            window.save(folder / "gallery.webp", quality=QUALITY)


def _gallery(env: dict[str, str]) -> bytes:
    """A PNG of the gallery in a window, once all its pictures are there."""
    command = (*FLUX2, "gallery", "--no-open")
    with (
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as serving,
        sync_playwright() as browsers,
    ):
        try:
            assert serving.stdout is not None
            url = serving.stdout.readline().strip()
            browser = browsers.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport=WINDOW, color_scheme="light", reduced_motion="reduce")  # type: ignore[arg-type]  # a ViewportSize
            page.goto(url)
            expect(page.frame_locator("iframe").locator(".pic.has")).to_have_count(len(MADE))
            return page.screenshot()
        finally:
            serving.terminate()


if __name__ == "__main__":
    draw(ROOT / "docs")
