"""A host as hosts are: a real process, real pipes, JSON-RPC lines, both eras. Every byte of stdout must be protocol."""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from queue import Queue
from typing import Any, Self

from tests.support import forked

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


IN_PEACE = """
from flux2_mcp.server import telemetry
from flux2_mcp.server.transports import stdio
stdio.GRACE_SECONDS = stdio.ANSWER_SECONDS = stdio.LAST_SECONDS = telemetry.FLUSH_SECONDS = 60
"""
"""For `patched`: on a busy machine a server may not come to its last words in the half second that it has for its end."""


NO_HURRY = "import threading; timer = threading.Timer; threading.Timer = lambda _, *what: timer(60, *what)\n"
"""For code that tells something at the server's exit: the server ends itself after a moment, on a busy machine before that."""


def patched(code: str, *argv: str) -> list[str]:
    """A command that runs this, and then ours with these arguments."""
    ours = f"{code}\nfrom flux2_mcp.__main__ import main\nmain()"
    # As installed programs have it, the working folder is no place to import from; 3.13.0 breaks on one that is gone.
    return [sys.executable, "-P", "-c", f"import signal, sys\n{ours}", *argv]


class Host:
    """Starts the server and speaks one era with it.

    `code`: what its process runs before. `loads`: it is started as hosts start it, and loads all itself.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        era: str,
        cwd: str | None = None,
        capabilities: Mapping[str, Any] | None = None,
        code: str | None = None,
        *,
        loads: bool = False,
    ) -> None:
        self._era = era
        self._capabilities = dict(capabilities or {})
        self._last = 0
        self.cwd = cwd
        self.process = (subprocess.Popen if loads else forked.begin)(
            COMMAND if code is None else patched(code),
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
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
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

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


class Raw:
    """A server and the bare lines of a host, for what no well-behaved host does. It ends in time, or is killed.

    Args:
        env: The server's.
        sockets: Node gives its children sockets, others pipes.
        pipe_bytes: The size of the pipe that it writes to.
        command: How it is started.
        loads: It is started as hosts start it, and loads all itself.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        *,
        sockets: bool = False,
        pipe_bytes: int | None = None,
        command: Sequence[str] = COMMAND,
        loads: bool = False,
    ) -> None:
        source, self._to = _socket_pair() if sockets else os.pipe()
        self._from, sink = _socket_pair() if sockets else os.pipe()
        if pipe_bytes is not None:
            fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, pipe_bytes)
        start = subprocess.Popen if loads else forked.begin
        self.process = start(command, env=dict(env), stdin=source, stdout=sink, stderr=subprocess.PIPE)
        os.close(source)
        os.close(sink)
        self._open = {self._to, self._from}
        self._begun = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.close_input()
        self.close_output()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def until_it_says(self, line: bytes) -> None:
        """Wait for its first words on stderr, which are these."""
        assert self.process.stderr is not None
        assert select.select([self.process.stderr], [], [], DEADLINE)[0], "it said nothing"
        assert self.process.stderr.readline() == line

    def errors(self) -> str:
        """What it wrote to stderr, once it has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def send(self, *lines: str | bytes) -> None:
        for line in lines:
            self.write((line.encode() if isinstance(line, str) else line) + b"\n")

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            assert select.select([], [self._to], [], DEADLINE)[1], "it does not read"
            rest = rest[os.write(self._to, rest[:4096]) :]

    def receive(self) -> dict[str, Any]:
        """The next line of its output, which is a message."""
        message: dict[str, Any] = json.loads(self.line())
        return message

    def line(self) -> bytes:
        """The next line of its output."""
        while b"\n" not in self._begun:
            chunk = self._output()
            assert chunk, "the output has ended"
            self._begun += chunk
        line, _, self._begun = self._begun.partition(b"\n")
        return line

    def _output(self) -> bytes:
        assert select.select([self._from], [], [], DEADLINE)[0], "nothing came"
        return os.read(self._from, 65536)

    def until_full(self) -> None:
        """Wait until its output stands unread in a pipe of one page: then it takes no more."""
        deadline = time.monotonic() + DEADLINE
        while not any(fcntl.ioctl(self._from, termios.FIONREAD, bytes(4))):
            assert time.monotonic() < deadline, "nothing came"
            time.sleep(0.01)

    def close_input(self) -> None:
        self._close(self._to)

    def close_output(self) -> None:
        self._close(self._from)

    def _close(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open.remove(descriptor)
            os.close(descriptor)

    def wait(self) -> int:
        """Wait for its end, reading nothing; gives the exit code."""
        return self.process.wait(DEADLINE)

    def end(self) -> tuple[int, bytes]:
        """End its input, read the rest of its output; gives the exit code and the rest."""
        self.close_input()
        while chunk := self._output():
            self._begun += chunk
        return self.wait(), self._begun


def _socket_pair() -> tuple[int, int]:
    one, other = socket.socketpair()
    return one.detach(), other.detach()
