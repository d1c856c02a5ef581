"""`flux2-mcp doctor` in this process, with a home, a project and a PATH without programs."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest

from flux2_mcp.cli import doctor_hosts, installation, main
from flux2_mcp.cli.doctor_checks import Check
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.hosts.table import host

WRONG_KEY = "canary-5d1c9b7e4f00"
ALONE: Mapping[str, str] = {}
"""No variables beside those that a doctor has."""
Finding = tuple[str, str, str | None]
"""Status, what is said, and what mends it."""


class Seen(NamedTuple):
    """A report. Called with a check: its status, what it says, and what mends it."""

    code: int
    checks: dict[str, dict[str, Any]]
    text: str

    def __call__(self, check: str) -> Finding:
        found = self.checks[check]
        return found["status"], found["detail"], found["mend"]

    @property
    def failing(self) -> list[str]:
        return [name for name, check in self.checks.items() if check["status"] == "fail"]


class Doctor:
    """Runs commands for one test."""

    def __init__(self, env: Mapping[str, str], workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._env = dict(env) | {"PATH": ""}
        self._workspace = workspace
        self._capsys = capsys

    def run(self, *argv: str, config: str | None = None, **env: str) -> tuple[int, str]:
        """Any command: its exit code and what it printed."""
        self._workspace.mkdir(exist_ok=True)
        code = main.run(argv, self._env | env, config, str(self._workspace))
        out, err = self._capsys.readouterr()
        assert err == ""
        return code, out

    def __call__(self, *hosts: str, config: str | None = None, **env: str) -> Seen:
        """The report, and that each line of it that fails or is to be carried further says with what."""
        code, out = self.run("doctor", *hosts, "--timeout", "120", "--json", config=config, **env)
        report = json.loads(out)
        found = {check["check"]: check for check in report["checks"]}
        assert all(check["mend"] for check in report["checks"] if check["status"] == "fail")
        assert report["ok"] == (code == 0) == ("fail" not in {check["status"] for check in report["checks"]})
        return Seen(code, found, out)

    def looked_at(self, name: str, command: str, env: Mapping[str, str] = ALONE, **bounds: float) -> Finding:
        """What is told of one host of the user's whose entry has to start this program; the bounds are those of `doctor_hosts.look`."""
        (found,) = self.looked_at_all([name], command, env, **bounds)
        return found

    def looked_at_all(
        self, names: Iterable[str], command: str, env: Mapping[str, str] = ALONE, **bounds: float
    ) -> list[Finding]:
        """The same of several, in the order in which it is told."""
        machine = installation.machine(Invocation({**self._env, **env}, None, None))
        found: list[Finding] = []

        async def tell(check: Check) -> None:
            found.append((check.status, check.detail, check.mend))

        async def work() -> None:
            await doctor_hosts.look(map(host, names), machine, [command], tell, wanted=True, **bounds)

        anyio.run(work)
        return found


@contextmanager
def doctors(env: Mapping[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Doctor]:
    """A doctor; what it changes of logs and signals is put back."""
    loggers = [logging.getLogger(name) for name in ("flux2_mcp", "mcp")]
    levels = [logger.level for logger in loggers]
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield Doctor(env, tmp_path / "project", capsys)
    finally:
        signal.signal(signal.SIGINT, handler)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
