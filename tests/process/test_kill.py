"""The server killed for good, at every step of a task's life: the next one, or the one beside it, loses nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import anyio.to_thread
import pytest

from bench.kill import STEPS
from flux2_mcp.keeper import CLAIM_EVERY
from flux2_mcp.lifecycle import State
from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.service import Service
from flux2_mcp.settings import Settings
from tests.process.stdio import LEGACY, Host
from tests.unit.services import until

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


def test_killed_once_at_each_step_every_task_ends_on_disk_and_is_paid_once() -> None:
    command = [sys.executable, "-m", "bench.kill", "--kills", str(len(STEPS))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kills = dict(re.findall(r"^  (\w[\w ]*?) +(\d+)$", done.stdout, re.MULTILINE))
    assert kills == dict.fromkeys(STEPS, "1")
    assert "lost 0, paid twice 0, files missing 0, broken 0, to nobody 0" in done.stdout


def test_killed_while_images_are_on_their_way_no_file_is_lost_broken_or_there_twice() -> None:
    command = [sys.executable, "-m", "bench.kill", "--downloads", "--kills", "4", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost 0, paid twice 0, files missing 0, broken 0, to nobody 0" in done.stdout


async def test_what_a_killed_process_left_is_taken_over_by_the_one_beside_it_without_waiting_for_its_lease(
    clean_env: dict[str, str], tmp_path: Path
) -> None:
    with Sandbox(tmp_path / "runapi", speed=20, rate=None, seed=1) as runapi:
        env = clean_env | {"RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url}
        settings = Settings(
            mode="live", home=tmp_path / "home", base_url=runapi.base_url, api_key=runapi.api_key, rate=1000.0
        )

        def ask_and_die() -> list[str]:
            with Host(env, LEGACY, cwd=str(tmp_path)) as host:
                made = host.call("generate", prompt="a red fox [sandbox:slow]", count=3, wait_seconds=0)
                host.process.kill()
                host.process.wait(10)
            return [task["task_id"] for task in made["structuredContent"]["tasks"]]

        async with Service.opened(settings) as beside:
            ids = await anyio.to_thread.run_sync(ask_and_die)
            began = time.monotonic()
            await until(lambda: len(beside._keeper._kept) == 3)
            assert time.monotonic() - began < CLAIM_EVERY + 1
            outcome = await beside.check(ids, wait_seconds=60)
        assert [told.entry.state for told in outcome.tasks] == [State.DELIVERED] * 3
        assert sorted(task.id for task in runapi.tasks()) == sorted(ids)
        assert [task.creates for task in runapi.tasks()] == [1, 1, 1]


def test_a_read_only_home_is_a_clear_error_and_nothing_is_sent(clean_env: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "read-only"
    home.mkdir(mode=0o500)
    if os.access(home, os.W_OK):
        home = Path("/sys/flux2-mcp")  # root may write everywhere but where the kernel itself has no folders to make
    with Sandbox(tmp_path / "runapi", rate=None) as runapi:
        env = clean_env | {"RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url}
        with Host(env | {"FLUX2_HOME": str(home)}, LEGACY, cwd=str(tmp_path)) as host:
            refused = host.call("generate", prompt="a red fox")
            listed = host.call("check_task")
            errors = host.close()
        creates = runapi.creates()
    text = refused["content"][0]["text"]
    assert refused["isError"] is True
    assert "The journal can't be used: " in text
    assert "Nothing was sent and nothing was charged." in text
    assert "writable folder" in text
    assert "The journal can't be used: " in listed["content"][0]["text"]
    assert creates == 0
    assert "Traceback" not in errors
