"""What a model is told by a server for a team: what works there, and nothing of a folder that caller and server share."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client

from flux2_mcp.engine.remote_files import RemoteFiles
from flux2_mcp.server import prompts
from flux2_mcp.server.app import build
from flux2_mcp.server.team.texts import LEFT_OUT, PHRASES
from flux2_mcp.settings import Settings
from tests.server.conftest import BOTH_ERAS

pytestmark = pytest.mark.anyio

BASE = "https://flux2.example.com"
SNAPSHOT = Path(__file__).parents[1] / "snapshots" / "team" / "lists.json"
OF_A_LAPTOP = re.compile(
    r"\b(disk|paths?|workspace|files? land|this machine|save_to|overwrite|manifest|FLUX2_\w+)\b", re.IGNORECASE
)
"""What is said to callers who share a folder with the server."""


async def told(settings: Settings, remote: str | None, era: str = "auto") -> dict[str, Any]:
    """All that a model reads before its first call."""
    async with Client(build(settings, remote=remote), mode=era) as client:
        tools = (await client.list_tools()).tools
        listed = (await client.list_prompts()).prompts
        return {
            "instructions": client.instructions,
            "tools": [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools],
            "prompts": [prompt.model_dump(mode="json", by_alias=True, exclude_none=True) for prompt in listed],
        }


@BOTH_ERAS
async def test_a_server_for_a_team_says_what_its_snapshot_says(sandbox_settings: Settings, era: str) -> None:
    """Written anew with FLUX2_SNAPSHOTS=write; the difference is reviewed like code."""
    found = await told(sandbox_settings, BASE, era)
    if os.environ.get("FLUX2_SNAPSHOTS") == "write":
        SNAPSHOT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    assert found == json.loads(SNAPSHOT.read_text("utf-8"))


async def test_nothing_of_a_shared_folder_is_named_and_what_works_there_is(sandbox_settings: Settings) -> None:
    found = await told(sandbox_settings, BASE)
    seen = [found["instructions"], *(json.dumps([tool["description"], tool["inputSchema"]]) for tool in found["tools"])]
    seen += [json.dumps(each["arguments"]) for each in found["prompts"]]
    assert [OF_A_LAPTOP.findall(text) for text in seen] == [[] for _ in seen]
    for needed in ("upload:ID", f"{BASE}/uploads", "curl -o", f"login --team {BASE}", "an hour"):
        assert needed in found["instructions"]
    assert "upload:ID" in json.dumps(found["tools"])
    assert len(found["instructions"].encode()) < 1200
    # An answer has no path here, but the schema may have it: the answers of all servers have one schema.
    assert "save_to" not in json.dumps(found)


async def test_each_phrase_stands_in_what_a_server_on_ones_own_machine_says(sandbox_settings: Settings) -> None:
    """A phrase that is changed there would stay here as it was on a laptop."""
    own = await told(sandbox_settings, None)
    texts = json.dumps(own, ensure_ascii=False) + json.dumps(prompts.LAST_STEP + prompts.COMPARE, ensure_ascii=False)
    assert [usual for usual, _ in PHRASES if json.dumps(usual, ensure_ascii=False)[1:-1] not in texts] == []
    arguments = {tool["name"]: set(tool["inputSchema"]["properties"]) for tool in own["tools"]}
    assert {name: left_out - arguments[name] for name, left_out in LEFT_OUT.items()} == {
        name: set() for name in LEFT_OUT
    }


async def test_prompts_ask_for_links_and_leave_what_the_user_wrote(sandbox_settings: Settings) -> None:
    words = "Files land on disk. Then open each file, a sign says"
    async with Client(build(sandbox_settings, remote=BASE)) as client:
        one = await client.get_prompt("generate", {"prompt": words})
        several = await client.get_prompt("compare_variants", {"prompt": words})
    for text in (one.messages[0].content.model_dump()["text"], several.messages[0].content.model_dump()["text"]):
        assert words in text
        assert "give the user the image's link and what was charged" in text
        assert "the file's path" not in text
    assert "Then open each image, or say" in several.messages[0].content.model_dump()["text"]


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("check_task", {"file": "/home/ada/a b.png"}, "flux2-mcp tasks --file '/home/ada/a b.png'"),
        (
            "check_task",
            {"workspace": "."},
            "workspace: is a folder, and this server is on another machine. Leave it out",
        ),
        ("check_task", {"workspace": "/home/ada"}, "look by query, since or status"),
        ("check_pricing", {"manifest": "flux2.toml"}, "flux2-mcp login --team URL"),
        ("generate", {"prompt": "a fox", "save_to": "a.png", "overwrite": True}, "curl -o a.png URL"),
        (
            "generate",
            {"prompt": "a fox", "saveto": "a.png"},
            "saveto: no such argument; this tool has: prompt, variant,",
        ),
    ],
)
async def test_what_is_left_out_is_refused_with_what_does_it(
    sandbox_settings: Settings, tool: str, arguments: dict[str, object], says: str
) -> None:
    from msgspec.structs import replace

    server = build(sandbox_settings, seam=lambda usual: replace(usual, remote=RemoteFiles(BASE)), remote=BASE)
    async with Client(server) as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    text = result.content[0].model_dump()["text"]
    assert says in text
    assert "FLUX2_" not in text
    assert "overwrite," not in text
