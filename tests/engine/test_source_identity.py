"""By what a source is known: its content, its task or its whole address, and never by what the user calls it."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image

from flux2_mcp.domain.models import RequestArgs, UploadedFile
from flux2_mcp.engine.backend import account_name
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.waiting import TaskReport
from flux2_mcp.journal.sqlite.store import SqliteJournal
from tests.support.services import Front, fronted, opened

pytestmark = pytest.mark.anyio


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


@pytest.fixture
async def service(front: Front, tmp_path: Path) -> AsyncIterator[Service]:
    async with opened(front.settings(tmp_path, workspace=str(tmp_path))) as service:
        yield service


async def sent(service: Service, folder: Path, source: str, aspect_ratio: str | None = None) -> TaskReport:
    """A remix of a source that never ends, once RunAPI has taken it."""
    args = RequestArgs(prompt="at night [sandbox:stuck]", source_images=[source], aspect_ratio=aspect_ratio)
    asked = await service.request(args, folders=[folder])
    outcome = await service.generate(await service.offer(asked), approved=True, wait_seconds=0)
    return outcome.tasks[0]


def photo(path: Path) -> str:
    """A photo, and by what its content is known."""
    out = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(out, "JPEG")
    path.write_bytes(out.getvalue())
    return f"sha256:{hashlib.sha256(out.getvalue()).hexdigest()}"


async def test_the_users_name_of_a_file_does_not_leave_the_machine(
    front: Front, service: Service, tmp_path: Path
) -> None:
    photo(tmp_path / "Anna's scan.jpg")
    told = await sent(service, tmp_path, "Anna's scan.jpg")
    names = [row["file_name"] for row in front.sandbox.state.database.read("SELECT file_name FROM upload")]
    assert [re.fullmatch(r"[0-9a-f]{12}\.jpg", name) is not None for name in names] == [True]
    assert told.record.request.sources[0].given == "Anna's scan.jpg"


@pytest.mark.parametrize(("minutes", "uploads"), [(9, 1), (11, 0)])
async def test_an_upload_that_is_about_to_end_is_not_used_again(
    front: Front, service: Service, tmp_path: Path, minutes: int, uploads: int
) -> None:
    """RunAPI fetches a source when the turn of its task comes."""
    held = UploadedFile(
        file_name="a.jpg",
        url=f"{front.base_url}/files/held.jpg",
        size_bytes=1,
        mime_type="image/jpeg",
        expires_at=datetime.now(UTC) + timedelta(minutes=minutes),
    )
    identity, settings = photo(tmp_path / "a.jpg"), service.settings
    journal = SqliteJournal(settings.home, account_name(settings), "another-machine/1/another")
    await journal.uploads.add(identity, held)
    await journal.close()
    told = await sent(service, tmp_path, "a.jpg")
    assert front.count("POST /api/v1/files/prepare") == uploads
    assert (told.record.request.source_image_urls == (held.url,)) == (uploads == 0)


async def test_two_addresses_that_begin_alike_are_two_pictures(service: Service, tmp_path: Path) -> None:
    long = f"https://images.example/{'a' * 300}"
    first, other, same = [await sent(service, tmp_path, long + end) for end in ("/1.png", "/2.png", "/1.png")]
    assert first.record.key == same.record.key != other.record.key
    assert [len(told.record.request.sources[0].given) for told in (first, other)] == [200, 200]


async def test_an_earlier_result_is_known_by_its_task_and_its_size_is_what_auto_keeps(
    service: Service, tmp_path: Path
) -> None:
    asked = await service.request(RequestArgs(prompt="a red fox"))
    made = (await service.generate(await service.offer(asked), approved=True, wait_seconds=30)).tasks[0].record
    (image,) = made.images
    told = await sent(service, tmp_path, f"task:{made.task_id}", aspect_ratio="auto")
    (source,) = told.record.request.sources
    assert (source.identity, source.width, source.height) == (f"task:{made.task_id}", image.width, image.height)
    assert source.uploaded_bytes is None
