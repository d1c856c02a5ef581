"""The login in headless Chromium: the sandbox's page, the way back over loopback, and the page that ends it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from playwright.async_api import Browser, Page, expect

from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.system.logs import masked
from tests.browser.conftest import Shot
from tests.browser.host import fetched
from tests.support.terminal import Terminal, on_terminal

pytestmark = pytest.mark.anyio

Scheme = Literal["light", "dark"]


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page that hears of everything wrong: `wrong` must stay empty."""
    context = await browser.new_context(viewport={"width": 1000, "height": 720})
    page = await context.new_page()
    yield page
    await context.close()


def wrong(page: Page) -> list[str]:
    """Errors of the console and of scripts, as they come."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text))
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("dialog", lambda dialog: found.append(dialog.message))
    return found


@pytest.fixture
def runapi(tmp_path: Path) -> Any:  # noqa: ANN401  # a generator's
    with Sandbox(tmp_path / "elsewhere", speed=1000) as sandbox:
        yield sandbox


@pytest.fixture
def env(clean_env: dict[str, str], runapi: Sandbox) -> dict[str, str]:
    return clean_env | {"RUNAPI_BASE_URL": runapi.base_url, "TERM": "dumb"}


def address(terminal: Terminal) -> str:
    terminal.until("Ctrl-C stops.")
    found = re.search(r"http://\S+/cli/authorize\?\S+", terminal.seen)
    assert found
    return found[0]


def back(url: str, **query: str) -> str:
    """Where the browser of that address's login comes back to."""
    asked = parse_qs(urlsplit(url).query)
    return f"http://127.0.0.1:{asked['redirect_port'][0]}/callback?{urlencode({'state': asked['state'][0]} | query)}"


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.deep), "dark"])
async def test_who_allows_it_sees_the_same_code_and_ends_on_a_page_that_says_it_worked(
    scheme: Scheme, page: Page, env: dict[str, str], runapi: Sandbox, tmp_path: Path, shot: Shot
) -> None:
    await page.emulate_media(color_scheme=scheme)
    heard = wrong(page)
    with on_terminal(env, "login", "--no-browser") as terminal:
        url = address(terminal)
        await page.goto(url)
        code = (await page.locator(".code").text_content() or "").strip()
        assert f"    {code}\r\n" in terminal.seen
        await page.get_by_role("button", name="Allow").click()
        await expect(page.get_by_role("heading", name="You are logged in")).to_be_visible()
        assert terminal.end()[0] == 0
    await expect(page.locator("dd")).to_have_text(
        ["sandbox@example.invalid", re.compile(rf"Sandbox key for .* {re.escape(masked(runapi.api_key))}"), "$100.00"]
    )
    assert runapi.api_key not in await page.content()
    saved = json.loads((tmp_path / "user" / ".config" / "runapi" / "config.json").read_text("utf-8"))
    assert saved == {"api_key": runapi.api_key}
    background = await page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert background == {"light": "rgb(246, 244, 239)", "dark": "rgb(22, 22, 21)"}[scheme]  # the style sheet holds
    assert heard == []
    await shot(page, f"login-done-{scheme}")
    await can_be_read(page, width=320)


@pytest.mark.deep  # what else the page may say is held by the markup below; what is saved then, by tests/process/test_login.py
async def test_who_denies_it_is_told_that_nothing_was_done(
    page: Page, env: dict[str, str], tmp_path: Path, shot: Shot
) -> None:
    with on_terminal(env, "login", "--no-browser") as terminal:
        await page.goto(address(terminal))
        await page.get_by_role("button", name="Deny").click()
        await expect(page.get_by_role("heading", name="The login did not work")).to_be_visible()
        await expect(page.locator("main")).to_contain_text("The login was denied.")
        assert terminal.end() == (2, "")
    assert not (tmp_path / "user").exists()
    await shot(page, "login-denied")


async def test_markup_from_elsewhere_is_text_and_runs_nowhere(page: Page, env: dict[str, str]) -> None:
    heard = wrong(page)
    why = "</p><script>alert(1)</script><img src=x onerror=alert(2)><style>*{display:none}</style>"
    with on_terminal(env, "login", "--no-browser") as terminal:
        await page.goto(back(address(terminal), error="x", error_description=why))
        await expect(page.locator("main > p").first).to_have_text(f"RunAPI did not give leave: {why}")
        assert await page.locator("main script, main img, main style").count() == 0
        assert terminal.end() == (2, "")
    assert heard == []


@pytest.mark.deep  # tests/runapi/test_login_callback.py holds each answer to a stranger
async def test_a_stranger_is_told_and_the_login_goes_on(page: Page, env: dict[str, str]) -> None:
    with on_terminal(env, "login", "--no-browser") as terminal:
        url = address(terminal)
        await page.goto(back(url, code="c0de", state="another"))
        await expect(page.get_by_role("heading", name="This is not the login that is waited for")).to_be_visible()
        await page.goto(back(url, code="c0de").replace("/callback", "/"))
        await expect(page.get_by_role("heading", name="There is nothing here")).to_be_visible()
        await page.goto(url)
        await page.get_by_role("button", name="Allow").click()
        await expect(page.get_by_role("heading", name="You are logged in")).to_be_visible()
        assert terminal.end()[0] == 0


@pytest.mark.deep  # on a small one it is read above
async def test_the_page_can_be_read_by_everybody_on_a_large_screen(page: Page, env: dict[str, str]) -> None:
    with on_terminal(env, "login", "--no-browser") as terminal:
        await page.goto(address(terminal))
        await page.get_by_role("button", name="Allow").click()
        await expect(page.get_by_role("heading", name="You are logged in")).to_be_visible()
        assert terminal.end()[0] == 0
    await can_be_read(page, width=1000)


async def can_be_read(page: Page, *, width: int) -> None:
    """axe finds nothing in either scheme, and nothing is cut off."""
    if isinstance(packages := fetched(), str):
        pytest.skip(packages)
    await page.set_viewport_size({"width": width, "height": 600})
    await page.evaluate((packages / "axe-core" / "axe.min.js").read_text("utf-8"))
    # All rules once; another scheme changes nothing but colours.
    schemes: tuple[tuple[Scheme, str], ...] = (("light", ""), ("dark", ", runOnly: ['color-contrast']"))
    for scheme, rules in schemes:
        await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        report = await page.evaluate(f"axe.run(document, {{resultTypes: ['violations']{rules}}})")
        assert [violation["id"] for violation in report["violations"]] == []
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
