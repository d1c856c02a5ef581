"""What reaches which client: each host loses another part of a result, so each is given the form it keeps."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

import anyio
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    BlobResourceContents,
    CallToolResult,
    ImageContent,
    Implementation,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from PIL import Image

from flux2_mcp.engine.backend import account_name
from flux2_mcp.server import clients, listing
from flux2_mcp.server.app import build
from flux2_mcp.server.docs import uris
from flux2_mcp.settings import Settings
from tests.server.conftest import BOTH_ERAS, ERAS
from tests.support.journals import failed
from tests.support.rows import each_row

pytestmark = pytest.mark.anyio

# The names that the hosts' clients give themselves, and one that nobody knows.
NAMES = [
    "claude-code",
    "codex-mcp-client",
    "gemini-cli-mcp-client",
    "opencode",
    "github-copilot-cli",
    "flux2-mcp-gallery",
    "somebody-new",
]


async def generated(settings: Settings, name: str, era: str, **arguments: object) -> CallToolResult:
    info = Implementation(name=name, version="1")
    with anyio.fail_after(60):
        async with Client(build(settings), mode=era, client_info=info) as client:
            return await client.call_tool("generate", {"prompt": "a red fox in snow"} | arguments)


async def one_image(
    settings: Settings, names: Sequence[str], **arguments: object
) -> AsyncIterator[tuple[str, CallToolResult]]:
    """The result for each client, in one era or the other; all of one image, as their calls have one key."""
    for name, era in zip(names, itertools.cycle(ERAS), strict=False):
        yield name, await generated(settings, name, era, idempotency_key="fox", **arguments)


def blocks(result: CallToolResult, kind: type) -> list[Any]:
    return [block for block in result.content if isinstance(block, kind)]


async def test_each_client_gets_the_form_it_keeps(sandbox_settings: Settings) -> None:
    with each_row() as this:
        async for name, result in one_image(sandbox_settings, NAMES):
            with this(name):
                row = clients.client(name)
                texts = [block.text for block in blocks(result, TextContent)]
                facts = result.structured_content if row.structured else json.loads(texts[0])
                assert isinstance(facts, dict)
                image = facts["tasks"][0]["images"][0]
                if row.structured:  # the words say the same once more, for those that show nothing else
                    (words,) = texts
                    for fact in (image["path"], "a red fox in snow", "completed", "0.05"):
                        assert fact in words
                else:
                    assert result.structured_content is None
                    assert image["path"] not in texts[1]
                said = "\n".join(texts)
                types = [picture.mime_type for picture in blocks(result, ImageContent)]
                assert types == ([] if row.preview is None else [f"image/{row.preview.lower()}"])
                assert ("Small previews attached: 1." in said) is (row.preview is not None)
                assert ("No picture is attached" in said) is (row.preview is None)
                whole = Path(image["path"])
                links = [link.uri for link in blocks(result, ResourceLink)]
                assert links == ([whole.as_uri()] if row.links else [])
                for link in links:
                    leads_to = Path(url2pathname(link.removeprefix("file://")))
                    assert leads_to.stat().st_size == whole.stat().st_size


async def test_a_client_that_structured_content_misleads_is_shown_no_output_schema(
    sandbox_settings: Settings,
) -> None:
    for name, era in itertools.product(NAMES, ERAS):
        async with Client(
            build(sandbox_settings), mode=era, client_info=Implementation(name=name, version="1")
        ) as client:
            tools = (await client.list_tools()).tools
        assert all((tool.output_schema is not None) is clients.client(name).structured for tool in tools)


async def test_a_preview_is_small_and_an_original_never_travels(sandbox_settings: Settings) -> None:
    kinds = {"claude-code": "WEBP", "somebody-new": "JPEG"}
    async for name, result in one_image(sandbox_settings, list(kinds)):
        (preview,) = blocks(result, ImageContent)
        facts = result.structured_content
        assert isinstance(facts, dict)
        assert facts["tasks"][0]["images"][0]["width"] == 1024
        data = base64.b64decode(preview.data)
        with Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, max(picture.size)) == (kinds[name], 512)
        assert preview.mime_type == f"image/{kinds[name].lower()}"
    async for _, result in one_image(sandbox_settings, list(kinds), preview=False):
        assert blocks(result, ImageContent) == []


async def test_a_typical_result_is_short(sandbox_settings: Settings) -> None:
    result = await generated(sandbox_settings, "claude-code", "auto", preview=False)
    assert len(json.dumps(result.structured_content, separators=(",", ":")).encode()) <= 1500


@BOTH_ERAS
async def test_what_was_made_is_listed_and_read_as_resources(client: Client) -> None:
    made = await client.call_tool("generate", {"prompt": "a red fox in snow"})
    assert isinstance(made.structured_content, dict)
    task = made.structured_content["tasks"][0]
    listed = (await client.list_resources()).resources
    assert [resource.uri for resource in listed if not resource.uri.startswith(uris.DOCS)] == [
        "flux2://tasks",
        f"flux2://tasks/{task['task_id']}",
        f"flux2://images/{task['task_id']}",
    ]
    (one,) = (await client.read_resource(f"flux2://tasks/{task['task_id']}")).contents
    assert isinstance(one, TextResourceContents)
    assert json.loads(one.text) == task
    (every,) = (await client.read_resource("flux2://tasks")).contents
    assert isinstance(every, TextResourceContents)
    assert json.loads(every.text) == [task]
    (whole,) = (await client.read_resource(f"flux2://images/{task['task_id']}")).contents
    assert isinstance(whole, BlobResourceContents)
    assert whole.mime_type == "image/png"
    assert base64.b64decode(whole.blob) == Path(task["images"][0]["path"]).read_bytes()
    (small,) = (await client.read_resource(f"flux2://images/{task['task_id']}?max=100")).contents
    assert isinstance(small, BlobResourceContents)
    with Image.open(io.BytesIO(base64.b64decode(small.blob))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (100, 100))


async def test_a_resource_that_is_not_there_is_not_found(client: Client) -> None:
    for uri in ("flux2://tasks/none", "flux2://images/none", "flux2://elsewhere", "other://tasks"):
        with pytest.raises(MCPError) as caught:
            await client.read_resource(uri)
        assert caught.value.error.code == INVALID_PARAMS, uri


async def test_resources_come_in_pages_newest_first(client: Client, sandbox_settings: Settings) -> None:
    ids = await failed(sandbox_settings.home, account_name(sandbox_settings), listing.PAGE_TASKS + 1)
    first = await client.list_resources()
    second = await client.list_resources(cursor=first.next_cursor)
    assert [resource.uri for resource in first.resources][-len(ids) :] == [
        "flux2://tasks",
        *(f"flux2://tasks/{ident}" for ident in reversed(ids[1:])),
    ]
    assert ([resource.uri for resource in second.resources], second.next_cursor) == ([f"flux2://tasks/{ids[0]}"], None)


async def test_an_image_that_is_not_ready_or_a_wrong_size_is_told(client: Client) -> None:
    made = await client.call_tool("generate", {"prompt": "a red fox [sandbox:stuck]", "wait_seconds": 0})
    assert isinstance(made.structured_content, dict)
    task_id = made.structured_content["tasks"][0]["task_id"]
    with pytest.raises(MCPError, match="its image is not on disk"):
        await client.read_resource(f"flux2://images/{task_id}")
    done = await client.call_tool("generate", {"prompt": "a red fox in snow"})
    assert isinstance(done.structured_content, dict)
    done_id = done.structured_content["tasks"][0]["task_id"]
    with pytest.raises(MCPError, match="max: must be a number of pixels"):
        await client.read_resource(f"flux2://images/{done_id}?max=huge")
