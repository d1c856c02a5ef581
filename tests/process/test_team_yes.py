"""One yes at a team's servers: whichever of them gets it, however often, and after all of them were started anew."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.server.results.tasks import REPEATED_NOTICE
from tests.support import postgres
from tests.support.provider import Provider
from tests.support.stdio import MODERN
from tests.support.team import Team, team_environment
from tests.support.web import messages

PUBLIC = "https://flux2.example.com"
WISH = {"prompt": "a red fox", "count": 2, "preview": False}


def sent(team: Team, **more: object) -> dict[str, Any]:
    """The result of Ada's call, of a client that can ask its user."""
    params = {"name": "generate", "arguments": WISH, **more}
    capabilities = {"elicitation": {"form": dict[str, Any]()}}
    *_, answer = messages(
        team.call(MODERN, "tools/call", params, token=team.token(sub="ada"), capabilities=capabilities)
    )
    result: dict[str, Any] = answer["result"]
    return result


def yes_to(question: Mapping[str, Any]) -> dict[str, object]:
    assert question["resultType"] == "input_required"
    ((name, _),) = question["inputRequests"].items()
    yes = {"action": "accept", "content": {"spend": True}}
    return {"inputResponses": {name: yes}, "requestState": question["requestState"]}


def ids(result: Mapping[str, Any]) -> list[str]:
    return [task["task_id"] for task in result["structuredContent"]["tasks"]]


def test_one_yes_pays_once_at_all_servers_of_a_database_and_after_they_were_started_anew(tmp_path: Path) -> None:
    with ExitStack() as stack:
        provider = stack.enter_context(Provider())
        runapi = stack.enter_context(Sandbox(tmp_path / "runapi", speed=1000, rate=None))
        env = team_environment(
            tmp_path,
            RUNAPI_API_KEY=runapi.api_key,
            RUNAPI_BASE_URL=runapi.base_url,
            FLUX2_JOURNAL_URL=postgres.shared().with_schema(),
            FLUX2_SEAL_KEY="s" * 32,
            FLUX2_CONFIRM_USD="0.01",
            FLUX2_PERSON_DAILY_BUDGET_USD="5",  # what is left of it stands in the question
        )

        def server() -> Team:
            team = stack.enter_context(Team(env, provider, "--public-url", PUBLIC, public=PUBLIC))
            team.http.headers["Host"] = "flux2.example.com"
            return team

        two = [server(), server()]
        answer = yes_to(sent(two[0]))
        with ThreadPoolExecutor(4) as pool:
            found = [*pool.map(lambda number: sent(two[number % 2], **answer), range(4))]
        made = [ids(each) for each in found]
        assert made == [made[0]] * 4
        assert len(runapi.tasks()) == 2
        for team in two:  # all of them are reported by now
            again = sent(team, **answer)
            assert ids(again) == made[0]
            assert REPEATED_NOTICE in again["structuredContent"]["notice"]
            team.stop()
        third = server()
        assert ids(sent(third, **answer)) == made[0]
        assert (runapi.creates(), len(runapi.tasks())) == (2, 2)
        other = sent(third, **yes_to(sent(third)))
        assert {*ids(other)}.isdisjoint(made[0])
        assert len(runapi.tasks()) == 4
