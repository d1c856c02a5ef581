from __future__ import annotations

import re
import uuid
from pathlib import Path
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
    import httpx2

    await call(client, "check_pricing")  # the sandbox is up now, and so is its folder
    with Sandbox(sandbox_settings.home / "sandbox", speed=1000) as elsewhere:
        body = {"model": "flux-2-max-text-to-image", "prompt": "made elsewhere", "aspect_ratio": "4:3"}
        answer = httpx2.post(
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


def shown(result: dict[str, Any]) -> list[str]:
    return [task["task_id"] for task in result["tasks"]]


async def test_a_list_is_summed_up_and_its_cursor_leads_on_however_many_tasks_come_meanwhile(client: Client) -> None:
    prompts = [f"fox number {number} [sandbox:moderation]" for number in range(5)]
    for prompt in prompts:
        await client.call_tool("generate", {"prompt": prompt})
    first = await call(client, "check_task", limit=2)
    assert first["matched"] == {
        "count": 5,
        "shown": 2,
        "by_status": {"failed": 5},
        "quoted_usd": 0.25,
        "charged_usd": 0.0,
        "before": first["tasks"][1]["task_id"],
    }
    await client.call_tool("generate", {"prompt": "one more [sandbox:moderation]"})
    pages = [first]
    while "before" in pages[-1]["matched"]:
        pages.append(await call(client, "check_task", limit=2, before=pages[-1]["matched"]["before"]))
        assert pages[-1]["matched"]["count"] == 6
    assert [task["prompt"] for page in pages for task in page["tasks"]] == prompts[::-1]
    wrong = await client.call_tool("check_task", {"before": "nobody", "file": "/etc/passwd"})
    assert wrong.is_error
    assert isinstance(wrong.content[0], TextContent)
    assert wrong.content[0].text.splitlines()[:2] == [
        "file: stands outside the workspace; move it there, or name its folder in FLUX2_ALLOWED_DIRS.",
        "before: no task has this id: give the before that the last list ended with.",
    ]


async def test_a_text_in_a_prompt_finds_its_tasks_and_what_finds_none_is_named(client: Client) -> None:
    for prompt in ("A red FOX [sandbox:moderation]", "100% Äpfel [sandbox:moderation]"):
        await client.call_tool("generate", {"prompt": prompt})
    for query, count in (("red fox", 1), ("äpfel", 1), ("0%", 1), ("sandbox", 2), ("r_d", 0), (".*", 0)):
        found = await call(client, "check_task", query=query)
        assert (found["matched"]["count"], len(found["tasks"])) == (count, count), query
    long = await client.call_tool("check_task", {"query": "o" * 5001})
    assert (long.is_error, "5000" in str(long.content)) == (True, True)
    none = await client.call_tool("check_task", {"query": "owl", "status": "failed"})
    assert isinstance(none.structured_content, dict)
    said = "No task matches status 'failed', query 'owl'."
    assert said in none.structured_content["notice"]
    assert isinstance(none.content[0], TextContent)
    assert said in none.content[0].text
    assert "There are no tasks yet" not in none.content[0].text


async def test_a_file_names_the_task_that_made_it_also_converted_copied_or_renamed(
    client: Client, tmp_path: Path
) -> None:
    as_it_came = shown(await call(client, "generate", prompt="a red fox in snow", save_to="public/hero.png"))
    converted = shown(await call(client, "generate", prompt="a grey owl at night", save_to="public/owl.jpg"))
    (tmp_path / "copy.bin").write_bytes((tmp_path / "public" / "owl.jpg").read_bytes())
    (tmp_path / "public" / "hero.png").rename(tmp_path / "moved.png")
    (tmp_path / "mine.png").write_bytes(b"another")
    assert shown(await call(client, "check_task", file="moved.png")) == as_it_came
    assert shown(await call(client, "check_task", file="public/owl.jpg")) == converted
    assert shown(await call(client, "check_task", file="copy.bin")) == converted
    assert (await call(client, "check_task", file="mine.png"))["tasks"] == []
    for file, why in (
        ("gone.png", f"file: can't be read: there is no such file in {tmp_path}."),
        ("https://example.com/a.png", "file: must be the path of a file in the workspace."),
        ("a\0.png", "file: must be the path of a file in the workspace."),
        ("../up.png", "file: stands outside the workspace"),
    ):
        refused = await client.call_tool("check_task", {"file": file})
        assert refused.is_error
        assert isinstance(refused.content[0], TextContent)
        assert refused.content[0].text.startswith(why)


async def test_a_time_that_is_none_is_answered_with_what_it_probably_means(client: Client) -> None:
    for since, meant in (("yesterday", "202"), ("last week", "7d"), ("24 hours", "24h")):
        refused = await client.call_tool("check_task", {"since": since})
        assert refused.is_error
        assert isinstance(refused.content[0], TextContent)
        assert f"; did you mean {meant}" in refused.content[0].text.splitlines()[0]
    refused = await client.call_tool("check_task", {"status": "Failed"})
    assert isinstance(refused.content[0], TextContent)
    assert refused.content[0].text.splitlines()[0].endswith("(did you mean failed?).")
    refused = await client.call_tool("check_task", {"status": f"failed{'.' * 64}"})
    assert isinstance(refused.content[0], TextContent)
    assert "did you mean" not in refused.content[0].text


async def test_each_filter_that_is_wrong_is_named_at_once(client: Client) -> None:
    refused = await client.call_tool("check_task", {"since": "today", "file": "gone.png", "before": "nobody"})
    assert isinstance(refused.content[0], TextContent)
    assert re.findall(r"^(since|file|before)(?=: )", refused.content[0].text, re.MULTILINE) == [
        "since",
        "file",
        "before",
    ]
