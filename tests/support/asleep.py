"""Whether a server's process sleeps: then it has not loaded the SDK."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc shows what a process has loaded")
DEADLINE = 60.0


def is_asleep(pid: int) -> bool:
    """True as long as the compiled part of pydantic is not there, without which nobody has the SDK."""
    return "pydantic_core" not in Path(f"/proc/{pid}/maps").read_text("utf-8")


def until_awake(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while is_asleep(pid):
        assert time.monotonic() < deadline, "it sleeps on"
        time.sleep(0.02)
