"""A host as hosts are: a real process, real pipes, JSON-RPC lines, both eras. Every byte of stdout must be protocol."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from queue import Queue
from typing import Any, Self

DEADLINE = 60.0
COMMAND = [sys.executable, "-m", "flux2_mcp"]
MODERN = "2026-07-28"
LEGACY = "2025-06-18"
ERAS = (LEGACY, MODERN)
_META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
}


class Host:
    """Starts the server and speaks one era with it."""

    def __init__(self, env: Mapping[str, str], era: str, cwd: str | None = None) -> None:
        self._era = era
        self._last = 0
        self.process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            cwd=cwd,
            bufsize=0,
        )
        self.lines: list[bytes] = []
        self.errors = ""
        self._arrived: Queue[bytes] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            self._arrived.put(line)

    def __enter__(self) -> Self:
        if self._era == LEGACY:
            hello = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}}
            assert self.request("initialize", hello)["serverInfo"]["name"] == "flux-2"
            self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> str:
        """End of input, then the end of the process; gives what it wrote to stderr."""
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        if not process.stderr.closed:
            process.stdin.close()
            self.errors = process.stderr.read().decode()
            process.wait(DEADLINE)
            self._reader.join(DEADLINE)
            process.stderr.close()
            process.stdout.close()
        return self.errors

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    def answer(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """The whole answer to one request."""
        self._last += 1
        full = dict(params or {}) | ({"_meta": _META} if self._era == MODERN else {})
        self.send({"jsonrpc": "2.0", "id": self._last, "method": method, "params": full})
        while True:
            message: dict[str, Any] = json.loads(self._arrived.get(timeout=DEADLINE))
            if message.get("id") == self._last:
                return message

    def request(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result of one request."""
        answer = self.answer(method, params)
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        """The result of one tool call."""
        return self.request("tools/call", {"name": tool, "arguments": arguments})
