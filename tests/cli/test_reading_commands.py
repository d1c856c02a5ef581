"""Commands that read send nothing of a task's: a create that was written down and never sent waits for a command that makes."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from flux2_mcp.cli import main
from flux2_mcp.engine.backend import account_name
from flux2_mcp.journal import open_journal
from flux2_mcp.runapi.key_file import config_file, read
from flux2_mcp.settings import from_env
from tests.support.journals import NO_CAPS, intent
from tests.support.rows import each_row
from tests.support.services import CREATE, FETCH, Front, Reply, Seen, through, until

READING = (
    "tasks",
    "tasks --json",
    "open k",
    "prune --older-than 2d --yes",
    "pricing",
    "variants",
    "spend",
    "balance",
    "whoami",
    "completion bash",
)
TASK = "/api/v1/flux_2/"
PRICES = "GET /api/v1/price_schedules"
SHORT_SECONDS = 0.3

Run = Callable[[str], int]


@pytest.fixture
def run(clean_env: dict[str, str], front: Front, tmp_path: Path) -> Run:
    """Runs a command against the front, over a journal that holds an intent."""
    env = clean_env | {"RUNAPI_API_KEY": front.sandbox.api_key, "RUNAPI_BASE_URL": front.base_url, "FLUX2_MODE": "live"}
    settings = from_env(env, workspace=str(tmp_path))

    async def stop_before_sending() -> None:
        """As a process does that ends between the journal and the network."""
        journal = open_journal(settings.home, account_name(settings))
        await journal.tasks.intend([intent("k")], at=datetime.now(UTC), caps=NO_CAPS, join=False, in_flight=100)
        await journal.leases.release()
        await journal.close()

    anyio.run(stop_before_sending)
    return lambda line: main.run(shlex.split(line), env, read(config_file(env)), str(tmp_path))


def created(front: Front) -> set[str | None]:
    """The keys of the creates that came."""
    return {seen.key for seen in front.seen if seen.is_(CREATE)}


def patiently(front: Front, kind: str, seconds: float) -> None:
    """Answer calls of a kind once the open task's create has come, or after so long: a command that has ended sends nothing."""

    async def rule(seen: Seen) -> Reply | None:
        if seen.is_(kind):
            with suppress(TimeoutError):
                await until(lambda: "k" in created(front), seconds)
        return await through(seen)

    front.rule = rule


def test_a_command_that_reads_sends_nothing_of_a_task(run: Run, front: Front) -> None:
    patiently(front, PRICES, SHORT_SECONDS)
    with each_row() as row:
        for line in READING:
            with row(line):
                front.seen.clear()
                code = run(line)
                assert code == (4 if line.startswith("open") else 0)
                assert [seen.what for seen in front.seen if TASK in seen.what] == []


def test_a_command_that_waits_for_a_task_sends_it(run: Run, front: Front) -> None:
    assert run("wait k --timeout 60") == 0
    assert created(front) == {"k"}


def test_a_command_that_makes_an_image_sends_what_was_left_open_too(run: Run, front: Front) -> None:
    patiently(front, FETCH, 60)
    assert run("generate 'a red fox' --idempotency-key fox --wait 60") == 0
    assert created(front) == {"k", "fox"}
