"""What costs much is asked for first: in both eras, by no accident, and never a second time for what is paid once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

import anyio
import pytest
from mcp.client.client import Client
from mcp.client.session import ClientRequestContext
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
from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.server.app import build
from flux2_mcp.settings import Settings
from tests.server.conftest import BOTH_ERAS

pytestmark = pytest.mark.anyio

NEVER_DRAWN: dict[str, Any] = {
    "prompt": "a red fox in snow [sandbox:stuck]",
    "variant": "flex",
    "output_resolution": "2k",
    "count": 3,
    "wait_seconds": 0,
}
"""Three pictures at 2k would take as long to draw as all else in a test."""
UNASKED = "It would cost $0.72, and a call of more than $0.50 needs the user's yes (FLUX2_CONFIRM_USD)."
CHEAPER = "Cheaper: variant pro at 1k, count 3, for $0.15."


@dataclass
class User:
    """Answers every question the same way, and remembers what was asked."""

    action: Literal["accept", "decline", "cancel"] = "accept"
    content: dict[str, Any] | None = field(default_factory=lambda: {"spend": True})
    asked: list[ElicitRequestParams] = field(default_factory=list)

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        del context
        self.asked.append(params)
        return ElicitResult(action=self.action, content=self.content if self.action == "accept" else None)


@asynccontextmanager
async def asking(settings: Settings, era: str, user: User | None) -> AsyncIterator[Client]:
    async with Client(build(settings), mode=era, elicitation_callback=user) as client:
        yield client


async def called(client: Client, **arguments: object) -> CallToolResult:
    with anyio.fail_after(60):
        result = await client.call_tool("generate", arguments)
    assert isinstance(result, CallToolResult)
    return result


def text(result: CallToolResult) -> str:
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


def made(settings: Settings) -> int:
    with Sandbox(settings.home / "sandbox") as runapi:
        return len(runapi.tasks())


@BOTH_ERAS
async def test_the_user_is_told_all_that_matters_and_their_yes_sends_it(sandbox_settings: Settings, era: str) -> None:
    user = User()
    settings = replace(sandbox_settings, caps=Caps(session_usd=Decimal("2.00"), daily_usd=Decimal(10)))
    async with asking(settings, era, user) as client:
        result = await called(client, **NEVER_DRAWN)
    assert isinstance(result.structured_content, dict)
    assert (result.structured_content["status"], result.structured_content["quoted_usd"]) == ("processing", 0.72)
    assert made(settings) == 3
    (question,) = user.asked
    assert question.message.splitlines() == [
        "Make 3 images with flux-2-flex-text-to-image at 2k for $0.72?",
        f"Prompt: {NEVER_DRAWN['prompt']}",
        "Left of FLUX2_SESSION_BUDGET_USD: $2.00.",
        "Left of FLUX2_DAILY_BUDGET_USD: $10.00.",
        CHEAPER,
    ]
    schema = question.model_dump(by_alias=True)["requestedSchema"]
    assert list(schema["properties"]) == ["spend"]
    assert schema["properties"]["spend"]["default"] is False


async def test_left_of_the_session_is_what_this_process_left_and_left_of_the_day_what_all_did(
    sandbox_settings: Settings,
) -> None:
    user = User()
    settings = replace(sandbox_settings, caps=Caps(session_usd=Decimal("2.00"), daily_usd=Decimal(10)))
    async with asking(settings, "legacy", user) as earlier:
        await called(earlier, prompt="a red fox in snow")
        await called(earlier, prompt="a white hare in snow")
    async with asking(settings, "legacy", user) as client:
        await called(client, prompt="a grey owl in snow")
        await called(client, **NEVER_DRAWN)
    (question,) = user.asked
    assert {"Left of FLUX2_SESSION_BUDGET_USD: $1.95.", "Left of FLUX2_DAILY_BUDGET_USD: $9.85."} <= set(
        question.message.splitlines()
    )


async def test_what_the_user_said_yes_to_is_made_and_charged(sandbox_settings: Settings, era: str) -> None:
    user = User()
    async with asking(replace(sandbox_settings, confirm_usd=Decimal("0.04")), era, user) as client:
        result = await called(client, prompt="a red fox in snow")
    assert isinstance(result.structured_content, dict)
    assert (result.structured_content["status"], result.structured_content["charged_usd"]) == ("completed", 0.05)
    assert len(user.asked) == 1


@BOTH_ERAS
@pytest.mark.parametrize(
    ("user", "why", "step"),
    [
        (User(content={}), "The user declined.", "Don't call again unless the user asks for it."),
        (User(content={"spend": False}), "The user declined.", "Don't call again unless the user asks for it."),
        (User(action="decline"), "The user declined.", "Don't call again unless the user asks for it."),
        (
            User(action="cancel"),
            "The user did not answer.",
            "Ask the user. If the answer is yes, call again with max_cost_usd: 0.72.",
        ),
    ],
    ids=["an empty form", "a form without the tick", "a no", "no answer"],
)
async def test_whatever_is_not_a_yes_sends_nothing(
    sandbox_settings: Settings, era: str, user: User, why: str, step: str
) -> None:
    user.asked.clear()
    async with asking(sandbox_settings, era, user) as client:
        result = await called(client, **NEVER_DRAWN)
    assert result.is_error
    assert text(result).splitlines() == [
        f"{why} {UNASKED}",
        "Nothing was sent and nothing was charged.",
        f"Next: {step} {CHEAPER}",
    ]
    assert len(user.asked) == 1
    assert made(sandbox_settings) == 0


@BOTH_ERAS
@pytest.mark.parametrize(
    "content",
    [{"spend": "maybe"}, *(pytest.param(each, marks=pytest.mark.deep) for each in ({"spend": True, "more": 1}, None))],
)
async def test_an_answer_that_does_not_fit_the_form_is_no_yes(
    sandbox_settings: Settings, era: str, content: dict[str, Any] | None
) -> None:
    async with asking(sandbox_settings, era, User(content=content)) as client:
        result = await called(client, **NEVER_DRAWN)
    if content != {"spend": True, "more": 1}:  # what was not asked for is no part of the answer
        assert result.is_error
        assert made(sandbox_settings) == 0


@BOTH_ERAS
async def test_where_nobody_can_be_asked_the_refusal_names_the_argument_that_confirms_it(
    sandbox_settings: Settings, era: str
) -> None:
    async with asking(sandbox_settings, era, None) as client:
        refused = await called(client, **NEVER_DRAWN)
        assert refused.is_error
        assert text(refused).splitlines() == [
            f"The user was not asked, and can't be through this client. {UNASKED}",
            "Nothing was sent and nothing was charged.",
            f"Next: Ask the user. If the answer is yes, call again with max_cost_usd: 0.72. {CHEAPER}",
        ]
        assert made(sandbox_settings) == 0
        too_little = await called(client, **NEVER_DRAWN, max_cost_usd=0.71)
        assert too_little.is_error
        confirmed = await called(client, **NEVER_DRAWN, max_cost_usd=0.72)
    assert not confirmed.is_error


async def test_up_to_the_threshold_nobody_is_bothered(sandbox_settings: Settings) -> None:
    user = User()
    settings = replace(sandbox_settings, confirm_usd=Decimal("0.72"))
    async with asking(settings, "auto", user) as client:
        assert not (await called(client, **NEVER_DRAWN)).is_error
    async with asking(replace(settings, confirm_usd=None), "auto", user) as client:
        assert not (await called(client, **NEVER_DRAWN | {"count": 4})).is_error
    assert user.asked == []


async def test_what_is_wrong_is_told_before_anybody_is_asked(sandbox_settings: Settings) -> None:
    user = User()
    async with asking(sandbox_settings, "auto", user) as client:
        for wrong in ({"aspect_ratio": "7:1"}, {"source_images": ["nothing.png"]}, {"prompt": "x"}):
            assert (await called(client, **NEVER_DRAWN | wrong)).is_error
    tight = replace(sandbox_settings, caps=Caps(daily_usd=Decimal("0.60")))
    async with asking(tight, "auto", user) as client:
        assert "FLUX2_DAILY_BUDGET_USD is $0.60" in text(await called(client, **NEVER_DRAWN))
    assert user.asked == []


async def test_what_is_paid_once_is_asked_for_once(sandbox_settings: Settings) -> None:
    user = User()
    async with asking(sandbox_settings, "auto", user) as client:
        for _ in range(2):
            assert not (await called(client, **NEVER_DRAWN, idempotency_key="foxes")).is_error
    assert len(user.asked) == 1
    assert made(sandbox_settings) == 3


async def test_a_yes_is_good_for_the_call_it_was_given_for_and_no_other(sandbox_settings: Settings) -> None:
    """The modern era carries the approval in a state that the client sends back: replayed for other arguments it fails."""
    async with Client(build(sandbox_settings), elicitation_callback=User()) as client:
        asked = await client.session.call_tool("generate", NEVER_DRAWN, allow_input_required=True)
        assert isinstance(asked, InputRequiredResult)
        assert asked.input_requests is not None
        answers: InputResponses = {
            key: ElicitResult(action="accept", content={"spend": True}) for key in asked.input_requests
        }
        for other in ({"count": 4}, {"prompt": "a red fox in snow, at night"}, {"variant": "pro"}):
            with pytest.raises(MCPError, match="requestState"):
                await client.session.call_tool(
                    "generate", NEVER_DRAWN | other, input_responses=answers, request_state=asked.request_state
                )
        assert made(sandbox_settings) == 0
        result = await client.session.call_tool(
            "generate", NEVER_DRAWN, input_responses=answers, request_state=asked.request_state
        )
    assert isinstance(result, CallToolResult)
    assert not result.is_error


async def test_a_known_key_with_a_larger_count_is_asked_for_what_is_new(sandbox_settings: Settings, era: str) -> None:
    user = User()
    flex = NEVER_DRAWN | {"count": 2, "idempotency_key": "foxes"}
    async with asking(sandbox_settings, era, user) as client:
        assert not (await called(client, **flex)).is_error
        assert user.asked == []  # $0.48
        assert not (await called(client, **flex | {"count": 8})).is_error
        assert not (await called(client, **flex | {"count": 8})).is_error
    (question,) = user.asked
    assert question.message.splitlines()[0] == "Make 6 images with flux-2-flex-text-to-image at 2k for $1.44?"
    assert made(sandbox_settings) == 8
    async with asking(sandbox_settings, era, None) as client:
        refused = await called(client, **flex | {"count": 8, "idempotency_key": "others"})
    assert refused.is_error
    assert "call again with max_cost_usd: 1.92." in text(refused)
