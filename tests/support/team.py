"""`flux2-mcp serve --http` for a team as a real process, and a client of it."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx2

from tests.conftest import environment
from tests.support import forked
from tests.support.provider import Provider
from tests.support.sandboxed import TLS
from tests.support.stdio import COMMAND, DEADLINE, MODERN, dressed, patched
from tests.support.web import ACCEPT, messages


def until(happened: Callable[[], bool]) -> None:
    """Look again and again, until it has happened."""
    deadline = time.monotonic() + DEADLINE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def team_environment(folder: Path, **more: str) -> dict[str, str]:
    (folder / "user").mkdir()
    return environment(folder) | more


class Team:
    """A server for a team, and a client of it.

    Args:
        env: Its environment.
        provider: The provider, or its issuer; None: personal tokens alone count.
        options: Of the command.
        public: The address by which it is known.
        code: What its process runs before.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        provider: Provider | str | None,
        *options: str,
        public: str | None = None,
        code: str | None = None,
    ) -> None:
        issuer = provider.issuer if isinstance(provider, Provider) else provider
        argv = ("serve", "--http", "--port", "0", *options)
        self.process = forked.begin(
            [*COMMAND, *argv] if code is None else patched(code, *argv),
            dict(env) | ({} if issuer is None else {"FLUX2_OIDC_ISSUER": issuer}),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            cwd=env["HOME"],
        )  # fmt: skip
        assert self.process.stderr is not None
        self.first = self.process.stderr.readline().decode()
        self._said = list[bytes]()
        # Who reads nothing of what a server writes stops it, as soon as the pipe is full.
        self._reader = threading.Thread(target=self._said.extend, args=(self.process.stderr,), daemon=True)
        self._reader.start()
        try:
            self.port = _port(self.process.pid) if public else int(re.findall(r":(\d+)/mcp", self.first)[0])
        except BaseException:  # it does not serve
            self._end()
            raise
        self.base = f"http://127.0.0.1:{self.port}"
        self.audience = f"{public or self.base}/mcp"
        self.provider = provider
        self.http = httpx2.Client(base_url=self.base, verify=TLS, timeout=DEADLINE, headers=ACCEPT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> str:
        """End it as a service manager does; gives what it wrote to stderr after the first line."""
        self.http.close()
        return self._end()

    def _end(self) -> str:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return b"".join(self._said).decode()

    def token(self, **claims: Any) -> str:  # noqa: ANN401  # any JSON
        assert isinstance(self.provider, Provider)
        return self.provider.token(self.audience, **claims)

    def call(
        self,
        era: str,
        method: str,
        params: dict[str, Any],
        *,
        token: str | None = None,
        capabilities: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """One call, as a client of this era makes it. It has opened no session before."""
        told = {"Authorization": f"Bearer {token or self.token()}", "MCP-Protocol-Version": era} | dict(headers or {})
        if era == MODERN:
            named = params.get("name", params.get("uri"))
            told |= {"Mcp-Method": method} | ({} if named is None else {"Mcp-Name": str(named)})
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": dressed(era, params, capabilities or {})}
        return self.http.post("/mcp", json=message, headers=told)

    def tool(self, era: str, name: str, **arguments: object) -> dict[str, Any]:
        """The result of one tool call."""
        *_, answer = messages(self.call(era, "tools/call", {"name": name, "arguments": arguments}))
        result: dict[str, Any] = answer["result"]
        return result


def _port(pid: int) -> int:
    """The port on which a process listens."""
    inodes = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text("ascii").splitlines()[1:]:
            cells = row.split()
            if cells[3] == "0A" and f"socket:[{cells[9]}]" in inodes:
                return int(cells[1].rpartition(":")[2], 16)
    raise AssertionError("it listens nowhere")
