from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from mcp.client.client import Client

from flux2_mcp.server.app import build
from flux2_mcp.settings import Settings

ERAS = ("legacy", "auto")  # 2025-11-25 by initialize, 2026-07-28 by server/discover
BOTH_ERAS = pytest.mark.parametrize("era", ERAS, indirect=True)
"""For tests of what one era may do unlike the other. All others meet one era, and both in `make test-deep`."""


@pytest.fixture(params=["auto", pytest.param("legacy", marks=pytest.mark.deep)])
def era(request: pytest.FixtureRequest) -> str:
    era: str = request.param
    return era


@pytest.fixture
async def client(sandbox_settings: Settings, era: str) -> AsyncIterator[Client]:
    async with Client(build(sandbox_settings), mode=era) as client:
        yield client
