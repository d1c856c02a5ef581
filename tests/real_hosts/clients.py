"""The real clients, pinned, each fetched once into a cache and then started offline in a home of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

PINNED = {
    "node": "node@22",
    "claude": "@anthropic-ai/claude-code@2.1.330",
    "codex": "@openai/codex@0.169.0",
    "gemini": "@google/gemini-cli@0.61.0",
    "opencode": "opencode-ai@1.18.33",
    "copilot": "@github/copilot@1.0.102",
    "mcp-inspector": "@modelcontextprotocol/inspector@2.12.0",
    "mcpb": "@anthropic-ai/mcpb@2.1.2",
    "skills": "skills@1.7.4",
}
"""What is fetched for which program. `node` is what the others run on: several want 22."""
FETCH_SECONDS = 540.0
CLIENT_SECONDS = 120.0
"""A client on a busy machine; alone they take seconds."""
CACHE = Path(os.environ.get("FLUX2_TEST_CLIENTS") or Path.home() / ".cache/flux2-mcp/hosts")
LOOPBACK_ONLY = """
import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Brings loopback up in a new network namespace, where there is nothing else, and becomes the command."""


@cache
def fetched(program: str) -> Path:
    """The program, from the cache or the npm registry. Where that can't be reached, the test is skipped and says so."""
    package = PINNED[program]
    folder = CACHE / package.rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be at it
        if not (folder / ".done").is_file():
            _fetch(package, folder)
            (folder / ".done").touch()
    path = folder / "node_modules/.bin" / program
    assert path.exists(), f"{package} has no {program}"
    return path


def _fetch(package: str, folder: Path) -> None:
    if (npm := shutil.which("npm")) is None:
        pytest.skip(f"{package} can't be fetched: there is no npm here")
    quiet = ("--no-audit", "--no-fund", "--no-package-lock", "--fetch-retries", "1")
    command = [npm, "install", *quiet, "--prefix", str(folder), package]
    try:
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=FETCH_SECONDS)
    except subprocess.CalledProcessError as exc:
        said = next((line for line in exc.stderr.splitlines() if line.startswith("npm error")), "npm failed")
        pytest.skip(f"{package} can't be fetched: {said}")
    except subprocess.TimeoutExpired:
        pytest.skip(f"{package} can't be fetched: no answer in {FETCH_SECONDS:.0f} s")


@cache
def offline() -> tuple[str, ...]:
    """What comes before a command so that it sees no network but loopback; nothing where the system does not allow that."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    prefix = (unshare, "--map-root-user", "--net", sys.executable, "-c", LOOPBACK_ONLY)
    tried = subprocess.run([*prefix, "/bin/true"], capture_output=True, check=False, timeout=CLIENT_SECONDS)
    return prefix if tried.returncode == 0 else ()


def environment(home: Path, *programs: str, **more: str) -> dict[str, str]:
    """All that a client is given: a home, Node, and the programs that have to be found."""
    folders = [fetched(program).parent for program in ("node", *programs)]
    return {"HOME": str(home), "PATH": ":".join([*map(str, folders), "/usr/bin", "/bin"])} | more


def client(
    program: str,
    *arguments: str,
    env: Mapping[str, str],
    cwd: Path,
    before: Sequence[str] = (),
    fds: Sequence[int] = (),
) -> subprocess.CompletedProcess[str]:
    """One command of a client, offline, run to its end.

    Args:
        program: Which; its name in PINNED.
        arguments: Of the command.
        env: All of its environment.
        cwd: Where it runs.
        before: A command that becomes the client, offline as it is.
        fds: File descriptors that it inherits.
    """
    command: Sequence[str] = [*offline(), *before, str(fetched(program)), *arguments]
    return subprocess.run(
        command, env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=CLIENT_SECONDS, pass_fds=fds,
    )  # fmt: skip
