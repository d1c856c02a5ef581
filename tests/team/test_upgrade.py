"""A server of an earlier version and one of this version on one database, as during an upgrade: docs/team.md says what was seen."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flux2_mcp.journal.postgres.migrations import MIGRATIONS
from flux2_mcp.sandbox.server import Sandbox
from tests.conftest import environment
from tests.support import forked, postgres
from tests.support.provider import ADMINS, MEMBERS, Provider
from tests.support.stdio import COMMAND, DEADLINE, MODERN
from tests.support.team import Team
from tests.support.web import messages

pytestmark = pytest.mark.skipif(postgres.binaries() is None, reason="there is no PostgreSQL")
ROOT = Path(__file__).parents[2]
BEFORE = {"people": "06c50fd661bcd657700e8f8bf1c3c450598cf232", "tokens": "a7cb4583ebdb39e3524f0faf607918ed85f91955"}
"""The last commit before a migration."""
PUBLIC = "https://flux2.example.com"


def earlier(commit: str, folder: Path) -> Path:
    """The package as it was at a commit."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit, "server"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip("this checkout has no history")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder / "server"


def call(team: Team, who: str, name: str, **arguments: object) -> dict[str, Any]:
    claims: dict[str, Any] = {"sub": who} | ({"groups": [MEMBERS, ADMINS]} if who == "root" else {})
    answer = team.call(MODERN, "tools/call", {"name": name, "arguments": arguments}, token=team.token(**claims))
    *_, message = messages(answer)
    result: dict[str, Any] = message["result"]
    return result


def ids(result: dict[str, Any]) -> list[str]:
    return [task["task_id"] for task in result["structuredContent"]["tasks"]]


def listed(team: Team, who: str) -> list[str]:
    return sorted(ids(call(team, who, "check_task")))


def migrations(cluster: postgres.Cluster) -> set[str]:
    with psycopg.connect(cluster.url) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM migration").fetchall()}


@pytest.mark.parametrize("step", BEFORE)
def test_both_serve_and_what_one_leaves_the_other_brings_to_its_end(tmp_path: Path, step: str) -> None:
    code = earlier(BEFORE[step], tmp_path / "earlier")
    knows_people = step != "people"
    (tmp_path / "user").mkdir()
    with ExitStack() as stack:
        cluster = stack.enter_context(postgres.cluster(postgres.FAST))
        runapi = stack.enter_context(Sandbox(tmp_path / "runapi", speed=20, rate=None, seed=1))
        provider = stack.enter_context(Provider())
        env = environment(tmp_path) | {
            "FLUX2_JOURNAL_URL": cluster.url, "FLUX2_SEAL_KEY": "s" * 32, "FLUX2_OIDC_ADMIN_GROUP": ADMINS,
            "FLUX2_DAILY_BUDGET_USD": "0.38", "RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url,
        }  # fmt: skip

        def server(name: str, **more: str) -> Team:
            own = env | {"FLUX2_HOME": str(tmp_path / name)} | more
            return stack.enter_context(Team(own, provider, "--public-url", PUBLIC, public=PUBLIC))

        old = server("old", PYTHONPATH=str(code))
        red = ids(call(old, "ada", "generate", prompt="a red fox", idempotency_key="red"))
        assert step not in migrations(cluster)
        new = server("new")
        green = ids(call(new, "ada", "generate", prompt="a green fox"))
        assert migrations(cluster) == {name for name, _ in MIGRATIONS}
        blue = ids(call(old, "ada", "generate", prompt="a blue fox"))

        everything = sorted(red + green + blue)
        assert (listed(new, "root"), listed(old, "ada")) == (everything, everything)
        assert listed(new, "ada") == (everything if knows_people else green)
        again = ids(call(new, "ada", "generate", prompt="a red fox", idempotency_key="red"))
        assert (again == red) is knows_people  # an earlier key has no person in it

        token = json.loads(command(env, tmp_path, "token", "create", "build"))["token"]
        params: dict[str, Any] = {"name": "check_task", "arguments": {}}
        answers = [team.call(MODERN, "tools/call", params, token=token).status_code for team in (old, new)]
        assert answers == [401, 200]
        for team, known in ((old, "path"), (new, "url")):
            task = call(team, "ada", "check_task", task_ids=green)["structuredContent"]["tasks"][0]
            assert known in task["images"][0]

        slow = ids(call(old, "ada", "generate", prompt="a slow fox [sandbox:slow]", wait_seconds=0))
        old.process.kill()
        assert finished(new, "root", slow)
        old = server("older", PYTHONPATH=str(code))
        dear = {"prompt": "a dear fox", "count": 4}
        assert "FLUX2_DAILY_BUDGET_USD" in call(new, "eve", "generate", **dear)["content"][0]["text"]
        bens = ids(call(new, "ben", "generate", prompt="a slower fox [sandbox:slow]", wait_seconds=0))
        new.stop()
        assert finished(old, "ben", bens)
        assert "FLUX2_DAILY_BUDGET_USD" in call(old, "eve", "generate", **dear)["content"][0]["text"]

        assert (len(runapi.tasks()), runapi.creates()) == (5, 5) if knows_people else (6, 6)
        audit = command(env, tmp_path, "audit")
        made = {entry["task_id"] for entry in json.loads(audit)["entries"] if entry["what"] == "generate"}
        assert made == {*green, *bens, None} | (set() if knows_people else set(again))  # None: what was refused


def command(env: Mapping[str, str], folder: Path, *words: str) -> str:
    done = forked.run([*COMMAND, "team", *words, "--json"], env, timeout=DEADLINE, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def finished(team: Team, who: str, task_ids: list[str]) -> bool:
    told = call(team, who, "check_task", task_ids=task_ids, wait_seconds=DEADLINE)["structuredContent"]
    return [task["status"] for task in told["tasks"]] == ["completed"]
