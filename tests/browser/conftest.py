from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from playwright.async_api import async_playwright, expect

from tests.browser.host import Answer, Host, Site, chromium, fetched, launch_options, serving

# Milliseconds until something that was to come is missed: these machines are shared and slow at times.
expect.set_options(timeout=20_000)

Open: TypeAlias = Callable[..., AbstractAsyncContextManager[Host]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    if chromium() is None:
        pytest.skip("chromium is not installed")
    if isinstance(packages := fetched(), str):
        pytest.skip(packages)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(**launch_options())
        async with serving(browser, packages) as site:
            yield site
        await browser.close()


@pytest.fixture
def hosting(site: Site) -> Open:
    return site.hosting


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """The folder for pictures of what was seen: `FLUX2_TESTS_SCREENSHOTS`, for who wants to look at them."""
    folder = Path(os.environ.get("FLUX2_TESTS_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


async def nothing(_: dict[str, Any]) -> dict[str, Any]:
    return {}


@pytest.fixture
def answers() -> dict[str, Answer]:
    """A host that takes everything and gives nothing; a test puts its own answers in."""
    return dict.fromkeys(("tool", "resource", "message", "link", "context"), nothing)
