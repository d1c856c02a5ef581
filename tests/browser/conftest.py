from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.browser.host import Answer, Host, Site, chromium, fetched, launch_options, serving

# Milliseconds until something that was to come is missed: these machines are shared and slow at times.
expect.set_options(timeout=60_000)

Open: TypeAlias = Callable[..., AbstractAsyncContextManager[Host]]
Shot: TypeAlias = Callable[[Page, str], Awaitable[None]]


@pytest.fixture(scope="package")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="package")
async def browser() -> AsyncIterator[Browser]:
    """One for this folder, which is a package for that: to start it takes as long as three tests."""
    if chromium() is None:
        pytest.skip("chromium is not installed")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(**launch_options())
        yield browser
        await browser.close()


@pytest.fixture(scope="package")
async def site(browser: Browser) -> AsyncIterator[Site]:
    if isinstance(packages := fetched(), str):
        pytest.skip(packages)
    async with serving(browser, packages) as site:
        yield site


@pytest.fixture
def hosting(site: Site) -> Open:
    return site.hosting


@pytest.fixture
def shot() -> Shot:
    """Keeps a picture of a page under a name, where `FLUX2_TESTS_SCREENSHOTS` names a folder: for who wants to look."""
    folder = os.environ.get("FLUX2_TESTS_SCREENSHOTS")

    async def taken(page: Page, name: str) -> None:
        if folder:
            await page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled")

    return taken


async def nothing(_: dict[str, Any]) -> dict[str, Any]:
    return {}


@pytest.fixture
def answers() -> dict[str, Answer]:
    """A host that takes everything and gives nothing; a test puts its own answers in."""
    return dict.fromkeys(("tool", "resource", "message", "link", "context"), nothing)
