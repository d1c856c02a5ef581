"""Resources of tasks and images: their list page by page, and what may be asked of an image."""

from __future__ import annotations

import base64
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from PIL import Image

from flux2_mcp.domain import catalog
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.domain.models import StoredImage
from flux2_mcp.engine.backend import account_name
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import Flux2Error, InvalidRequestError
from flux2_mcp.images import thumbnails
from flux2_mcp.journal.records import TaskChange
from flux2_mcp.server import listing, resources
from flux2_mcp.server.results.tasks import stamp
from flux2_mcp.server.session import ServerSession
from flux2_mcp.settings import Settings
from tests.support.journals import AT, apply, failed, intent, new, opened, steps

pytestmark = pytest.mark.anyio


@pytest.fixture
async def service(sandbox_settings: Settings) -> AsyncIterator[Service]:
    """One that knows a page of tasks and one more, which all have failed."""
    await failed(sandbox_settings.home, account_name(sandbox_settings), listing.PAGE_TASKS + 1)
    async with Service.opened(sandbox_settings) as service:
        yield service


async def test_the_cursor_of_a_full_page_leads_to_the_rest_and_no_invented_one_leads_anywhere(service: Service) -> None:
    first = await resources.listed(service, None)
    assert first.next_cursor is not None
    second = await resources.listed(service, first.next_cursor)
    uris = [resource.uri for page in (first, second) for resource in page.resources if "/task-" in str(resource.uri)]
    assert uris == [f"flux2://tasks/task-k{number}" for number in reversed(range(listing.PAGE_TASKS + 1))]
    assert second.next_cursor is None
    for invented in ("no such key", "task-k1", ""):
        with pytest.raises(InvalidRequestError, match="is none that a page gave"):
            await resources.listed(service, base64.urlsafe_b64encode(invented.encode()).decode())


async def test_an_image_too_large_for_a_message_is_named_and_not_sent(
    sandbox_settings: Settings, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 48), "red").save(picture := tmp_path / "1.png")
    sizes = (resources.MAX_WHOLE_BYTES, resources.MAX_WHOLE_BYTES + 1)
    async with opened(sandbox_settings.home) as home:
        journal = home.journal(account=account_name(sandbox_settings))
        for number, size in enumerate(sizes):
            image = StoredImage(
                path=str(picture), mime_type="image/png", width=64, height=48, size_bytes=size, sha256="0"
            )
            await new(journal, intent(f"k{number}"))
            await steps(journal, f"k{number}", Event.ACCEPTED, Event.COMPLETED)
            await apply(journal, f"k{number}", Event.DELIVERED, TaskChange(at=AT, images=(image,)))
    async with Service.opened(sandbox_settings) as service:
        assert await resources.read(ServerSession(service), "flux2://images/task-k0")
        with pytest.raises(Flux2Error, match=f"The image has 64 MB, .* Its file is {picture}"):
            await resources.read(ServerSession(service), "flux2://images/task-k1")
        assert await resources.read(ServerSession(service), "flux2://images/task-k1?max=64")


async def test_a_task_stands_in_the_list_under_a_short_title_with_the_time_of_its_end(
    sandbox_settings: Settings, tmp_path: Path
) -> None:
    picture = tmp_path / "1.png"
    Image.new("RGB", (64, 48), "red").save(picture)
    image = StoredImage(path=str(picture), mime_type="image/png", width=64, height=48, size_bytes=9, sha256="0")
    async with opened(sandbox_settings.home) as home:
        journal = home.journal(account=account_name(sandbox_settings))
        await new(journal, intent("k", catalog.request(prompt="a red\n fox " * 20)))
        await steps(journal, "k", Event.ACCEPTED)
        done = AT + timedelta(hours=1)
        await apply(journal, "k", Event.COMPLETED, TaskChange(at=done))
        await apply(journal, "k", Event.DELIVERED, TaskChange(at=done + timedelta(hours=1), images=(image,)))
    async with Service.opened(sandbox_settings) as service:
        listed = (await resources.listed(service, None)).resources[-2:]
        assert [str(one.uri) for one in listed] == ["flux2://tasks/task-k", "flux2://images/task-k"]
        assert {one.title for one in listed} == {("a red fox " * 20)[:60]}
        assert {one.annotations and one.annotations.last_modified for one in listed} == {stamp(done)}
        # What the gallery asks of each image is made once.
        small = f"flux2://images/task-k?max={thumbnails.SIDE_PX}"
        first = await resources.read(ServerSession(service), small)
        (kept,) = (sandbox_settings.home / thumbnails.FOLDER).iterdir()
        assert first is not None
        assert first.content == kept.read_bytes()
        Image.new("RGB", (8, 8), "blue").save(kept, "JPEG")
        second = await resources.read(ServerSession(service), small)
        assert second is not None
        assert second.content == kept.read_bytes() != first.content
        for right in ("1", "2048"):
            assert await resources.read(ServerSession(service), f"flux2://images/task-k?max={right}")
        for wrong in ("0", "2049", "-1", "1.5", "much"):
            with pytest.raises(InvalidRequestError, match="from 1 to 2048"):
                await resources.read(ServerSession(service), f"flux2://images/task-k?max={wrong}")
        if sys.platform != "win32":  # links need a right there
            picture.unlink()
            picture.symlink_to(kept)
            for uri in ("flux2://images/task-k", "flux2://images/task-k?max=64"):
                with pytest.raises(Flux2Error, match="The image's file is gone"):
                    await resources.read(ServerSession(service), uri)
