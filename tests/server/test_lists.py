"""What is listed and what is advertised: the same each time, and only what there is."""

from __future__ import annotations

import base64
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CacheableResult, PromptReference
from pydantic import BaseModel

from flux2_mcp.server.docs import uris
from tests.server.conftest import BOTH_ERAS

pytestmark = pytest.mark.anyio

SNAPSHOTS = Path(__file__).parents[1] / "snapshots" / "lists"
LISTS = ["prompts", "resources", "templates"]


async def listed(client: Client, name: str, cursor: str | None = None) -> list[dict[str, Any]]:
    found: list[BaseModel]
    if name == "prompts":
        found = [*(await client.list_prompts(cursor=cursor)).prompts]
    elif name == "resources":
        found = [*(await client.list_resources(cursor=cursor)).resources]
    elif name == "templates":
        found = [*(await client.list_resource_templates(cursor=cursor)).resource_templates]
    else:
        found = [*(await client.list_tools(cursor=cursor)).tools]
    return [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in found]


@BOTH_ERAS
@pytest.mark.parametrize("name", LISTS)
async def test_a_list_looks_as_its_snapshot_says(client: Client, name: str) -> None:
    """Written anew with FLUX2_SNAPSHOTS=write; the difference is reviewed like code."""
    found = await listed(client, name)
    file = SNAPSHOTS / f"{name}.json"
    if os.environ.get("FLUX2_SNAPSHOTS") == "write":
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    assert found == json.loads(file.read_text("utf-8"))


def test_there_is_no_snapshot_of_anything_else() -> None:
    assert sorted(path.name for path in SNAPSHOTS.iterdir()) == [f"{name}.json" for name in LISTS]


async def test_names_and_addresses_are_there_once(client: Client) -> None:
    for name in LISTS:
        found = await listed(client, name)
        for key in ("name", "uri", "uriTemplate"):
            values = [one[key] for one in found if key in one]
            assert len(values) == len(set(values))


@BOTH_ERAS
async def test_what_is_advertised_is_what_there_is(client: Client) -> None:
    capabilities = client.server_capabilities
    assert capabilities is not None
    told = capabilities.model_dump(mode="json", by_alias=True, exclude_none=True)
    # Extensions came with the modern era.
    assert set(told) - {"extensions"} == {"tools", "prompts", "resources", "completions"}
    # Nobody is told of changes, since the lists never change and tasks are asked for.
    assert told["prompts"] == told["tools"] == {"listChanged": False}
    assert told["resources"] == {"subscribe": False, "listChanged": False}
    assert told["completions"] == {}
    assert await listed(client, "prompts")
    assert await listed(client, "resources")
    found = await client.complete(PromptReference(name="generate"), {"name": "variant", "value": ""})
    assert found.completion.values


@BOTH_ERAS
async def test_a_cursor_that_no_page_gave_is_refused(client: Client) -> None:
    cursors = ["", "nonsense!", "1", base64.b64encode(b"no such key").decode()]
    for name, cursor in itertools.product([*LISTS, "tools"], cursors):
        with pytest.raises(MCPError) as caught:
            await listed(client, name, cursor)
        assert caught.value.error.code == INVALID_PARAMS
        assert caught.value.error.message == "cursor: is none that a page gave."


async def test_a_tasks_id_is_no_cursor(client: Client) -> None:
    made = await client.call_tool("generate", {"prompt": "a red fox [sandbox:stuck]", "wait_seconds": 0})
    assert isinstance(made.structured_content, dict)
    task_id = made.structured_content["tasks"][0]["task_id"]
    with pytest.raises(MCPError, match="cursor: is none that a page gave"):
        await listed(client, "resources", base64.urlsafe_b64encode(task_id.encode()).decode())


@BOTH_ERAS
async def test_what_never_changes_may_be_kept_for_an_hour_and_what_was_made_may_not(client: Client, era: str) -> None:
    results: list[CacheableResult] = [
        await client.list_prompts(),
        await client.list_resource_templates(),
        await client.read_resource(uris.API),
        await client.list_resources(),
        await client.read_resource("flux2://tasks"),
    ]
    kept, never = (3_600_000, "public"), (0, "private")
    # Hints came with the modern era.
    told = [kept, kept, kept, never, never] if era == "auto" else [never] * 5
    assert [(result.ttl_ms, result.cache_scope) for result in results] == told
