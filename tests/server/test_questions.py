"""What a user is asked before a call that costs much: in one short line each, with what is left after what was spent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import anyio
import pytest
from mcp.client.client import Client
from mcp.client.session import ClientRequestContext
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, TextContent
from msgspec.structs import replace

from flux2_mcp.domain.budget import Caps
from flux2_mcp.server.app import build
from flux2_mcp.settings import Settings
from tests.support.services import CREATE, Front, Reply, constantly, fronted

pytestmark = pytest.mark.anyio

NO_SCHEDULE = Reply(404, b'{"error": "Not found"}')
STUCK = {"prompt": "a red fox [sandbox:stuck]", "wait_seconds": 0}
DEAR = STUCK | {"variant": "flex", "output_resolution": "2k", "count": 3}
UNPRICED = STUCK | {"variant": "max", "aspect_ratio": "1:1"}


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    """RunAPI without a price list: what `max` costs is known nowhere."""
    async with fronted(tmp_path) as front:
        front.rule = constantly("GET /api/v1/price_schedules", NO_SCHEDULE)
        yield front


@dataclass
class User:
    """Says yes or no to every question, and remembers them."""

    action: str
    asked: list[str] = field(default_factory=list)

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        del context
        self.asked.append(params.message)
        yes = self.action == "accept"
        return ElicitResult(action="accept" if yes else "decline", content={"spend": True} if yes else None)


async def called(settings: Settings, user: User, *calls: dict[str, object]) -> list[CallToolResult]:
    with anyio.fail_after(60):
        async with Client(build(settings), elicitation_callback=user) as client:
            found = [await client.call_tool("generate", arguments) for arguments in calls]
    assert all(isinstance(one, CallToolResult) for one in found)
    return found


def words(result: CallToolResult) -> str:
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


async def test_what_nobody_can_price_is_asked_for_where_there_is_no_cap(front: Front, tmp_path: Path) -> None:
    user = User("decline")
    [result] = await called(front.settings(tmp_path), user, UNPRICED)
    assert [
        question.startswith("Make 1 image with flux-2-max-text-to-image at 1k for ") for question in user.asked
    ] == [True]
    assert result.is_error
    assert front.count(CREATE) == 0


async def test_nobody_is_asked_for_what_a_cap_is_going_to_refuse(front: Front, tmp_path: Path) -> None:
    user = User("accept")
    for caps in (Caps(daily_usd=Decimal(9)), Caps(call_usd=Decimal(9)), Caps(session_usd=Decimal(9))):
        [result] = await called(front.settings(tmp_path, caps=caps), user, UNPRICED)
        assert result.is_error
        assert "max_cost_usd" in words(result)
    assert user.asked == []
    assert front.count(CREATE) == 0


async def test_what_is_left_is_told_after_what_was_spent(sandbox_settings: Settings) -> None:
    user = User("accept")
    settings = replace(sandbox_settings, caps=Caps(session_usd=Decimal("2.00"), daily_usd=Decimal(10)))
    await called(settings, user, DEAR, DEAR | {"prompt": "another [sandbox:stuck]"})
    left = [[line for line in question.splitlines() if line.startswith("Left of")] for question in user.asked]
    assert left == [
        ["Left of FLUX2_SESSION_BUDGET_USD: $2.00.", "Left of FLUX2_DAILY_BUDGET_USD: $10.00."],
        ["Left of FLUX2_SESSION_BUDGET_USD: $1.28.", "Left of FLUX2_DAILY_BUDGET_USD: $9.28."],
    ]


async def test_a_long_prompt_is_cut_and_stands_on_one_line(sandbox_settings: Settings) -> None:
    user = User("decline")
    await called(sandbox_settings, user, DEAR | {"prompt": "a red fox\n\n in snow, " * 40})
    (question,) = user.asked
    (line,) = [line for line in question.splitlines() if line.startswith("Prompt: ")]
    assert line.startswith("Prompt: a red fox in snow, a red fox in snow")
    assert (line.endswith("…"), len(line)) == (True, len("Prompt: ") + 120)
