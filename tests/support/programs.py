"""The served programs as they are run: code cut out of the Markdown, the runtimes that this machine has, processes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import anyio
import playwright
import pytest

from flux2_mcp.server.docs import examples, index
from tests.support.services import PATIENCE, Front

LEAST_NODE = (22, 18)
"""Runs TypeScript without a flag from here on."""


def code(uri: str) -> str:
    """The program that a document serves: the only fenced block of its language."""
    (block,) = re.findall(r"^```\w+\n(.*?)^```$", index.documents()[uri].text(), re.DOTALL | re.MULTILINE)
    return str(block)


@cache
def runtime(language: str) -> list[str] | str:
    """The command that runs a language's programs, or why there is none here."""
    if language == "python":
        return [sys.executable, "-W", "error"]
    if language == "typescript":
        return _node()
    command, needs, asked = {
        "curl": ("bash", "bash, jq and curl 7.84", ["-c", "jq --version && curl -w '%header{x}' file:///dev/null"]),
        "php": ("php", "php with the curl extension", ["-r", "exit(extension_loaded('curl') ? 0 : 1);"]),
        "ruby": ("ruby", "ruby", ["-e", "require 'net/http'"]),
    }[language]
    found = shutil.which(command)
    if found is None or subprocess.run([found, *asked], capture_output=True, check=False).returncode:
        return f"{needs} is not installed"
    return [found]


def _node() -> list[str] | str:
    """The system's Node where it is new enough, else the one that playwright brings along."""
    bundled = Path(playwright.__file__).parent / "driver" / ("node.exe" if os.name == "nt" else "node")
    for node in (shutil.which("node"), bundled if bundled.exists() else None):
        if node is not None:
            told = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
            if tuple(map(int, told.strip().lstrip("v").split(".")[:2])) >= LEAST_NODE:
                return [str(node)]
    return f"Node {'.'.join(map(str, LEAST_NODE))} is not installed"


def command(language: str) -> list[str]:
    """The same; skips the test where there is none."""
    if isinstance(found := runtime(language), str):
        pytest.skip(found)
    return found


def environment(front: Front, folder: Path, **more: str) -> Mapping[str, str]:
    """What the documents ask to be set, and what any process needs."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    keys = {"RUNAPI_BASE_URL": front.base_url, "RUNAPI_API_KEY": front.sandbox.api_key}
    return kept | {"HOME": str(folder)} | keys | more


class Quickstart:
    """One quickstart, saved as its document says, in a folder of its own."""

    def __init__(self, front: Front, folder: Path, language: str, uri: str) -> None:
        self._front = front
        self.language = language
        self._command = [*command(language), examples.LANGUAGES[language].file]
        self.folder = folder / "program"
        self.folder.mkdir()
        (self.folder / self._command[-1]).write_text(code(uri), "utf-8")

    async def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end."""
        with anyio.fail_after(2 * PATIENCE):
            return await anyio.run_process(
                [*self._command, *arguments],
                cwd=self.folder,
                env=environment(self._front, self.folder, **more),
                check=False,
            )

    def saved(self) -> list[Path]:
        """The images in the folder."""
        return sorted(self.folder.glob("*.png"))
