"""`make conformance`: the protocol's own suite, in both versions, against `flux2-mcp serve --http` as a real process.

It ends with 1 where anything is not as `scenarios.toml` says, and with 77 (as autotools do) where npm can't be reached.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from tests.conformance.judge import Check, figures, problems
from tests.conformance.usher import StandIn, Usher
from tests.conftest import environment
from tests.support import npm
from tests.support.web import Served

TABLE = Path(__file__).with_name("scenarios.toml")
PACKAGE = "@modelcontextprotocol/conformance"
SCENARIO = re.compile(r"server-(.+)-\d{4}-\d\d-\d\dT.*")
SKIPPED = 77
RUN_SECONDS = 300
SPEED = "30"
"""The sandbox's: a task that is slow by its script takes a second, so that it is seen at work and at its end."""


def table() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text("utf-8"))


def say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def main() -> int:
    node = npm.fetched(npm.NODE, scripts=True)
    expected = table()
    wrong: list[str] = []
    for version, scenarios in expected["suites"].items():
        suite = npm.fetched({PACKAGE: version})
        if isinstance(node, str) or isinstance(suite, str):
            say(f"conformance: skipped: {node if isinstance(node, str) else suite}")
            return SKIPPED
        command = [str(node / npm.NODE_BINARY), str(suite / PACKAGE / "dist" / "index.js")]
        with tempfile.TemporaryDirectory() as folder:
            results = _run(command, Path(folder), expected["stand_ins"], expected["runs"][version])
        found = problems(_explained(scenarios, expected["reasons"]), _listed(command), results)
        say(f"{PACKAGE} {version}: {figures(results)}", *(f"  {line}" for line in found))
        wrong += found
    return 1 if wrong else 0


def _explained(scenarios: dict[str, dict[str, str]], reasons: dict[str, str]) -> dict[str, dict[str, str]]:
    return {name: {check: reasons[why] for check, why in checks.items()} for name, checks in scenarios.items()}


def _listed(command: list[str]) -> list[str]:
    done = subprocess.run(
        [*command, "list", "--server"], capture_output=True, text=True, check=True, timeout=RUN_SECONDS
    )
    return [line.split()[1] for line in done.stdout.splitlines() if line.startswith("  - ")]


def _run(command: list[str], folder: Path, stand_ins: dict[str, Any], runs: list[list[str]]) -> dict[str, list[Check]]:
    env = environment(folder) | {"FLUX2_SANDBOX_SPEED": SPEED}
    with Served(env, str(folder)) as served:
        token = (folder / "home" / "http-token").read_text("ascii").strip()
        stood_in = {name: StandIn(**each) for name, each in stand_ins.items()}
        with Usher(int(served.url.split(":")[2].split("/")[0]), token, stood_in) as usher:
            for number, options in enumerate(runs):
                out = str(folder / "results" / str(number))
                # Its exit code says that something failed; what may, is for the table to say.
                subprocess.run(
                    [*command, "server", "--url", usher.url, "--suite", "all", "-o", out, *options],
                    env=env | {"PATH": os.environ["PATH"]},
                    capture_output=True,
                    check=False,
                    timeout=RUN_SECONDS,
                )
            if "Traceback" in served.stop():
                say(served.said)
    results: dict[str, list[Check]] = {}
    for path in sorted(folder.glob("results/*/*/checks.json")):
        found = [Check.read(each) for each in json.loads(path.read_bytes())]
        results.setdefault(SCENARIO.sub(r"\1", path.parent.name), []).extend(found)
    return results


if __name__ == "__main__":
    sys.exit(main())
