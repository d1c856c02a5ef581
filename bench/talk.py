"""Who is measured: a server's process with the lines that go to and fro, and RunAPI's part in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from bench.report import ROOT

SERVER = [sys.executable, "-m", "flux2_mcp"]
MINIMAL = [sys.executable, "-m", "bench.minimal"]
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
ONE_PICTURE = (
    "from flux2_mcp.sandbox.drawing import draw\n"
    "one = draw.render(prompt='a fox', variant='pro', model='flux-2-pro-text-to-image', action='text_to_image',"
    " aspect_ratio='1:1', output_resolution='1k', sources=[], size=None, take='')\n"
    "draw.render = lambda **_: one\n"
)
"""Drawing is the sandbox's own work, and takes longer than all that is measured: one real picture serves for all tasks."""


def resident(pid: int) -> int:
    """The resident memory of a process, bytes: VmRSS."""
    return int(Path(f"/proc/{pid}/status").read_text("ascii").partition("VmRSS:")[2].split()[0]) * 1024


class Conversation:
    """One process and the lines that go to and fro."""

    def __init__(
        self, command: Sequence[str], home: str, env: Mapping[str, str] | None = None, *, client: str = "bench"
    ) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPYCACHEPREFIX") if name in os.environ}
        full = {**kept, "HOME": home, "FLUX2_HOME": home, **(env or {})}
        self.began = time.perf_counter()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=full, cwd=ROOT)
        self._last = 0
        self._client = client

    def __enter__(self) -> Self:
        self.ask("initialize", HELLO | {"clientInfo": {"name": self._client, "version": "1"}})
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        self.ask("tools/list", {})
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end()

    def since(self, began: float | None = None) -> float:
        """Milliseconds since the spawn, or since a time."""
        return (time.perf_counter() - (self.began if began is None else began)) * 1000

    def ask(self, method: str, params: object) -> dict[str, Any]:
        """Send a request and read its answer's result."""
        ident = self.start(method, params)
        answer: dict[str, Any] = json.loads(self.line())
        assert answer["id"] == ident
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def start(self, method: str, params: object) -> int:
        """Send a request; its answer is for the caller to read. Gives its id."""
        self._last += 1
        self.send({"jsonrpc": "2.0", "id": self._last, "method": method, "params": params})
        return self._last

    def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        """The result of a tool call that goes well."""
        result = self.ask("tools/call", {"name": tool, "arguments": arguments})
        assert not result.get("isError"), result
        return result

    def timed(self, tool: str, **arguments: object) -> float:
        """Milliseconds that such a call takes."""
        began = time.perf_counter()
        self.call(tool, **arguments)
        return self.since(began)

    def send(self, message: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def line(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def memory(self) -> int:
        """Resident, bytes."""
        return resident(self.process.pid)

    def work(self) -> float:
        """Milliseconds on a CPU so far, all its threads together."""
        return time.clock_gettime((~self.process.pid << 3) | 2) * 1000  # clock_getcpuclockid(3), as Linux makes it

    def end(self) -> float:
        """Milliseconds from the end of its input to its own."""
        assert self.process.stdin is not None
        began = time.perf_counter()
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        took = self.since(began)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return took


@contextmanager
def sandbox(folder: Path, *, speed: float, seed: int, one_picture: bool = True) -> Iterator[tuple[str, str]]:
    """A sandbox in a process of its own, so that its work is not ours. Gives its address and its key."""
    code = (ONE_PICTURE if one_picture else "") + (
        "import sys, pathlib; from flux2_mcp.sandbox.server import Sandbox\n"
        f"with Sandbox(pathlib.Path(sys.argv[1]), speed={speed}, rate=None, seed={seed}, opening_cents=10**6) as s:\n"
        "    print(s.base_url, s.api_key, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        base_url, api_key = process.stdout.readline().split()
        yield base_url, api_key
    finally:
        process.communicate(timeout=30)


def live(base_url: str, api_key: str, *, rate: int = 1000, in_flight: int = 32) -> dict[str, str]:
    """Variables with which a server takes that sandbox for RunAPI."""
    return {
        "RUNAPI_BASE_URL": base_url,
        "RUNAPI_API_KEY": api_key,
        "FLUX2_RATE": str(rate),
        "FLUX2_MAX_IN_FLIGHT": str(in_flight),
    }
