"""The server killed for good, at every step of a task's life: the next one, or the one beside it, loses nothing."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import anyio.to_thread
import pytest

from bench import kill
from bench.kill import DOWNLOADS, STEPS
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.service import Service
from flux2_mcp.journal.contract import LEASE_SECONDS
from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.settings import Settings
from tests.support.sandboxed import LOGO
from tests.support.services import until
from tests.support.stdio import DEADLINE, LEGACY, Host

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "steps",
    [
        ("create sent", "fetch streaming"),
        pytest.param(STEPS, marks=pytest.mark.deep),
        pytest.param(DOWNLOADS, marks=pytest.mark.deep),
    ],
    ids=["two", "each", "downloads"],
)
def test_killed_once_at_a_step_every_task_ends_on_disk_whole_and_is_paid_once(
    steps: Sequence[str], tmp_path: Path
) -> None:
    kills = 4 if steps is DOWNLOADS else len(steps)
    report = kill.run(kills, 7, tmp_path, steps)
    assert report.kills == dict.fromkeys(steps, kills / len(steps))
    assert report.good, report


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
                made = host.call("generate", prompt=f"{LOGO} [sandbox:slow]", count=2, wait_seconds=0)
                host.process.kill()
                host.process.wait(DEADLINE)
            return [task["task_id"] for task in made["structuredContent"]["tasks"]]

        async with Service.opened(settings) as beside:
            ids = await anyio.to_thread.run_sync(ask_and_die)
            with closing(sqlite3.connect(settings.home / "journal.sqlite3", isolation_level=None)) as journal:
                journal.execute("PRAGMA synchronous = OFF")

                def taken_over() -> bool:
                    """The leases never lapse meanwhile."""
                    sql = "UPDATE task SET lease_until = ? WHERE owner <> ?"
                    journal.execute(sql, (time.monotonic() + LEASE_SECONDS / 2, beside.session))
                    ours = journal.execute("SELECT count(*) FROM task WHERE owner = ?", (beside.session,))
                    return bool(ours.fetchone()[0] == 2)

                await until(taken_over)
            outcome = await beside.check(ids, wait_seconds=60)
        assert [told.record.state for told in outcome.tasks] == [State.DELIVERED] * 2
        assert sorted(task.id for task in runapi.tasks()) == sorted(ids)
        assert [task.creates for task in runapi.tasks()] == [1, 1]


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
