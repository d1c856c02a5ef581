"""The files of install/team, as far as this machine can run them: it has no container engine, and no systemd that runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.conftest import environment
from tests.support import team_page
from tests.support.sandboxed import TLS
from tests.support.stdio import COMMAND, DEADLINE
from tests.support.team import until

FOLDER = Path(__file__).parents[2] / "install/team"
UNIT = FOLDER / "flux2-mcp.service"
PORT = "8788"
SEEN_NOWHERE = {"FROM", "RUN", "VOLUME"}
"""What of the Containerfile only an engine does; docs/team.md says so."""


def unit(name: str) -> list[str]:
    """The values of a setting."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text("utf-8"), re.MULTILINE)


def container() -> dict[str, str]:
    """The instructions, none of which stands twice."""
    rows = [row.partition(" ") for row in (FOLDER / "Containerfile").read_text("utf-8").splitlines() if row[:1] != "#"]
    found = {name: rest for name, _, rest in rows}
    assert len(found) == len(rows)
    return found


@contextmanager
def run(words: Sequence[str], env: Mapping[str, str], folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The command as it stands there, but for the place of the program, the port and the address, which is loopback's."""
    told = [{PORT: str(port), "0.0.0.0": "127.0.0.1"}.get(word, word) for word in words]  # noqa: S104
    made = subprocess.run(
        [*COMMAND, "team", "token", "create", "ada"],
        env=env,
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=DEADLINE,
    )
    assert made.returncode == 0, made.stderr
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, *told[1:]], env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            until(lambda: process.poll() is not None or ready(port))
            assert process.poll() is None, (folder / "log").read_text()
            yield process
        finally:
            process.kill()
            process.wait(DEADLINE)


def ready(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/readyz", verify=TLS).status_code == 200
    except httpx2.TransportError:
        return False


def test_the_unit_starts_a_server_that_ends_within_the_time_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    (command,), environments = unit("ExecStart"), dict(line.split("=", 1) for line in unit("Environment"))
    assert environments == {"FLUX2_HOME": f"/var/lib/{unit('StateDirectory')[0]}"}
    words = shlex.split(command)
    drain = float(words[words.index("--drain") + 1])
    assert drain + 10 <= float(unit("TimeoutStopSec")[0])
    (file,) = team_page.blocks("As a service", "ini")
    env = environment(tmp_path) | dict(line.split("=", 1) for line in file.splitlines())
    assert set(env) >= {"RUNAPI_API_KEY", "FLUX2_JOURNAL_URL", "FLUX2_SEAL_KEY"}
    # The test has neither the key nor the database.
    env = {name: value for name, value in env.items() if name not in {"RUNAPI_API_KEY", "FLUX2_JOURNAL_URL"}}
    with run(words, env | {"FLUX2_MODE": "sandbox", "HOME": "/"}, tmp_path, team_page.free_port()) as process:
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
        assert time.monotonic() - begun < float(unit("TimeoutStopSec")[0])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_finds_nothing_to_complain_of_and_the_service_is_shut_in(tmp_path: Path) -> None:
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text("utf-8").replace("/opt/flux2-mcp/bin/flux2-mcp", sys.executable), "utf-8")
    checked = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--json=short", "--threshold=20", str(path)], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr  # an exposure of at most 2.0 of 10


def test_what_the_container_starts_is_healthy_until_it_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    found = container()
    assert set(found) == SEEN_NOWHERE | {"ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"}
    assert found["FROM"] == "python:3.13-slim"
    assert (found["EXPOSE"], found["STOPSIGNAL"]) == (PORT, "SIGTERM")
    assert int(found["USER"]) > 0
    assert f"--uid {found['USER']}" in found["RUN"]
    name, _, home = found["ENV"].partition("=")
    assert (name, home) == ("FLUX2_HOME", found["VOLUME"])
    assert f"--home-dir {home}" in found["RUN"]
    port = team_page.free_port()
    health = json.loads(found["HEALTHCHECK"].partition("CMD ")[2].replace(PORT, str(port)))

    def healthy() -> bool:
        done = subprocess.run([sys.executable, *health[1:]], env={"PATH": os.defpath}, capture_output=True, check=False)
        return done.returncode == 0

    words = [*json.loads(found["ENTRYPOINT"]), "--public-url", "https://flux2.example.com"]
    with run(words, environment(tmp_path) | {"FLUX2_MODE": "sandbox"}, tmp_path, port) as process:
        assert healthy()
        process.send_signal(signal.Signals[found["STOPSIGNAL"]])
        assert process.wait(DEADLINE) == 0
        assert not healthy()


def test_no_secret_is_in_the_files() -> None:
    for path in FOLDER.iterdir():
        assert not re.search(r"(KEY|TOKEN|PASSWORD|JOURNAL_URL)=", path.read_text("utf-8")), path
