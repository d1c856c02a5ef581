"""The other way to the same server: `flux2-mcp serve --http` as a real process, spoken to as `stdio.Host` is."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Self

import httpx2

from tests.support import forked
from tests.support.sandboxed import TLS
from tests.support.stdio import COMMAND, DEADLINE, LEGACY, MODERN, dressed, hello, patched

NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
ACCEPT = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


class Served:
    """A process that serves until this ends. `said` is what it has written to stderr, whole once it has ended."""

    def __init__(self, env: Mapping[str, str], cwd: str | None = None, code: str | None = None) -> None:
        argv = ("serve", "--http", "--port", "0")
        command = [*COMMAND, *argv] if code is None else patched(code, *argv)
        self.process = forked.begin(
            command, env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd
        )
        self.said = ""
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._ready.wait(DEADLINE), self.said
        found = re.search(r"http://127\.0\.0\.1:\d+/mcp", self.said)
        assert found is not None, self.said
        self.url = found[0]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line.decode()
            if "http-token" in self.said:  # the last line of what it says at its start
                self._ready.set()
        self._ready.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> str:
        """End it as a service manager does; gives what it wrote to stderr."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        if not self.process.stdout.closed:
            self.process.terminate()
            self.process.wait(DEADLINE)
            self._reader.join(DEADLINE)
            assert self.process.stdout.read() == b""
            self.process.stdout.close()
            self.process.stderr.close()
        return self.said


class WebHost:
    """A host that connects: starts the server once, and speaks one era with it."""

    def __init__(
        self,
        env: Mapping[str, str],
        era: str,
        cwd: str | None = None,
        capabilities: Mapping[str, Any] | None = None,
        code: str | None = None,
    ) -> None:
        self._era = era
        self._capabilities = dict(capabilities or {})
        self._last = 0
        self.cwd = cwd
        self.heard: list[dict[str, Any]] = []
        self.served = Served(env, cwd, code=code)
        with open(f"{env['FLUX2_HOME']}/http-token", encoding="ascii") as file:  # noqa: PTH123  # a string is what there is
            self.token = file.read().strip()
        self.http = httpx2.Client(
            headers=ACCEPT | {"Authorization": f"Bearer {self.token}"}, verify=TLS, timeout=DEADLINE
        )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.served.process

    def __enter__(self) -> Self:
        if self._era == LEGACY:
            assert self.request("initialize", hello(self._capabilities))["serverInfo"]["name"] == "flux-2"
            self.http.headers["MCP-Protocol-Version"] = LEGACY
            self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> str:
        """End the process; gives what it wrote to stderr."""
        self.http.close()
        return self.served.stop()

    def headers(self, method: str, params: Mapping[str, Any]) -> dict[str, str]:
        """What the modern era wants beside the body."""
        if self._era == LEGACY:
            return {}
        named = (
            {"Mcp-Name": str(params[NAMED.get(method, "taskId")])} if {*NAMED.values(), "taskId"} & set(params) else {}
        )
        return {"MCP-Protocol-Version": MODERN, "Mcp-Method": method} | named

    def post(self, message: Mapping[str, Any]) -> httpx2.Response:
        return self.http.post(
            self.served.url, json=message, headers=self.headers(message["method"], message.get("params", {}))
        )

    def answer(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """The whole answer to one request; what came before it on the same stream is in `heard`."""
        self._last += 1
        full = dressed(self._era, params, self._capabilities)
        response = self.post({"jsonrpc": "2.0", "id": self._last, "method": method, "params": full})
        if session := response.headers.get("mcp-session-id"):
            self.http.headers["Mcp-Session-Id"] = session
        self.heard += messages(response)
        return self.heard[-1]

    def request(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result of one request."""
        answer = self.answer(method, params)
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        """The result of one tool call."""
        return self.request("tools/call", {"name": tool, "arguments": arguments})


def messages(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    """What a response holds: one JSON message, or a stream of them."""
    if not response.headers["content-type"].startswith("text/event-stream"):
        yield response.json()
        return
    for line in response.text.splitlines():
        if line.startswith("data: ") and line != "data: ":
            yield json.loads(line.removeprefix("data: "))
