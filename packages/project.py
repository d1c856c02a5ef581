"""`make example`: runs the project of docs/images-as-code.md in the sandbox, and writes what the commands said into the page.

Each step changes something and tells what `plan` and `apply` say of it, and what changed in flux2.lock. What is shown stands
between `<!-- run NAME -->` and `<!-- end run -->`. Ids and digests differ from run to run: each is replaced by one that stays.
With a folder as its argument, it leaves the project there, to be looked at.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from packages import facts

PAGE: Final = facts.ROOT / "docs" / "images-as-code.md"
MANIFEST: Final = """\
#:schema ./flux2.schema.json

[style]                                  # goes into every prompt, and is part of what is compared
prompt = "flat illustration, large plain shapes, palette #0B1020 #7CF5C4"

[images."public/hero.png"]
prompt = "a lighthouse at dusk"
aspect_ratio = "16:9"
widths = [480, 960, 1280]                # hero-480.avif, hero-480.webp, ...
formats = ["avif", "webp"]

[images."public/icons/icon.png"]
prompt = "a lighthouse, app icon"
style = false
icons = true                             # favicon.ico, icon-16.png to icon-512.png, apple-touch-icon.png, maskable

[images."public/fox.png"]
prompt = "a red fox in the snow"

[images."public/fox-night.png"]          # made from the picture above, and made anew when that changes
sources = ["public/fox.png"]
prompt = "make it night"

[images."public/boats.png"]
prompt = "paper boats on a calm sea"
aspect_ratio = "4:3"

[images."public/apple.webp"]
prompt = "an apple on a plate"

[images."public/mountains.jpg"]
prompt = "mountains at dawn"
aspect_ratio = "3:2"

[images."public/logo.png"]
prompt = "a flat fox logo"
style = false
"""
_DIGEST: Final = re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_PART: Final = re.compile(r"(<!-- run ([a-z-]+) -->\n).*?(<!-- end run -->)", re.DOTALL)
CONTEXT_LINES: Final = 0


class Site:
    """The project's folder, and the commands that are run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "site"
        self.folder.mkdir(parents=True)
        self.manifest = self.folder / "flux2.toml"
        self.manifest.write_text(MANIFEST, "utf-8")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("FLUX2_", "RUNAPI_", "OTEL_"))}
        self._env = clean | {
            "HOME": str(folder), "USERPROFILE": str(folder), "FLUX2_HOME": str(folder / "flux2"), "COLUMNS": "100",
            "FLUX2_MODE": "sandbox", "FLUX2_SANDBOX_SPEED": "1000",
        }  # fmt: skip
        self._stays: dict[str, str] = {}

    def run(self, command: str, code: int = 0) -> str:
        """Return a command as it was typed, and what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "flux2_mcp", *command.split()[1:]],
            cwd=self.folder, env=self._env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, (command, done.returncode, done.stdout, done.stderr)
        said = self.steady(done.stdout + done.stderr).rstrip()
        return f"$ {command}    # exit code {code}\n{said}\n" if code else f"$ {command}\n{said}\n"

    def edit(self, old: str, new: str) -> None:
        text = self.manifest.read_text("utf-8")
        assert old in text, old
        self.manifest.write_text(text.replace(old, new), "utf-8")

    def diff(self, change: Callable[[], str]) -> str:
        """Return what a change says, and what it changed in the lock."""
        before = self._lock()
        said = change()
        lines = difflib.unified_diff(before, self._lock(), n=CONTEXT_LINES, lineterm="")
        told = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
        shown = "\n".join(told) if told else "(flux2.lock is the same as before)"
        return f"```text\n{said}```\n\n```diff\n{shown}\n```"

    def _lock(self) -> list[str]:
        place = self.folder / "flux2.lock"
        return self.steady(place.read_text("utf-8")).splitlines() if place.exists() else []

    def steady(self, text: str) -> str:
        """Replace each digest and id by one that depends on its place in the page alone, short enough to be read."""
        return _DIGEST.sub(lambda found: self._stays.setdefault(found[0], self._next(found[0])), text)

    def _next(self, found: str) -> str:
        made = hashlib.sha256(str(len(self._stays)).encode()).hexdigest()
        if "-" in found:
            return f"{made[:8]}-{made[8:12]}-4{made[13:16]}-9{made[17:20]}-{made[20:32]}"
        return made[:12] if len(found) == len(made[:12]) else f"{made[:16]}..."


def steps(site: Site) -> Iterator[tuple[str, str]]:
    """Yield each part of the page: its name and its text."""
    yield "manifest", f"```toml\n{MANIFEST}```"
    first = site.run("flux2-mcp plan", 8)
    made = site.run("flux2-mcp apply")
    yield "first", f"```text\n{first}\n{made}\n{site.run('flux2-mcp plan')}```"
    hero = [
        line
        for line in site.steady((site.folder / "flux2.lock").read_text("utf-8")).splitlines()
        if '"public/hero.png"' in line
    ]
    yield "lock", "```toml\n" + "\n".join(hero) + "\n```"

    site.edit("#7CF5C4", "#FFB454")
    yield "style", site.diff(lambda: site.run("flux2-mcp plan", 8) + "\n" + site.run("flux2-mcp apply"))

    (site.folder / "public/apple.webp").unlink()
    yield "deleted", site.diff(lambda: site.run("flux2-mcp plan", 8) + "\n" + site.run("flux2-mcp apply"))

    boats = site.folder / "public/boats.png"
    boats.write_bytes(boats.read_bytes() + b"a retouch")
    yield "edited", site.diff(
        lambda: site.run("flux2-mcp plan", 8) + "\n" + site.run("flux2-mcp apply", 8) + "\n" + site.run("flux2-mcp adopt public/boats.png")
    )  # fmt: skip

    site.edit('"public/logo.png"', '"public/brand/logo.png"')
    yield "moved", site.diff(lambda: site.run("flux2-mcp plan", 8) + "\n" + site.run("flux2-mcp apply"))

    site.edit('[images."public/mountains.jpg"]\nprompt = "mountains at dawn"\naspect_ratio = "3:2"\n\n', "")
    yield "unnamed", site.diff(lambda: site.run("flux2-mcp plan", 8) + "\n" + site.run("flux2-mcp apply"))
    yield "check", f"```text\n{site.run('flux2-mcp plan --check')}```"


def page(folder: Path) -> str:
    """Return the page with what the commands say now.

    Raises:
        ValueError: A part has no place, or a place no part.
    """
    parts = dict(steps(Site(folder)))
    text = PAGE.read_text("utf-8")
    if wrong := parts.keys() ^ {name for _, name, _ in _PART.findall(text)}:
        raise ValueError(f"These parts have no place, or are places without a part: {sorted(wrong)}.")
    return _PART.sub(lambda part: f"{part[1]}{parts[part[2]]}\n{part[3]}", text)


def main() -> None:
    if sys.argv[1:]:
        folder = Path(sys.argv[1]).resolve()
        PAGE.write_text(page(folder), "utf-8")
        return
    with tempfile.TemporaryDirectory() as name:
        PAGE.write_text(page(Path(name).resolve()), "utf-8")


if __name__ == "__main__":
    main()
