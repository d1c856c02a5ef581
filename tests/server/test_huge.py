"""Whatever a caller sends comes back short: no name, id, path or address is repeated whole, and no list of troubles is endless."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import Request
from pydantic import RootModel

from flux2_mcp.errors import MAX_PROBLEMS, MAX_SHOWN_CHARS, shortened
from flux2_mcp.server.app import build
from tests.support.services import POLL, Reply, constantly, fronted

pytestmark = pytest.mark.anyio

BIG = 200_000
SHORT = 5_000
"""Characters of the longest answer to a call that is refused."""
X = "x" * BIG


async def answer(client: Client, method: str, params: dict[str, Any]) -> str:
    """The whole answer to a request, as JSON, whether it is a result or an error."""
    request = Request[dict[str, Any], str](method=method, params=params)
    with anyio.fail_after(60):
        try:
            return json.dumps((await client.session.send_request(request, RootModel[dict[str, Any]])).root)
        except MCPError as exc:
            return exc.error.model_dump_json()


def test_a_text_is_cut_only_where_it_is_too_long() -> None:
    assert shortened("x" * MAX_SHOWN_CHARS) == "x" * MAX_SHOWN_CHARS
    assert shortened("x" * BIG) == "x" * (MAX_SHOWN_CHARS - 1) + "…"
    assert shortened("abcdef", 3) == "ab…"


async def test_no_argument_of_a_tool_comes_back_whole(client: Client) -> None:
    for tool in (await client.list_tools()).tools:
        base = {"prompt": "a fox"} if "prompt" in tool.input_schema["properties"] else {}
        for name, schema in tool.input_schema["properties"].items():
            texts = [X, f"/{X}", f"~{X}", f"task:{X}", f"https://{X}", "a/" * (BIG // 50) + "b.png", f"a.{X}"]
            values: list[object] = [*([[text] for text in texts] if schema["type"] == "array" else texts), {X: X}, [X]]
            for value in values:
                text = await answer(client, "tools/call", {"name": tool.name, "arguments": base | {name: value}})
                assert len(text) < SHORT, (tool.name, name, str(value)[:20], text[:200])


async def test_of_many_troubles_the_first_are_named_and_the_rest_counted(client: Client) -> None:
    arguments: dict[str, Any] = {f"strange{number}": 1 for number in range(5000)}
    text = await answer(client, "tools/call", {"name": "list_variants", "arguments": arguments})
    assert len(text) < SHORT
    assert text.count("no such argument") == MAX_PROBLEMS
    assert f"And {5000 - MAX_PROBLEMS} more." in text
    sources = {"prompt": "a fox", "source_images": ["/etc/nothing.png"] * 3000}
    assert len(await answer(client, "tools/call", {"name": "generate", "arguments": sources})) < SHORT


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": X}),
        ("prompts/get", {"name": X}),
        ("prompts/get", {"name": "generate", "arguments": {X: X}}),
        ("prompts/get", {"name": "remix", "arguments": {"prompt": "a fox", "source_images": X}}),
        ("prompts/get", {"name": "add_to_app", "arguments": {"language": "python", "feature": X}}),
        ("resources/read", {"uri": X}),
        ("resources/read", {"uri": f"flux2://tasks/{X}"}),
        ("resources/read", {"uri": f"flux2://images/{X}?max=1"}),
        ("resources/list", {"cursor": X}),
        ("tools/list", {"cursor": X}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": X}, "argument": {"name": "a", "value": ""}}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": X}, "argument": {"name": "a", "value": ""}}),
        (
            "completion/complete",
            {
                "ref": {"type": "ref/prompt", "name": "compare_variants"},
                "argument": {"name": "variants", "value": "x, " * (BIG // 3)},
            },
        ),
        (X, {}),
    ],
)
async def test_nothing_else_that_is_asked_for_comes_back_whole(
    client: Client, method: str, params: dict[str, Any]
) -> None:
    text = await answer(client, method, params)
    assert len(text) < SHORT, text[:200]


async def test_what_can_be_no_tasks_id_is_refused_and_nobody_is_asked_about_it(tmp_path: Path) -> None:
    done = Reply(200, b'{"status": "completed", "image_urls": []}')
    async with fronted(tmp_path) as front:
        front.rule = constantly(POLL, done)
        async with Client(build(front.settings(tmp_path))) as client:
            for size in (513, 8000, BIG):
                text = await answer(
                    client, "tools/call", {"name": "check_task", "arguments": {"task_ids": ["x" * size]}}
                )
                assert "task_ids: holds something that is not a task's id." in text
                assert len(text) < SHORT
        assert front.count(POLL) == 0
