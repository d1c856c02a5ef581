"""What holds the four tools together: the registry, the schemas' snapshots, the boundary, the bytes they cost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, TextContent

from flux2_mcp.server.app import build
from flux2_mcp.server.tools import REGISTRY
from flux2_mcp.settings import Settings

pytestmark = pytest.mark.anyio

SNAPSHOTS = Path(__file__).parents[1] / "snapshots"
NAMES = ["generate", "check_task", "check_pricing", "list_variants"]
MOST_BYTES = 3900


async def listed(settings: Settings) -> list[dict[str, Any]]:
    tools = await build(settings).list_tools()
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]


async def test_there_are_exactly_the_four_tools_in_a_stable_order(client: Client) -> None:
    assert [tool.name for tool in (await client.list_tools()).tools] == NAMES


def test_each_tool_has_its_file_its_registry_line_its_test_and_its_snapshot() -> None:
    here = Path(__file__).parent
    assert [entry.function.__name__ for entry in REGISTRY] == NAMES
    assert [entry.function.__module__ for entry in REGISTRY] == [f"flux2_mcp.server.tools.{name}" for name in NAMES]
    assert all((here / f"test_{name}.py").exists() for name in NAMES)
    assert sorted(path.stem for path in SNAPSHOTS.glob("*.json")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
async def test_a_tool_looks_as_its_snapshot_says(name: str, sandbox_settings: Settings) -> None:
    """Written anew with FLUX2_SNAPSHOTS=write; the difference is reviewed like code."""
    tool = next(tool for tool in await listed(sandbox_settings) if tool["name"] == name)
    file = SNAPSHOTS / f"{name}.json"
    if os.environ.get("FLUX2_SNAPSHOTS") == "write":
        file.write_text(json.dumps(tool, indent=1, ensure_ascii=False) + "\n", "utf-8")
    assert tool == json.loads(file.read_text("utf-8"))


async def test_what_a_model_sees_of_the_tools_stays_within_its_bytes(sandbox_settings: Settings) -> None:
    seen = [
        {key: tool[key] for key in ("name", "description", "inputSchema")} for tool in await listed(sandbox_settings)
    ]
    assert len(json.dumps(seen, separators=(",", ":"), ensure_ascii=False).encode()) <= MOST_BYTES


async def test_the_instructions_stay_within_900_bytes(client: Client) -> None:
    assert client.instructions is not None
    assert 0 < len(client.instructions.encode()) < 900


async def test_an_unknown_tool_is_a_protocol_error(client: Client) -> None:
    with pytest.raises(MCPError) as caught:
        await client.call_tool("paint", {})
    assert caught.value.error.code == INVALID_PARAMS
    assert caught.value.error.message == "Unknown tool: paint"


@pytest.mark.parametrize("name", ["max_cost_usd", "count", "wait_seconds"])
@pytest.mark.parametrize("value", [True, False, "true"])
async def test_true_and_false_are_no_numbers(client: Client, name: str, value: object) -> None:
    result = await client.call_tool("generate", {"prompt": "a fox", name: value})
    assert result.is_error
    (block,) = result.content
    assert isinstance(block, TextContent)
    assert block.text.startswith(f"{name}: must be a number.\nNothing was sent and nothing was charged.")


@pytest.mark.parametrize("name", NAMES)
async def test_unknown_arguments_are_refused_by_name(client: Client, name: str) -> None:
    result = await client.call_tool(name, {"prompt": "hello", "seed": 7} if name == "generate" else {"seed": 7})
    assert result.is_error
    assert isinstance(result.content[0], TextContent)
    assert result.content[0].text.startswith("seed: no such argument; this tool has: ")
    assert "Nothing was sent and nothing was charged." in result.content[0].text


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({}, "prompt: pro needs it."),
        ({"prompt": 7}, "prompt: must be a string."),
        ({"prompt": "hello", "count": 9}, "count: must be at most 8."),
        ({"prompt": "hello", "count": "many"}, "count: must be a whole number."),
        ({"prompt": "hello", "wait_seconds": -1}, "wait_seconds: must be at least 0."),
        ({"prompt": "hello", "source_images": "x"}, "source_images: must be a list of strings."),
        ({"prompt": "hello", "enable_safety_checker": "perhaps"}, "enable_safety_checker: must be true or false."),
        (
            {"prompt": "hello", "idempotency_key": "k" * 501},
            "idempotency_key: must have at most so many characters: 500.",
        ),
    ],
)
async def test_arguments_of_the_wrong_kind_are_refused_in_words_of_ours(
    client: Client, arguments: dict[str, Any], line: str
) -> None:
    result = await client.call_tool("generate", arguments)
    assert result.is_error
    assert isinstance(result.content[0], TextContent)
    text = result.content[0].text
    assert text.splitlines()[0] == line
    assert "pydantic" not in text
