"""Runs Python programs that use the client, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

DEADLINE_SECONDS = 120


def run(
    program: str, env: Mapping[str, str], folder: Path, *options: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """A program's output and exit code, after its end."""
    return subprocess.run(
        [sys.executable, *options, "-c", program],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        input=stdin,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def begin(program: str, env: Mapping[str, str], folder: Path) -> subprocess.Popen[str]:
    """A program that runs, with its output in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=env,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
