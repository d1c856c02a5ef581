"""Small pictures and links in a result: as large as their number allows, as many as are told, to what is the user's own."""

from __future__ import annotations

import base64
import io
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import pytest
from mcp.client.client import Client
from mcp_types import CallToolResult, ImageContent, ResourceLink, TextContent
from PIL import Image

from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.domain.models import StoredImage
from flux2_mcp.engine.backend import account_name
from flux2_mcp.journal.records import TaskChange
from flux2_mcp.server.app import build
from flux2_mcp.settings import Settings
from tests.support.journals import intent, new, opened

pytestmark = pytest.mark.anyio


URL = "https://cdn.example/red.png"


async def delivered(
    settings: Settings, folder: Path, count: int, saved: str | None = None, size_bytes: int = 1
) -> list[Path]:
    """So many tasks with the ids `task-0` and so on, each with an image of 600 x 600 pixels, and a copy where one is named."""
    files = [folder / f"{number}.png" for number in range(count)]
    async with opened(settings.home) as home:
        journal, at = home.journal(account=account_name(settings)), datetime.now(UTC)
        for number, file in enumerate(files):
            Image.new("RGB", (600, 600), "red").save(file)
            image = StoredImage(
                path=str(file),
                mime_type="image/png",
                width=600,
                height=600,
                size_bytes=size_bytes,
                sha256="0",
                saved=saved,
            )
            (entry,) = await new(journal, intent(f"k{number}"), at=at)
            entry = await journal.tasks.apply(entry, Event.ACCEPTED, TaskChange(at=at, task_id=f"task-{number}"))
            entry = await journal.tasks.apply(entry, Event.COMPLETED, TaskChange(at=at, image_urls=(URL,)))
            await journal.tasks.apply(entry, Event.DELIVERED, TaskChange(at=at, images=(image,)))
    return files


async def checked(settings: Settings, count: int) -> CallToolResult:
    async with Client(build(settings)) as client:
        return await client.call_tool("check_task", {"task_ids": [f"task-{number}" for number in range(count)]})


def sides(result: CallToolResult) -> list[int]:
    pictures = [block for block in result.content if isinstance(block, ImageContent)]
    return [max(Image.open(io.BytesIO(base64.b64decode(picture.data))).size) for picture in pictures]


def words(result: CallToolResult) -> str:
    return next(block.text for block in result.content if isinstance(block, TextContent))


async def test_two_images_are_shown_larger_than_three(sandbox_settings: Settings, tmp_path: Path) -> None:
    await delivered(sandbox_settings, tmp_path, 3)
    assert [sides(await checked(sandbox_settings, count)) for count in (1, 2, 3)] == [[512], [512, 512], [320] * 3]


async def test_no_picture_is_said_to_come_of_a_file_that_is_gone(sandbox_settings: Settings, tmp_path: Path) -> None:
    first, second = await delivered(sandbox_settings, tmp_path, 2)
    first.unlink()
    one = await checked(sandbox_settings, 2)
    assert (len(sides(one)), "Small previews attached: 1." in words(one)) == (1, True)
    second.unlink()
    none = await checked(sandbox_settings, 2)
    assert (sides(none), "previews attached" in words(none), "No picture is attached" in words(none)) == (
        [],
        False,
        True,
    )


@pytest.mark.parametrize("there", ["a copy", "the file", "nothing"])
async def test_an_image_has_one_link_to_the_file_that_is_there(
    sandbox_settings: Settings, tmp_path: Path, there: str
) -> None:
    copy = tmp_path / "hero.png"
    (file,) = await delivered(sandbox_settings, tmp_path, 1, saved=str(copy))
    if there == "a copy":
        copy.write_bytes(file.read_bytes())
    elif there == "nothing":
        file.unlink()
    result = await checked(sandbox_settings, 1)
    links = [block for block in result.content if isinstance(block, ResourceLink)]
    expected = {"a copy": copy.as_uri(), "the file": file.as_uri(), "nothing": "flux2://images/task-0"}
    assert [str(link.uri) for link in links] == [expected[there]]
    assert isinstance(result.structured_content, dict)
    [[image]] = [task["images"] for task in result.structured_content["tasks"]]
    assert ("url" in image, "expires_at" in image) == (there == "nothing", there == "nothing")


async def test_no_disk_is_asked_in_the_event_loop_for_the_files_of_an_answer(
    sandbox_settings: Settings, tmp_path: Path
) -> None:
    (file,) = await delivered(sandbox_settings, tmp_path, 1)
    asked: list[str] = []

    def look(frame: FrameType, event: str, called: object) -> None:
        if event == "c_call" and called is os.stat:
            asked.extend(str(value) for value in frame.f_locals.values())

    sys.setprofile(look)  # of this thread, which is the event loop's
    try:
        await checked(sandbox_settings, 1)
    finally:
        sys.setprofile(None)
    assert str(file) not in asked


async def test_all_previews_of_a_result_together_take_at_most_60_kb(sandbox_settings: Settings, tmp_path: Path) -> None:
    files = await delivered(sandbox_settings, tmp_path, 8)
    for number, file in enumerate(files):  # noise packs worst
        Image.effect_noise((600, 600), 100 + number).convert("RGB").save(file)
    result = await checked(sandbox_settings, 8)
    pictures = [block for block in result.content if isinstance(block, ImageContent)]
    assert len(pictures) == 8
    assert sum(len(picture.data) for picture in pictures) <= 60_000
