"""A setting that can't be used: the server goes on, and each answer that needs the setting says which, what, and what to do."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, PromptReference, ResourceTemplateReference, TextContent

from flux2_mcp.server.app import build
from flux2_mcp.settings import Settings, serving

pytestmark = pytest.mark.anyio

TOOLS = ["generate", "check_task", "check_pricing", "list_variants"]
REQUIRED: dict[str, dict[str, object]] = {"generate": {"prompt": "a red fox in snow"}}
CAPS = ("FLUX2_MAX_COST_USD", "FLUX2_SESSION_BUDGET_USD", "FLUX2_DAILY_BUDGET_USD", "FLUX2_CONFIRM_USD")


def text(result: CallToolResult) -> str:
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


async def refusing(client: Client, said: str) -> list[str]:
    """The tools that answer with an error, which all say this."""
    found = []
    assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
    for tool in TOOLS:
        with anyio.fail_after(60):
            result = await client.call_tool(tool, REQUIRED.get(tool, {}))
        if result.is_error:
            found.append(tool)
            assert text(result) == said
    return found


@pytest.mark.parametrize(
    ("name", "value", "must"),
    [
        ("FLUX2_MODE", "lve", "be one of auto, live, sandbox"),
        ("FLUX2_HOME", "some/folder", "be an absolute path: hosts start servers in folders of their own"),
    ],
)
async def test_where_everything_hangs_on_it_only_what_needs_nothing_answers(
    name: str, value: str, must: str, era: str, clean_env: dict[str, str]
) -> None:
    settings = serving(clean_env | {name: value})
    async with Client(build(settings), mode=era) as client:
        said = (
            f"{name} must {must}.\nNothing was sent and nothing was charged.\n"
            f'Next: It says "{value}". Mend that setting, then start the server again.'
        )
        assert await refusing(client, said) == ["generate", "check_task", "check_pricing"]
        assert "flux2://docs/api" in {str(each.uri) for each in (await client.list_resources()).resources}
        assert (await client.read_resource("flux2://docs/api")).contents
        with pytest.raises(MCPError, match=f"^{name} must"):
            await client.read_resource("flux2://tasks")
        variants = await client.complete(
            PromptReference(type="ref/prompt", name="generate"), {"name": "variant", "value": ""}
        )
        assert "pro" in variants.completion.values
        tasks = ResourceTemplateReference(type="ref/resource", uri="flux2://tasks/{id}")
        with pytest.raises(MCPError, match=f"^{name} must"):
            await client.complete(tasks, {"name": "id", "value": ""})


@pytest.mark.parametrize(
    ("config", "why"),
    [("{", "is not valid JSON: line 1, column 2."), ('{"api_key": 7}', "has a number as api_key, which must be text.")],
)
async def test_a_config_file_that_can_not_be_used_is_told_in_the_answers(
    config: str, why: str, clean_env: dict[str, str]
) -> None:
    async with Client(build(serving(clean_env, config))) as client:
        for tool in TOOLS[:3]:
            result = await client.call_tool(tool, REQUIRED.get(tool, {}))
            assert result.is_error
            assert f"RunAPI's config file ({clean_env['HOME']}/.config/runapi/config.json) {why}" in text(result)
        assert not (await client.call_tool("list_variants", {})).is_error


@pytest.mark.parametrize(
    ("name", "value", "must"),
    [
        ("FLUX2_RATE", "ten", "be a number from 0.1 to 1000"),
        ("FLUX2_ALLOWED_DIRS", "art", "be an absolute path: hosts start servers in folders of their own"),
        (CAPS[0], "five", "be an amount in USD, such as 0.50"),
        *(pytest.param(name, "five", "be an amount in USD, such as 0.50", marks=pytest.mark.deep) for name in CAPS[1:]),
    ],
)
async def test_what_only_spending_needs_stops_spending_alone(
    name: str, value: str, must: str, clean_env: dict[str, str], tmp_path: Path
) -> None:
    settings = serving(clean_env | {name: value}, workspace=str(tmp_path))
    async with Client(build(settings)) as client:
        said = (
            f"{name} must {must}.\nNothing was sent and nothing was charged.\n"
            f'Next: It says "{value}". Mend that setting, then start the server again.'
        )
        assert await refusing(client, said) == ["generate"]


async def test_a_wait_or_a_workspace_that_can_not_be_used_is_told_by_each_answer_that_needs_it(
    clean_env: dict[str, str],
) -> None:
    settings = serving(clean_env | {"FLUX2_WAIT_SECONDS": "long", "FLUX2_WORKSPACE": "here"})
    assert isinstance(settings, Settings)
    assert [error.setting for error in settings.unusable] == ["FLUX2_WAIT_SECONDS", "FLUX2_WORKSPACE"]
    async with Client(build(settings)) as client:
        waits = await client.call_tool("check_task", {"task_ids": ["t-1"]})
        here = await client.call_tool("check_task", {"workspace": "."})
        assert (waits.is_error, here.is_error) == (True, True)
        assert text(waits).startswith("FLUX2_WAIT_SECONDS must")
        assert text(here).startswith("FLUX2_WORKSPACE must")
        assert not (await client.call_tool("check_task", {})).is_error


async def test_a_log_level_that_can_not_be_used_is_nobodys_answer(clean_env: dict[str, str]) -> None:
    settings = serving(clean_env | {"FLUX2_LOG": "loud"})
    assert isinstance(settings, Settings)
    async with Client(build(settings)) as client:
        assert not (await client.call_tool("generate", {"prompt": "a red fox in snow"})).is_error


async def test_what_was_made_before_is_still_there_and_still_collected(clean_env: dict[str, str]) -> None:
    async with Client(build(serving(clean_env))) as client:
        made = await client.call_tool("generate", {"prompt": "a red fox [sandbox:slow]", "wait_seconds": 0})
        assert made.structured_content is not None
        ids = made.structured_content["next_action"]["arguments"]["task_ids"]
    async with Client(build(serving(clean_env | {"FLUX2_DAILY_BUDGET_USD": "a lot"}))) as client:
        with anyio.fail_after(60):
            found = await client.call_tool("check_task", {"task_ids": ids})
    assert found.structured_content is not None
    assert found.structured_content["status"] == "completed"


async def test_a_proxy_that_can_not_be_used_refuses_the_call_at_once_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, era: str
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:9")
    settings = Settings(mode="live", home=tmp_path / "home", base_url="https://api.runapi.invalid", api_key="k")
    async with Client(build(settings), mode=era) as client:
        with anyio.fail_after(30):
            refused = await client.call_tool("generate", {"prompt": "a red fox in snow", "wait_seconds": 600})
            after = await client.call_tool("check_task", {})
            prices = await client.call_tool("check_pricing", {})
    assert refused.is_error
    assert text(refused).startswith("ALL_PROXY must be the address of a proxy")
    assert "Nothing was sent and nothing was charged." in text(refused)
    assert after.structured_content is not None
    assert [task["status"] for task in after.structured_content["tasks"]] == ["failed"]
    assert "ALL_PROXY must be the address of a proxy" in text(prices)
