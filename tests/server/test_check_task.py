from __future__ import annotations

import uuid
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp_types import TextContent

from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.server.app import build
from flux2_mcp.settings import Settings
from tests.server.conftest import BOTH_ERAS

pytestmark = pytest.mark.anyio


async def call(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    with anyio.fail_after(30):
        result = await client.call_tool(tool, arguments)
    assert not result.is_error
    assert isinstance(result.structured_content, dict)
    return result.structured_content


@BOTH_ERAS
async def test_a_task_is_found_by_its_id(client: Client) -> None:
    made = await call(client, "generate", prompt="a red fox in snow")
    checked = await call(client, "check_task", task_ids=[made["tasks"][0]["task_id"]])
    assert checked["tasks"] == made["tasks"]


async def test_without_ids_the_latest_come_first(client: Client) -> None:
    prompts = [f"fox number {number} [sandbox:stuck]" for number in range(3)]
    made = [await call(client, "generate", prompt=prompt, wait_seconds=0) for prompt in prompts]
    ids = [result["tasks"][0]["task_id"] for result in made]
    checked = await call(client, "check_task", limit=2, wait_seconds=0)
    assert [task["task_id"] for task in checked["tasks"]] == [ids[2], ids[1]]


async def test_with_nothing_made_it_says_so(client: Client) -> None:
    result = await client.call_tool("check_task", {})
    assert isinstance(result.structured_content, dict)
    assert (result.structured_content["status"], result.structured_content["tasks"]) == ("none", [])
    assert isinstance(result.content[0], TextContent)
    assert "There are no tasks yet." in result.content[0].text


async def test_it_waits_for_the_end_of_an_open_task(client: Client) -> None:
    made = await call(client, "generate", prompt="a red fox [sandbox:slow]", wait_seconds=0)
    assert made["status"] == "processing"
    checked = await call(client, "check_task", **made["next_action"]["arguments"])
    assert checked["status"] == "completed"
    assert checked["tasks"][0]["images"][0]["path"]


async def test_a_server_started_later_knows_what_was_made_before(sandbox_settings: Settings, era: str) -> None:
    async with Client(build(sandbox_settings), mode=era) as first:
        made = await call(first, "generate", prompt="a red fox [sandbox:slow]", wait_seconds=0)
    async with Client(build(sandbox_settings), mode=era) as second:
        checked = await call(second, "check_task", **made["next_action"]["arguments"])
    assert checked["status"] == "completed"


async def test_an_id_made_elsewhere_is_asked_of_runapi_and_recorded(client: Client, sandbox_settings: Settings) -> None:
    import httpx

    await call(client, "check_pricing")  # the sandbox is up now, and so is its folder
    with Sandbox(sandbox_settings.home / "sandbox", speed=1000) as elsewhere:
        body = {"model": "flux-2-max-text-to-image", "prompt": "made elsewhere", "aspect_ratio": "4:3"}
        answer = httpx.post(
            f"{elsewhere.base_url}/api/v1/flux_2/text_to_image",
            json=body,
            headers={"Authorization": f"Bearer {elsewhere.api_key}"},
            timeout=60,
        )
        task_id = answer.json()["id"]
        checked = await call(client, "check_task", task_ids=[task_id])
    assert (checked["status"], checked["tasks"][0]["action"]) == ("completed", "text_to_image")
    assert checked["tasks"][0]["images"][0]["path"]
    assert (await call(client, "check_task"))["tasks"][0]["task_id"] == task_id


async def test_an_id_that_nobody_knows_is_an_error_that_says_so(client: Client) -> None:
    result = await client.call_tool("check_task", {"task_ids": [str(uuid.uuid4())]})
    assert result.is_error
    assert isinstance(result.content[0], TextContent)
    assert result.content[0].text.startswith("Neither the journal nor RunAPI knows the task")


async def test_what_was_made_can_be_asked_for_by_status_time_and_workspace(client: Client) -> None:
    done = await call(client, "generate", prompt="a red fox in snow")
    open_ = await call(client, "generate", prompt="a red fox [sandbox:stuck]", wait_seconds=0)

    async def found(**filters: str) -> list[str]:
        return [task["task_id"] for task in (await call(client, "check_task", **filters))["tasks"]]

    done_id, open_id = done["tasks"][0]["task_id"], open_["tasks"][0]["task_id"]
    assert await found(status="completed") == [done_id]
    assert await found(status="failed") == []
    assert await found(since="1h") == [open_id, done_id]
    assert await found(since="2999-01-01") == []
    assert await found(workspace=".") == [open_id, done_id]
    assert await found(workspace="/elsewhere") == []


async def test_filters_and_ids_do_not_go_together(client: Client) -> None:
    result = await client.call_tool("check_task", {"task_ids": ["x"], "status": "failed", "since": "1h"})
    assert result.is_error
    assert isinstance(result.content[0], TextContent)
    assert result.content[0].text.splitlines()[:2] == [
        "status: goes without task_ids only.",
        "since: goes without task_ids only.",
    ]
