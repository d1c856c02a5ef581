"""What docs/team.md says of backup and restore, with its own commands: a team's journal is lost and comes back."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

from flux2_mcp.sandbox.server import Sandbox
from tests.conftest import environment
from tests.support import forked, postgres, team_page
from tests.support.stdio import COMMAND, DEADLINE, MODERN
from tests.support.team import Team
from tests.support.web import messages

pytestmark = pytest.mark.skipif(postgres.binaries() is None, reason="there is no PostgreSQL")
PUBLIC = "https://flux2.example.com"
HEADING = "Backup and restore"


def command(env: Mapping[str, str], *words: str) -> str:
    done = forked.run([*COMMAND, *words], env, timeout=DEADLINE, cwd=env["HOME"])
    assert done.returncode == 0, done.stderr
    return done.stdout


def bash(env: Mapping[str, str], script: str) -> str:
    done = subprocess.run(
        ["bash", "-ec", script],
        env=dict(env),
        cwd=env["HOME"],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Ada:
    """A server, and a person with a token."""

    def __init__(self, env: Mapping[str, str], token: str) -> None:
        self.team = Team(env, None, "--public-url", PUBLIC, public=PUBLIC)
        self.token = token

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.team.stop()

    def call(self, name: str, **arguments: object) -> dict[str, Any]:
        params = {"name": name, "arguments": arguments}
        *_, answer = messages(self.team.call(MODERN, "tools/call", params, token=self.token))
        result: dict[str, Any] = answer["result"]
        return result


def test_what_was_dumped_is_there_again_and_its_open_task_goes_on(tmp_path: Path) -> None:
    with (
        postgres.cluster(postgres.FAST) as cluster,
        Sandbox(tmp_path / "runapi", speed=20, rate=None, seed=1) as runapi,
    ):
        env = team_page.shell(tmp_path, cluster) | {
            "FLUX2_HOME": str(tmp_path / "home"), "FLUX2_JOURNAL_URL": "postgresql:///flux2", "FLUX2_SEAL_KEY": "s" * 32,
            "RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url,
        }  # fmt: skip
        for line in team_page.blocks("From nothing to a team in ten commands")[0].splitlines()[2:4]:
            bash(env, line)
        token = json.loads(command(env, "team", "token", "create", "ada", "--daily", "0.17", "--json"))["token"]
        lost = json.loads(command(env, "team", "token", "create", "eve", "--json"))
        saving, restoring, _ = team_page.blocks(HEADING)
        with Ada(env, token) as ada:
            done = ada.call("generate", prompt="a red fox")["structuredContent"]["tasks"][0]["task_id"]
            open_ = ada.call("generate", prompt="a slow fox [sandbox:slow]", wait_seconds=0)["structuredContent"][
                "tasks"
            ][0]["task_id"]
            assert ada.call("generate", prompt="a dear fox", count=4)["isError"]
            bash(env, saving)
            # What comes after the dump is not in it.
            key = {"prompt": "a late fox", "idempotency_key": "late"}
            late = ada.call("generate", **key)["structuredContent"]["tasks"][0]["task_id"]
            command(env, "team", "token", "revoke", lost["id"])
        audited = command(env, "team", "audit", "--json")
        with psycopg.connect(cluster.url, autocommit=True) as admin:
            admin.execute("DROP DATABASE flux2 WITH (FORCE)")
        images = tmp_path / "home/images"
        images.rename(tmp_path / "lost")
        env["FLUX2_JOURNAL_URL"] = bash(env, f"{restoring}\necho $FLUX2_JOURNAL_URL").splitlines()[-1]

        kept = json.loads(command(env, "team", "audit", "--json"))["entries"]
        assert kept
        assert kept == [each for each in json.loads(audited)["entries"] if each in kept]
        assert {each["task_id"] for each in kept} == {done, open_, None}
        people = {each["name"]: each for each in json.loads(command(env, "team", "people", "--json"))["people"]}
        assert (people["ada"]["day_cap_usd"], people["ada"]["day_usd"]) == (0.17, 0.10)
        states = {
            each["name"]: each["state"]
            for each in json.loads(command(env, "team", "token", "list", "--json"))["tokens"]
        }
        assert states == {"ada": "live", "eve": "live"}  # she is in again, as the page says
        with Ada(env, token) as ada:
            told = ada.call("check_task", task_ids=[done, open_], wait_seconds=60)["structuredContent"]["tasks"]
            assert [task["status"] for task in told] == ["completed", "completed"]
            assert [
                bool(ada.team.http.get(task["images"][0]["url"].removeprefix(PUBLIC)).content) for task in told
            ] == [True, True]
            assert ada.call("generate", **key)["structuredContent"]["tasks"][0]["task_id"] == late
            assert "FLUX2_PERSON_DAILY_BUDGET_USD" in ada.call("generate", prompt="one more fox")["content"][0]["text"]
        assert len(runapi.tasks()) == 3  # nothing was made, and paid, twice
        with (
            psycopg.connect(f"{cluster.url.replace('/postgres?', '/flux2_restored?')}") as admin,
            pytest.raises(psycopg.errors.RaiseException, match="append-only"),
        ):
            admin.execute("DELETE FROM audit")


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="there is no sqlite3")
def test_a_journal_in_a_file_is_saved_by_one_line(tmp_path: Path) -> None:
    env = environment(tmp_path)
    (tmp_path / "user").mkdir()
    command(env, "generate", "a red fox")
    before = command(env, "tasks", "--json")
    bash(env, f"mkdir backup\n{team_page.blocks(HEADING)[2]}")
    command(env, "generate", "a late fox")
    shutil.rmtree(env["FLUX2_HOME"])
    Path(env["FLUX2_HOME"]).mkdir(mode=0o700)
    shutil.copy(Path(env["HOME"]) / "backup/journal.sqlite3", env["FLUX2_HOME"])
    assert json.loads(command(env, "tasks", "--json")) == json.loads(before)
