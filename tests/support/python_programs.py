"""Runs Python programs that use the client, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support import forked

DEADLINE_SECONDS = 120


def run(
    program: str, env: Mapping[str, str], folder: Path, *options: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """A program's output and exit code, after its end."""
    with begin(program, env, folder, *options) as process:
        out, err = process.communicate(stdin, timeout=DEADLINE_SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def begin(program: str, env: Mapping[str, str], folder: Path, *options: str) -> subprocess.Popen[str]:
    """A program that runs, with its output in a pipe."""
    return forked.begin(
        [sys.executable, *options, "-c", program],
        env,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
