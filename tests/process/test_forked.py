"""What is forked is a process as any other: `tests.support.forked` against `subprocess`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import forked
from tests.support.stdio import DEADLINE, patched

SEEN = """
import json, os, sys, threading, signal
import flux2_mcp.cli.main
print(json.dumps({
    "argv": sys.argv, "env": dict(os.environ), "cwd": os.getcwd(), "name": __name__, "read": sys.stdin.read(),
    "buffered": [sys.stdout.line_buffering, sys.stderr.line_buffering, sys.stdout.encoding, sys.stderr.errors],
    "descriptors": len(os.listdir("/proc/self/fd")), "threads": threading.active_count(),
    "leads": os.getsid(0) == os.getpid(), "sigint": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
}))
print("fox", file=sys.stderr)
sys.exit(7)
"""


@pytest.mark.parametrize("leads", [False, True])
def test_a_forked_process_is_as_one_that_was_started(clean_env: dict[str, str], tmp_path: Path, *, leads: bool) -> None:
    command = [sys.executable, "-P", "-c", SEEN, "one", "--two"]
    assert forked.can(command, clean_env)
    done = forked.run(command, clean_env, timeout=DEADLINE, given="a\nb", cwd=tmp_path, start_new_session=leads)
    usual = subprocess.run(
        command, env=clean_env, cwd=tmp_path, input="a\nb", start_new_session=leads, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert json.loads(done.stdout) == json.loads(usual.stdout)
    assert (done.returncode, done.stderr) == (usual.returncode, usual.stderr) == (7, "fox\n")


def test_its_end_by_a_signal_is_told_and_waited_for(clean_env: dict[str, str]) -> None:
    waits = patched("sys.stdin.read()")
    for number in (signal.SIGTERM, signal.SIGKILL):
        with forked.begin(waits, clean_env, stdin=subprocess.PIPE) as process:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0)
            assert process.poll() is None
            process.send_signal(number)
            assert process.wait(DEADLINE) == -number
            with pytest.raises(ProcessLookupError):
                os.kill(process.pid, 0)


def test_what_python_reads_at_its_start_is_not_forked(clean_env: dict[str, str]) -> None:
    assert not forked.can(patched(""), clean_env | {"PYTHONPATH": "/elsewhere"})
    assert not forked.can(patched(""), clean_env | {"LC_ALL": "C"})
    assert not forked.can([sys.executable, "-W", "error", "-c", ""], clean_env)
    assert not forked.can(["/bin/sh", "-c", ""], clean_env)
