from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.journals import HOMES, Home


@pytest.fixture(params=sorted(HOMES))
async def home(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Home]:
    """A home of each implementation in turn. What is one implementation's own has a fixture of its own."""
    async with HOMES[request.param](tmp_path / "home") as home:
        yield home
