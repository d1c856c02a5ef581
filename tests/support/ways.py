"""Every way in which the server is spoken to: over stdio and over HTTP, in both eras."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from flux2_mcp.server.tasks_extension import ID
from tests.conftest import environment
from tests.support.stdio import ERAS, Host
from tests.support.web import WebHost

TOOLS = ("generate", "check_task", "check_pricing", "list_variants")
TASKS: dict[str, Any] = {"extensions": {ID: {}}}
DECLARED: dict[str, Any] = {"io.modelcontextprotocol/clientCapabilities": TASKS}
"""In `_meta`, as 2026-07-28 has it: this request may be answered with a task."""


@dataclass(frozen=True)
class Way:
    """For stdio alone: `late`, where no answer is given before the SDK is there; `awake`, where it loads at the start."""

    kind: type[Host | WebHost]
    era: str
    late: bool = False
    awake: bool = False

    def __str__(self) -> str:
        return f"{'stdio' if self.kind is Host else 'http'}-{self.era}{'-late' if self.late else ''}{'-awake' if self.awake else ''}"

    def opened(self, env: dict[str, str], cwd: Path, **more: Any) -> AbstractContextManager[Host | WebHost]:  # noqa: ANN401  # arguments of Host
        switches = {"FLUX2_EARLY": f"{not self.late:d}", "FLUX2_SLEEP": f"{not self.awake:d}"}
        return self.kind(env | switches, self.era, cwd=str(cwd), **more)


OVER_STDIO, OVER_HTTP = ({era: Way(kind, era) for era in ERAS} for kind in (Host, WebHost))
WAYS = (*OVER_STDIO.values(), *OVER_HTTP.values())
LATE = tuple(Way(Host, era, late=True) for era in ERAS)
AWAKE = tuple(Way(Host, era, awake=True) for era in ERAS)


def each(*kept: Way, era: str | None = None) -> list[Any]:
    """All ways, or those of one era. `make test` takes the `kept` ones, or all but the late and the awake: test_early's."""
    return [
        way if way in (kept or WAYS) else pytest.param(way, marks=pytest.mark.deep)
        for way in (*WAYS, *LATE, *AWAKE)
        if era in {None, way.era}
    ]


class Hosts:
    """One host for each way, that several tests share: started when it is first asked for, at home in a folder of its own.

    Args:
        folder: Where their folders are made.
        env: More of a server's environment.
    """

    def __init__(self, folder: Path, **env: str) -> None:
        self._folder = folder
        self._env = env
        self._hosts: dict[Way, Host | WebHost] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            assert "Traceback" not in "".join(host.close() for host in self._hosts.values())
            for host in self._hosts.values():
                if isinstance(host, Host):
                    assert host.process.returncode == 0
                    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in host.lines)

    def __getitem__(self, way: Way) -> Host | WebHost:
        if way not in self._hosts:
            folder = self._folder / str(way)
            folder.mkdir()
            self._hosts[way] = self._stack.enter_context(way.opened(environment(folder) | self._env, folder))
        return self._hosts[way]
