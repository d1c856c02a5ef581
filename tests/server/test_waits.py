"""How long a call waits: what it says itself, else the setting, else what its host bears."""

from __future__ import annotations

import anyio
import pytest
from mcp.client.client import Client
from msgspec.structs import replace

from flux2_mcp.server.app import build
from flux2_mcp.settings import Settings

pytestmark = pytest.mark.anyio

STUCK = {"prompt": "a red fox [sandbox:stuck]"}


async def returned(settings: Settings, **arguments: object) -> bool:
    """Whether a call for an image that never comes returns before any host's own wait is over."""
    with anyio.move_on_after(30):
        async with Client(build(settings)) as client:
            return not (await client.call_tool("generate", STUCK | arguments)).is_error
    return False


async def test_the_calls_own_wait_goes_before_the_setting(sandbox_settings: Settings) -> None:
    assert await returned(replace(sandbox_settings, wait_seconds=900.0), wait_seconds=0)


async def test_the_setting_goes_before_what_the_host_bears(sandbox_settings: Settings) -> None:
    assert await returned(replace(sandbox_settings, wait_seconds=0.0))
