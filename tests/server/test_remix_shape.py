"""A remix is of something, and keeps its shape: what the model can't do is refused or said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client
from mcp_types import CallToolResult, TextContent
from msgspec.structs import replace
from PIL import Image

from flux2_mcp.domain import catalog
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.domain.models import SourceImage, StoredImage
from flux2_mcp.engine.waiting import Outcome, TaskReport
from flux2_mcp.images.size_check import SQUARE
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.server.app import build
from flux2_mcp.server.results import task_words
from flux2_mcp.server.results import tasks as task_results
from flux2_mcp.settings import Settings

pytestmark = pytest.mark.anyio

AT = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture
async def client(sandbox_settings: Settings) -> AsyncIterator[Client]:
    async with Client(build(sandbox_settings)) as client:
        yield client


async def called(client: Client, **arguments: object) -> CallToolResult:
    result = await client.call_tool("generate", {"prompt": "at night"} | arguments)
    assert isinstance(result, CallToolResult)
    return result


def bodies(settings: Settings) -> list[Any]:
    with Sandbox(settings.home / "sandbox") as runapi:
        return [task.body for task in runapi.tasks()]


async def test_a_remix_of_nothing_is_refused_by_name(client: Client, sandbox_settings: Settings) -> None:
    result = await called(client, source_images=[], prompt="x")
    assert result.is_error
    assert isinstance(result.content[0], TextContent)
    told = result.content[0].text.splitlines()
    assert [line.split(":")[0] for line in told[:2]] == ["prompt", "source_images"]  # all that is wrong, together
    assert told[1] == (
        "source_images: is empty: name what is to be remixed, or leave it out to make an image from the prompt alone."
    )
    assert told[2] == "Nothing was sent and nothing was charged."
    assert bodies(sandbox_settings) == []
    assert not (await called(client, source_images=None)).is_error


async def test_a_remix_without_a_ratio_keeps_the_shape_of_its_source(
    client: Client, sandbox_settings: Settings, tmp_path: Path
) -> None:
    Image.new("RGB", (600, 300), "lime").save(tmp_path / "wide.png")
    for variant, given, ratio in (("pro", {}, 2.0), ("flex", {}, 2.0), ("pro", {"aspect_ratio": "1:1"}, 1.0)):
        result = await called(client, source_images=["wide.png"], variant=variant, **given)
        assert isinstance(result.structured_content, dict)
        (image,) = result.structured_content["tasks"][0]["images"]
        assert image["width"] / image["height"] == pytest.approx(ratio, rel=0.03)
        assert (image["matches_request"], image.get("note")) == (True, None)
    assert [body["aspect_ratio"] for body in bodies(sandbox_settings)] == ["auto", "auto", "1:1"]
    refused = await called(client, source_images=["wide.png"], variant="max")
    assert refused.is_error  # max has no such ratio, and wants one
    assert not (await called(client, prompt="alone")).is_error
    assert "aspect_ratio" not in bodies(sandbox_settings)[-1]


def test_where_a_model_keeps_no_shape_the_result_says_that_it_became_square() -> None:
    wide = SourceImage(given="wide.png", identity="x", uploaded_bytes=9, width=600, height=300)
    request = catalog.request(prompt="at night", source_image_urls=["https://example.com/wide.png"])
    for asked, width, note in (
        (replace(request, sources=(wide,)), 1024, SQUARE),
        (request, 1024, SQUARE),
        (replace(request, sources=(replace(wide, width=300),)), 1024, None),
        (replace(request, aspect_ratio="1:1"), 1024, None),
        (catalog.request(prompt="at night"), 1024, None),
        (request, 512, None),  # it is not square, which is said already
    ):
        image = StoredImage(path="/i.png", mime_type="image/png", width=width, height=1024, size_bytes=9, sha256="0")
        entry = TaskRecord(
            key="k", task_id="t", account="a", state=State.DELIVERED, request=asked, workspace=None, client=None,
            session=None, push_url=None, save=None, quoted_usd=None, charged_usd=None, error=None,
            image_urls=("https://example.com/1.png",), images=(image,), created_at=AT, submitted_at=AT,
            completed_at=AT, delivered_at=AT, started=True, owner=None,
        )  # fmt: skip
        result = task_results.generation(Outcome(tasks=(TaskReport(entry),), sandbox=False))
        assert result.tasks[0].images[0].note == note
        assert (SQUARE in task_words.words(result)) == (note is not None)
