"""One yes pays at most once: the client sends the sealed answer again, at once or after it has got its pictures."""

from __future__ import annotations

import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp.client.session import ClientRequestContext
from mcp.server.request_state import RequestStateSecurity
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolResult,
    ElicitRequestParams,
    ElicitResult,
    InputRequiredResult,
    InputResponses,
    TextContent,
)
from msgspec.structs import replace

from flux2_mcp.domain.budget import Caps
from flux2_mcp.engine.apply import ASK_AGAIN, USED
from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.server.app import build
from flux2_mcp.server.results.tasks import JOINED_NOTICE, REPEATED_NOTICE
from flux2_mcp.settings import Settings

pytestmark = pytest.mark.anyio

FOX: dict[str, Any] = {"prompt": "a red fox in snow", "wait_seconds": 20, "preview": False}
STUCK: dict[str, Any] = {"prompt": "a red fox in snow [sandbox:stuck]", "wait_seconds": 0}


@pytest.fixture
def settings(sandbox_settings: Settings) -> Settings:
    return replace(sandbox_settings, confirm_usd=Decimal("0.01"))


async def nobody(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    """The client can ask, and the tests answer by themselves."""
    raise AssertionError(context, params)


@asynccontextmanager
async def client_of(settings: Settings, seal: RequestStateSecurity | None = None) -> AsyncIterator[Client]:
    async with Client(build(settings, security=seal), elicitation_callback=nobody) as client:
        yield client


class Answer:
    """A user's yes to the question about one call, which the client may send as often as it likes."""

    def __init__(self, client: Client, arguments: dict[str, Any], asked: InputRequiredResult) -> None:
        self._client, self._arguments, self._state = client, arguments, asked.request_state
        assert asked.input_requests is not None
        self._answers: InputResponses = {
            key: ElicitResult(action="accept", content={"spend": True}) for key in asked.input_requests
        }

    async def sent(self, state: str | None = None, by: Client | None = None) -> CallToolResult:
        with anyio.fail_after(60):
            result = await (by or self._client).session.call_tool(
                "generate",
                self._arguments,
                input_responses=self._answers,
                request_state=state or self._state,
                allow_input_required=True,
            )
        assert isinstance(result, CallToolResult), "the user was asked again"
        return result

    @property
    def state(self) -> str:
        assert self._state is not None
        return self._state


async def yes(client: Client, arguments: dict[str, Any]) -> Answer:
    asked = await client.session.call_tool("generate", arguments, allow_input_required=True)
    assert isinstance(asked, InputRequiredResult), "the user was not asked"
    return Answer(client, arguments, asked)


def ids(result: CallToolResult) -> list[str]:
    assert isinstance(result.structured_content, dict), result.content
    return [task["task_id"] for task in result.structured_content["tasks"]]


def notice(result: CallToolResult) -> str:
    assert isinstance(result.structured_content, dict)
    return str(result.structured_content.get("notice"))


def made(settings: Settings) -> int:
    with Sandbox(settings.home / "sandbox") as runapi:
        return len(runapi.tasks())


async def test_after_its_pictures_were_reported_the_same_yes_gives_them_again_and_says_what_a_new_image_needs(
    settings: Settings,
) -> None:
    async with client_of(settings) as client:
        answer = await yes(client, FOX | {"count": 2})
        first = await answer.sent()
        assert not first.is_error
        assert REPEATED_NOTICE not in notice(first)
        for _ in range(2):
            again = await answer.sent()
            assert ids(again) == ids(first)
            assert not again.is_error
            assert REPEATED_NOTICE in notice(again)
            assert isinstance(again.content[0], TextContent)
            assert REPEATED_NOTICE in again.content[0].text
        assert made(settings) == 2
        other = await (await yes(client, FOX | {"count": 2})).sent()  # as the notice says
        assert {*ids(other)}.isdisjoint(ids(first))
        assert REPEATED_NOTICE not in notice(other)
    assert made(settings) == 4


@pytest.mark.parametrize("session_usd", ["0.06", "2.00"], ids=["nothing is left of it", "the question would say less"])
async def test_whose_reply_was_lost_gets_the_tasks_under_way_and_what_is_left_of_a_cap_changes_nothing(
    settings: Settings, session_usd: str
) -> None:
    settings = replace(settings, caps=Caps(session_usd=Decimal(session_usd), daily_usd=Decimal(10)))
    async with client_of(settings) as client:
        answer = await yes(client, STUCK)
        first = await answer.sent()
        again = await answer.sent()
        assert ids(again) == ids(first)
        assert REPEATED_NOTICE in notice(again)
    assert made(settings) == 1


async def test_a_yes_sent_many_times_at_once_pays_once(settings: Settings) -> None:
    found: list[list[str]] = []

    async with client_of(settings) as client:
        answer = await yes(client, STUCK | {"count": 2})

        async def send() -> None:
            found.append(ids(await answer.sent()))

        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(send)
    assert len(found) == 6
    assert all(each == found[0] for each in found)
    assert made(settings) == 2


async def test_a_yes_that_joined_the_call_under_way_pays_for_no_other_one(settings: Settings) -> None:
    """The client lost the reply to the first yes and asked its user again."""
    async with client_of(settings) as client:
        first = await (await yes(client, FOX | {"wait_seconds": 0})).sent()
        answer = await yes(client, FOX | {"wait_seconds": 0})
        joined = await answer.sent()
        assert ids(joined) == ids(first)
        assert JOINED_NOTICE in notice(joined)
        with anyio.fail_after(60):
            await client.call_tool("check_task", {"task_ids": ids(first), "wait_seconds": 20})
        assert ids(await answer.sent()) == ids(first)
    assert made(settings) == 1


async def test_a_yes_that_finished_a_picture_of_an_earlier_call_does_not_begin_another(settings: Settings) -> None:
    """The steps that an earlier call left are no tasks with keys of this call."""
    arguments = FOX | {"prompt": "a fox [sandbox:upscale_image:moderation]", "upscale": 2}
    async with client_of(settings) as client:
        broken = await (await yes(client, arguments)).sent()
        assert isinstance(broken.structured_content, dict)
        before = made(settings)
        answer = await yes(client, arguments)
        first = await answer.sent()
        assert made(settings) == before + 1  # the step that failed
        assert ids(await answer.sent()) == ids(first)
    assert made(settings) == before + 1


async def test_what_failed_or_was_refused_stays_so_for_its_yes_and_says_how_to_try_again(settings: Settings) -> None:
    async with client_of(settings) as client:
        for word in ("moderation", "insufficient_credits"):
            answer = await yes(client, FOX | {"prompt": f"a fox [sandbox:{word}]"})
            first = await answer.sent()
            count = made(settings)
            again = await answer.sent()
            assert (first.is_error, again.is_error) == (True, True)
            assert REPEATED_NOTICE in notice(again)
            assert made(settings) == count


async def test_a_yes_to_another_servers_question_is_used_here_too(settings: Settings) -> None:
    shared = RequestStateSecurity(keys=["k" * 32])
    careless = replace(settings, confirm_usd=Decimal(5))
    async with client_of(settings, shared) as asking, client_of(careless, shared) as unasking:
        answer = await yes(asking, FOX | {"count": 2})
        first = ids(await answer.sent(by=unasking))
        again = await answer.sent()
    assert (ids(again), REPEATED_NOTICE in notice(again)) == (first, True)


async def test_a_key_of_the_callers_own_goes_before_the_yes(settings: Settings) -> None:
    async with client_of(settings) as client:
        answer = await yes(client, FOX | {"idempotency_key": "fox"})
        first = await answer.sent()
        again = await answer.sent()
        assert ids(again) == ids(first)
        assert REPEATED_NOTICE not in notice(again)
    assert made(settings) == 1


async def test_a_yes_to_a_plan_pays_for_no_later_state_of_its_file(settings: Settings, tmp_path: Path) -> None:
    """The question names the price, and that is the same."""
    manifest = tmp_path / "flux2.toml"
    text = '[images."a.png"]\nprompt = "[sandbox:instant] a red fox"\naspect_ratio = "{}"\n'
    manifest.write_text(text.format("1:1"), "utf-8")
    arguments = {"manifest": "flux2.toml", "wait_seconds": 20, "preview": False}
    async with client_of(settings) as client:
        answer = await yes(client, arguments)
        for _ in range(2):
            assert not (await answer.sent()).is_error
        assert made(settings) == 1
        manifest.write_text(text.format("16:9"), "utf-8")
        refused = await answer.sent()
        assert refused.is_error
        assert isinstance(refused.content[0], TextContent)
        assert refused.content[0].text.startswith(USED)
        assert ASK_AGAIN in refused.content[0].text
        assert made(settings) == 1
        assert not (await (await yes(client, arguments)).sent()).is_error
    assert made(settings) == 2


async def test_a_sealed_answer_counts_in_one_spelling_alone(settings: Settings) -> None:
    """Its name is a digest of how it is spelled: a second spelling would be a second yes."""
    async with client_of(settings) as client:
        answer = await yes(client, FOX)
        whole, most = answer.state, answer.state[:-1]
        spellings = [
            f"{whole}=",
            f"{whole} ",
            f" {whole}",
            f"{whole}\n",
            f"{whole}A",
            whole.replace("v1.", "V1."),
            most,
        ]
        # The last letter has bits that stand for no byte.
        spellings += [most + letter for letter in string.ascii_letters + string.digits + "-_+/" if letter != whole[-1]]
        for spelling in spellings:
            with pytest.raises(MCPError, match="requestState"):
                await answer.sent(spelling)
        assert made(settings) == 0
        assert not (await answer.sent()).is_error
