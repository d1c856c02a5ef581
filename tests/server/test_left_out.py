"""Strict clients send every argument that a tool has: `null` and "" mean that it was left out, and the word "null" does not."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolResult,
    Request,
    TextContent,
)
from pydantic import RootModel

from flux2_mcp.server.app import build
from flux2_mcp.settings import Settings
from tests.server.test_tasks_extension import Asking
from tests.support.deep import deep_but

pytestmark = pytest.mark.anyio

PROMPT = "a strict cat"


async def called(client: Client, tool: str, arguments: dict[str, Any]) -> CallToolResult:
    with anyio.fail_after(30):
        return await client.call_tool(tool, arguments)


async def ask(client: Client, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """A request as it is: the SDK's client would not let a `null` through."""
    request = Request[dict[str, Any], str](method=method, params=params)
    with anyio.fail_after(30):
        return (await client.session.send_request(request, RootModel[dict[str, Any]])).root


def said(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


async def test_null_for_each_argument_of_each_tool_is_as_good_as_none_of_them(client: Client) -> None:
    for tool in (await client.list_tools()).tools:
        required = {"prompt": PROMPT} if tool.name == "generate" else {}
        nulls = dict.fromkeys(tool.input_schema["properties"]) | required
        result = await called(client, tool.name, nulls)
        assert not result.is_error, (tool.name, said(result))
        assert isinstance(result.structured_content, dict)
        plain = (await called(client, tool.name, required)).structured_content
        assert isinstance(plain, dict)
        assert result.structured_content.keys() == plain.keys(), tool.name
        if tool.name == "generate":
            (task,) = result.structured_content["tasks"]
            assert (task["variant"], task["status"], len(task["images"])) == ("pro", "completed", 1)
            assert "saved" not in task["images"][0]


async def test_a_blank_string_is_left_out_whatever_the_argument_is(client: Client) -> None:
    for tool in (await client.list_tools()).tools:
        required = {"prompt": PROMPT} if tool.name == "generate" else {}
        blanks = dict.fromkeys(tool.input_schema["properties"], "") | required
        result = await called(client, tool.name, blanks)
        assert not result.is_error, (tool.name, said(result))
        assert isinstance(result.structured_content, dict)
        plain = (await called(client, tool.name, required)).structured_content
        assert isinstance(plain, dict)
        assert result.structured_content.keys() == plain.keys(), tool.name
        if tool.name == "generate":
            (task,) = result.structured_content["tasks"]
            assert (task["variant"], task["status"], len(task["images"])) == ("pro", "completed", 1)
            assert task["sources"] == []


@pytest.mark.parametrize("word", deep_but(["null", "[]", "{}", '["a", "b"]'], "null", '["a", "b"]'))
async def test_a_string_is_what_it_says_though_it_is_json(client: Client, word: str) -> None:
    """A key that is dropped would pay the same task twice."""
    first, again = [
        await called(client, "generate", {"prompt": prompt, "idempotency_key": word, "preview": False})
        for prompt in (PROMPT, PROMPT + "s")
    ]
    assert not first.is_error, said(first)
    assert again.is_error
    assert "key" in said(again)
    prompted = await called(client, "generate", {"prompt": "null", "idempotency_key": f"of {word}"})
    assert not prompted.is_error, said(prompted)
    for name in ("variant", "aspect_ratio", "output_resolution", "callback_url"):
        refused = await called(client, "generate", {"prompt": PROMPT, name: word})
        assert refused.is_error, name
        assert said(refused).startswith(name)
    refused = await called(client, "check_task", {"status": word, "since": word})
    assert refused.is_error
    assert said(refused).startswith("status: ")


async def test_json_in_a_string_is_read_where_the_argument_is_no_string(client: Client) -> None:
    """Some hosts send lists and numbers so."""
    result = await called(client, "generate", {"prompt": PROMPT, "count": "2", "preview": "false"})
    assert not result.is_error, said(result)
    assert isinstance(result.structured_content, dict)
    ids = [task["task_id"] for task in result.structured_content["tasks"]]
    found = await called(client, "check_task", {"task_ids": json.dumps(ids)})
    assert isinstance(found.structured_content, dict)
    assert [task["task_id"] for task in found.structured_content["tasks"]] == ids


@pytest.mark.parametrize("prompt", [None, ""])
async def test_a_needed_argument_that_says_nothing_is_missing_by_its_name(client: Client, prompt: str | None) -> None:
    result = await called(client, "generate", {"prompt": prompt, "variant": None})
    assert (result.is_error, said(result).split("\n")[0]) == (True, "prompt: pro needs it.")


async def test_an_argument_that_the_tool_does_not_have_is_refused_though_it_is_null(client: Client) -> None:
    result = await called(client, "list_variants", {"seed": None, "variant": None})
    assert said(result).startswith("seed: no such argument; this tool has: action, variant.\n")


async def test_a_call_that_becomes_a_task_may_leave_its_preview_null(sandbox_settings: Settings) -> None:
    asking = Asking()
    async with Client(build(sandbox_settings), extensions=[asking]) as client:
        arguments = {"prompt": f"{PROMPT} [sandbox:slow]", "preview": None, "wait_seconds": None, "idempotency_key": ""}
        result = await called(client, "generate", arguments)
    assert not result.is_error, said(result)
    assert len(asking.handles) == 1
    assert not asking.handles[0].task_id.endswith("?preview=false")


async def test_a_prompts_arguments_may_be_null_or_blank_but_the_needed_ones(client: Client) -> None:
    nulls = {"prompt": PROMPT, "variant": None, "aspect_ratio": "", "output_resolution": None}
    plain = await ask(client, "prompts/get", {"name": "generate", "arguments": {"prompt": PROMPT}})
    assert await ask(client, "prompts/get", {"name": "generate", "arguments": nulls}) == plain
    for prompt in (None, ""):
        with pytest.raises(MCPError) as caught:
            await ask(client, "prompts/get", {"name": "generate", "arguments": nulls | {"prompt": prompt}})
        assert caught.value.error.message == "prompt: is needed."
    with pytest.raises(MCPError, match="seed: no such argument"):
        await ask(client, "prompts/get", {"name": "generate", "arguments": nulls | {"seed": None}})


async def test_completion_takes_the_other_arguments_as_null(client: Client) -> None:
    ref = {"type": "ref/prompt", "name": "generate"}
    found = [
        await ask(
            client,
            "completion/complete",
            {"ref": ref, "argument": {"name": "aspect_ratio", "value": ""}, "context": {"arguments": arguments}},
        )
        for arguments in ({}, {"prompt": None, "variant": None, "output_resolution": ""})
    ]
    assert found[0]["completion"]["values"]
    assert found[1] == found[0]
