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
CLIENT = {"name": "tests", "version": "1"}


def hello(capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `initialize`."""
    return {"protocolVersion": LEGACY, "capabilities": dict(capabilities), "clientInfo": CLIENT}


def dressed(era: str, params: Mapping[str, Any] | None, capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as the era has them."""
    if era == LEGACY:
        return dict(params or {})
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": dict(capabilities),
        "io.modelcontextprotocol/clientInfo": CLIENT,
    }
    return dict(params or {}) | {"_meta": meta | dict((params or {}).get("_meta", {}))}


class Host:
    """Starts the server and speaks one era with it."""

    def __init__(
        self,
        env: Mapping[str, str],
        era: str,
        cwd: str | None = None,
        capabilities: Mapping[str, Any] | None = None,
    ) -> None:
        self._era = era
        self._capabilities = dict(capabilities or {})
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
        self.heard: list[dict[str, Any]] = []
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
            assert self.request("initialize", hello(self._capabilities))["serverInfo"]["name"] == "flux-2"
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
        return self.answer_to(self.ask(method, params))

    def ask(self, method: str, params: dict[str, Any] | None = None) -> int:
        """Send one request; gives its id."""
        self._last += 1
        full = dressed(self._era, params, self._capabilities)
        self.send({"jsonrpc": "2.0", "id": self._last, "method": method, "params": full})
        return self._last

    def answer_to(self, ident: int) -> dict[str, Any]:
        """The whole answer to a request sent before; what else arrives until then is in `heard`."""
        while (message := self.next()).get("id") != ident:
            pass
        return message

    def next(self) -> dict[str, Any]:
        """The next message that arrives."""
        message: dict[str, Any] = json.loads(self._arrived.get(timeout=DEADLINE))
        self.heard.append(message)
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
