"""What a user calls a picture stays on the machine: RunAPI is told the picture, and a name made from its content."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image

from flux2_mcp.service import Service
from tests.unit.services import Front, fronted, opened

pytestmark = pytest.mark.anyio


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


@pytest.fixture
async def service(front: Front, tmp_path: Path) -> AsyncIterator[Service]:
    async with opened(front.settings(tmp_path, workspace=str(tmp_path))) as service:
        yield service


async def test_the_users_name_of_a_file_does_not_leave_the_machine(
    front: Front, service: Service, tmp_path: Path
) -> None:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(out, "JPEG")
    (tmp_path / "Anna's scan.jpg").write_bytes(out.getvalue())
    asked = await service.request(prompt="at night", source_images=["Anna's scan.jpg"], folders=[tmp_path])
    outcome = await service.generate(await service.offer(asked), approved=True, wait_seconds=0)
    names = [row["file_name"] for row in front.sandbox.state.database.read("SELECT file_name FROM upload")]
    assert [re.fullmatch(r"[0-9a-f]{12}\.jpg", name) is not None for name in names] == [True]
    assert outcome.tasks[0].entry.request.sources[0].given == "Anna's scan.jpg"
