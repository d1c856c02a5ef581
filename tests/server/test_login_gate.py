"""Who lacks a key is sent to RunAPI's own page, in both eras, and the same server then makes the image."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.session import ClientRequestContext
from mcp.shared.exceptions import MCPError, UrlElicitationRequiredError
from mcp_types import CallToolResult, ElicitRequestParams, ElicitRequestURLParams, ElicitResult, TextContent

from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.server.app import build
from flux2_mcp.settings import Settings
from tests.support.sandboxed import TLS

pytestmark = pytest.mark.anyio


@pytest.fixture
def runapi(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "elsewhere", speed=1000) as sandbox:
        yield sandbox


@pytest.fixture
def settings(tmp_path: Path, runapi: Sandbox) -> Settings:
    return Settings(
        mode="live",
        home=tmp_path / "home",
        base_url=runapi.base_url,
        config_path=tmp_path / "user" / "runapi" / "config.json",
        rate=1000.0,
        workspace=str(tmp_path),
    )


async def browsed(url: str, answer: str = "allow") -> None:
    """What a browser does with the page: press the button, go where it is sent."""
    async with httpx2.AsyncClient(verify=TLS, follow_redirects=True, timeout=30) as http:
        page = await http.get(url)
        found = re.search(r'name="id" value="([^"]+)"', page.text)
        assert found
        await http.post(page.url.join("/cli/authorize"), data={"id": found[1], "answer": answer})


@dataclass
class User:
    """Opens what they are sent to, or does not."""

    action: Literal["accept", "decline", "cancel"] = "accept"
    answer: str = "allow"
    asked: list[ElicitRequestURLParams] = field(default_factory=list)

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        del context
        assert isinstance(params, ElicitRequestURLParams)
        self.asked.append(params)
        if self.action == "accept":
            await browsed(params.url, self.answer)
        return ElicitResult(action=self.action)


def text(result: CallToolResult) -> str:
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


async def called(client: Client) -> CallToolResult:
    with anyio.fail_after(60):
        result = await client.call_tool("generate", {"prompt": "a red fox in snow"})
    assert isinstance(result, CallToolResult)
    return result


def made(result: CallToolResult) -> dict[str, Any]:
    assert isinstance(result.structured_content, dict), result.content
    return result.structured_content


async def test_the_modern_era_asks_once_and_goes_on_with_the_key(settings: Settings, runapi: Sandbox) -> None:
    user = User()
    async with Client(build(settings), elicitation_callback=user) as client:
        assert made(await called(client))["status"] == "completed"
        assert made(await called(client))["sandbox"] is False
        listed = await client.call_tool("check_task", {})
    (asked,) = user.asked
    code = re.search(r"display_code=([A-Z0-9-]+)", asked.url)
    assert code
    assert asked.url.startswith(f"{runapi.base_url}/cli/authorize?")
    assert f"only if the page shows the code {code[1]}" in asked.message
    assert len(made(listed)["tasks"]) == 2
    assert settings.config_path is not None
    assert json.loads(settings.config_path.read_text())["api_key"] == runapi.api_key
    assert stat.S_IMODE(settings.config_path.stat().st_mode) == 0o600


async def test_the_legacy_era_has_an_error_for_it_and_the_same_call_again_makes_the_image(
    settings: Settings, runapi: Sandbox
) -> None:
    async with Client(build(settings), mode="legacy", elicitation_callback=User()) as client:
        sent = []
        for _ in range(2):
            with pytest.raises(MCPError) as caught:
                await called(client)
            sent += UrlElicitationRequiredError.from_error(caught.value.error).elicitations
        asked, again = sent
        assert asked == again  # nobody went there yet: the same page
        assert asked.elicitation_id
        await browsed(asked.url)
        assert made(await called(client))["status"] == "completed"
    assert len(runapi.tasks()) == 1


@pytest.mark.parametrize("user", [User(action="decline"), User(action="cancel"), User(answer="deny")])
async def test_without_leave_nothing_is_sent_and_the_command_is_named(
    settings: Settings, runapi: Sandbox, user: User
) -> None:
    async with Client(build(settings), elicitation_callback=user) as client:
        result = await called(client)
    assert result.is_error
    assert "flux2-mcp login" in text(result)
    assert runapi.tasks() == []
    assert settings.config_path is not None
    assert not settings.config_path.exists()


async def test_a_client_that_can_not_open_pages_is_told_the_command(settings: Settings) -> None:
    for era in ("legacy", "auto"):
        async with Client(build(settings), mode=era) as client:
            result = await called(client)
        assert result.is_error
        assert "There is no RunAPI key" in text(result)
        assert "flux2-mcp login" in text(result)


async def test_what_spends_nothing_asks_for_no_login(settings: Settings) -> None:
    user = User()
    async with Client(build(settings), elicitation_callback=user) as client:
        assert made(await client.call_tool("list_variants", {}))
        assert made(await client.call_tool("check_pricing", {}))
        assert made(await client.call_tool("check_task", {}))["tasks"] == []
    assert user.asked == []


async def test_a_server_that_ends_while_a_login_waits_ends_at_once(settings: Settings) -> None:
    with anyio.fail_after(60):
        async with Client(build(settings), mode="legacy", elicitation_callback=User()) as client:
            with pytest.raises(MCPError):
                await called(client)
