"""What `flux2-mcp doctor` lets pass and what it does not, just on either side of each bound. Starts no host's server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from time import time

import pytest

from flux2_mcp.cli import doctor_checks, doctor_hosts
from flux2_mcp.cli.doctor_checks import Check
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.errors import LOGIN
from flux2_mcp.hosts.plan import Machine
from flux2_mcp.hosts.table import host
from tests.support.journals import intent, new
from tests.support.journals import opened as opened_home
from tests.support.services import NO_MONEY, WRONG_KEY, Front, Reply, constantly, fronted

pytestmark = pytest.mark.anyio

PRICES, BALANCE = "GET /api/v1/price_schedules", "GET /api/v1/me/balance"
KEY = "sk-0123456789abcdef"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


async def seen(front: Front, folder: Path, **env: str) -> dict[str, Check]:
    """What is told of the key and of RunAPI."""
    invocation = Invocation(env, None, None)
    return {check.check: check async for check in doctor_checks.service(invocation, front.settings(folder))}


@pytest.mark.parametrize(("ahead", "status"), [(60, "ok"), (-60, "ok"), (180, "fail"), (-180, "fail")])
async def test_a_clock_may_be_two_minutes_off_and_no_more(
    front: Front, tmp_path: Path, ahead: int, status: str
) -> None:
    headers = {"Content-Type": "application/json", "Date": formatdate(time() + ahead, usegmt=True)}
    front.rule = constantly(PRICES, Reply(200, b'{"price_schedules": []}', headers))
    assert (await seen(front, tmp_path))["clock"].status == status


async def test_a_key_is_called_wrong_only_where_runapi_says_so(front: Front, tmp_path: Path) -> None:
    found = []
    for reply in (WRONG_KEY, NO_MONEY):
        front.rule = constantly(BALANCE, reply)
        key = (await seen(front, tmp_path))["key"]
        found.append((key.status, key.mend))
    assert found == [("fail", LOGIN), ("note", None)]


@pytest.mark.parametrize(("mode", "told"), [(0o640, True), (0o604, True), (0o600, False), (0o400, False)])
async def test_a_key_file_is_for_its_owner_alone(front: Front, tmp_path: Path, mode: int, told: bool) -> None:
    path = tmp_path / "config/runapi/config.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    path.chmod(mode)
    assert ("key file" in await seen(front, tmp_path, XDG_CONFIG_HOME=str(tmp_path / "config"))) is told


async def test_the_size_of_a_journal_is_that_of_all_its_files(front: Front, tmp_path: Path) -> None:
    settings = front.settings(tmp_path)
    async with opened_home(settings.home) as home:
        await new(home.journal(), intent("1"), intent("2"))
    (settings.home / "journal.sqlite3-before").write_bytes(bytes(5_000_000))
    journal = next(check for check in doctor_checks.storage(settings) if check.check == "journal")
    assert (journal.status, journal.detail.startswith("sound, 2 tasks, 5.")) == ("ok", True)


@pytest.mark.parametrize("name", ["RUNAPI_API_KEY", "RUNAPI_KEY"])
async def test_a_key_in_clear_is_told_in_a_projects_file_and_not_in_the_users_own(tmp_path: Path, name: str) -> None:
    row, project = host("cursor"), tmp_path / "project"
    machine = Machine(system="Linux", env={"HOME": str(tmp_path / "home")}, workspace=str(project))
    entry = {"command": "flux2-mcp", "args": ["--old"], "env": {name: KEY}}
    for folder in (tmp_path / "home", project):
        (folder / ".cursor").mkdir(parents=True)
        (folder / ".cursor/mcp.json").write_text(json.dumps({"mcpServers": {"flux-2": entry}}))
    found: list[Check] = []

    async def tell(check: Check) -> None:
        found.append(check)

    await doctor_hosts.look([row], machine, ["/new/flux2-mcp"], tell, wanted=True)
    told = {Path(check.detail.split(" in ", 1)[1].split(" ")[0]).parents[1].name: check.detail for check in found}
    assert [f"holds {name} in clear" in told["project"], "in clear" in told["home"]] == [True, False]
    assert "differs in" in told["home"]
    assert KEY not in "".join(told.values())
