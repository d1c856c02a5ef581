"""The gallery over the real server: sandbox, journal, tools and resources, as a host wires them."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread
import pytest
from mcp.client.client import Client
from mcp.client.extension import advertise
from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID
from playwright.async_api import FrameLocator, Page, expect

from flux2_mcp.engine.project import Project
from flux2_mcp.server import gallery
from flux2_mcp.server.app import build
from flux2_mcp.server.viewer.app import opened
from flux2_mcp.settings import Settings, from_env
from tests.browser.conftest import Open, Shot
from tests.browser.host import Answer, Site, fetched, watch
from tests.conftest import SEED_PROMPT
from tests.support import forked
from tests.support.canned import TIMES
from tests.support.terminal import COMMAND, DEADLINE

pytestmark = pytest.mark.anyio


Scheme = Literal["light", "dark"]
APPS = advertise(EXTENSION_ID, {"mimeTypes": [APP_MIME_TYPE]})


async def test_a_host_that_shows_apps_is_told_of_the_gallery_and_given_its_page(sandbox_settings: Settings) -> None:
    async with Client(build(sandbox_settings), extensions=[APPS]) as client:
        listed = {each.name: each.meta for each in (await client.list_tools()).tools}
        assert {name for name, meta in listed.items() if meta is not None and "ui" in meta} == gallery.TOOLS
        assert all(listed[name] == gallery.tool_meta(name) for name in gallery.TOOLS)
        page = (await client.read_resource(gallery.URI)).contents[0].model_dump(by_alias=True)
        assert (page["mimeType"], page["text"]) == ("text/html;profile=mcp-app", gallery.html())
        assert page["_meta"]["ui"]["csp"] == {
            "connectDomains": [],
            "resourceDomains": [],
            "frameDomains": [],
            "baseUriDomains": [],
        }


@pytest.mark.deep  # the page that `flux2-mcp gallery` serves shows the same real server's images below
async def test_a_real_call_is_shown_varied_and_upscaled(
    hosting: Open, answers: dict[str, Answer], sandbox_settings: Settings
) -> None:
    async with Client(build(sandbox_settings), extensions=[APPS]) as client:

        async def tool(params: dict[str, Any]) -> dict[str, Any]:
            result = await client.call_tool(params["name"], params["arguments"])
            return result.model_dump(mode="json", by_alias=True, exclude_none=True)

        async def resource(params: dict[str, Any]) -> dict[str, Any]:
            result = await client.read_resource(params["uri"])
            return result.model_dump(mode="json", by_alias=True, exclude_none=True)

        asked = {"prompt": SEED_PROMPT, "aspect_ratio": "4:3"}
        first = await tool({"name": "generate", "arguments": asked})
        async with hosting(answers | {"tool": tool, "resource": resource}) as host:
            await host.open()
            await host.input(**asked)
            await host.result(first)
            seen = host.view.locator(".pic.has")
            await expect(seen).to_have_count(1)
            await host.view.get_by_role("button", name="Vary $0.05").first.click()
            await host.view.get_by_role("button", name="Vary for $0.05").click()
            await expect(seen).to_have_count(2)
            await host.view.get_by_role("button", name="Upscale to 2k").last.click()
            await host.view.get_by_role("button", name="Upscale for $0.07").click()
            await expect(host.view.get_by_text(f"2304 {TIMES} 1728")).to_be_visible()
            await expect(host.view.locator("#sum")).to_have_text("3 images · $0.17")
            assert host.wrong == []


# --- flux2-mcp gallery: the same gallery in a page of ours, as its user opens it -----------------------------------------


@dataclass
class Window:
    """The page that `flux2-mcp gallery` serves, opened with the URL that it printed."""

    page: Page
    wrong: list[str]

    @property
    def view(self) -> FrameLocator:
        return self.page.frame_locator("iframe")


@asynccontextmanager
async def window(site: Site, url: str, scheme: Scheme = "light") -> AsyncIterator[Window]:
    page = await site.context.new_page()
    shown = Window(page, [])
    watch(page, url.partition("?")[0], shown.wrong.append)
    await page.set_viewport_size({"width": 1280, "height": 860})
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    await page.goto(url)
    assert page.url == url.partition("?")[0]
    yield shown
    await page.close()


@asynccontextmanager
async def serving(env: Mapping[str, str]) -> AsyncIterator[tuple[subprocess.Popen[str], str]]:
    """The command, and the URL that it printed."""
    with forked.begin([*COMMAND, "gallery", "--no-open"], env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, (await anyio.to_thread.run_sync(process.stdout.readline)).strip()
        finally:
            process.terminate()
            await anyio.to_thread.run_sync(process.wait)


async def made(env: Mapping[str, str], *arguments: str) -> None:
    """Images from another process of the same user."""
    command = [*COMMAND, "generate", *arguments]
    done = await anyio.to_thread.run_sync(partial(forked.run, command, env, timeout=DEADLINE))
    assert done.returncode == 0


async def test_the_printed_url_shows_what_was_made_live_and_its_buttons_work(
    site: Site, clean_env: dict[str, str], shot: Shot
) -> None:
    async with Client(build(from_env(clean_env))) as client:
        await client.call_tool("generate", {"prompt": "A cat asleep in a bookshop window"})
    async with serving(clean_env) as (process, url), window(site, url) as shown:
        view, page = shown.view, shown.page
        pictures = view.locator(".pic.has")
        await expect(pictures).to_have_count(1)
        await shot(page, "window")
        # A theme that changes while it is open.
        body = view.locator("body")
        await expect(body).to_have_css("background-color", "rgb(255, 254, 251)")
        await page.emulate_media(color_scheme="dark")
        await expect(body).to_have_css("background-color", "rgb(28, 28, 27)")
        # A button that calls a tool, and one that reaches the clipboard from inside two sandboxes.
        await view.get_by_role("button", name="Vary $0.05").first.click()
        await view.get_by_role("button", name="Vary for $0.05").click()
        await expect(pictures).to_have_count(2)
        await view.get_by_role("button", name="Copy path").first.click()
        await expect(view.get_by_role("listitem").first).to_contain_text("Path copied")
        assert Path(await page.evaluate("navigator.clipboard.readText()")).is_file()
        # What another process makes comes by itself, in front.
        await made(clean_env, "Dunes at noon, one long shadow")
        await expect(pictures).to_have_count(3)
        await expect(view.get_by_role("listitem").first).to_contain_text("Dunes at noon, one long shadow")
        await shot(page, "window-dark")
        assert shown.wrong == []
        # Its end is said, not left to be guessed.
        process.terminate()
        await expect(page.get_by_role("alert")).to_contain_text("flux2-mcp gallery has ended")
        await shot(page, "window-ended")


@pytest.mark.deep  # test_nothing_made_yet_is_a_place_to_begin shows it with a host's answers
async def test_an_empty_journal_is_an_invitation(site: Site, sandbox_settings: Settings, shot: Shot) -> None:
    async with opened(sandbox_settings, port=0, limit=50) as guard, window(site, guard.url(), "dark") as shown:
        view = shown.view
        await expect(view.get_by_role("heading")).to_have_text("No images yet")
        await shot(shown.page, "window-empty")
        await view.get_by_role("button", name="Make an image").click()
        await view.get_by_role("textbox", name="What should it show?").fill("A lighthouse at dusk")
        await view.get_by_role("button", name="Make it for $0.05").click()
        await expect(view.locator(".pic.has")).to_have_count(1)
        await expect(view.get_by_role("heading")).to_have_text("A lighthouse at dusk")
        await shot(shown.page, "window-one")
        assert shown.wrong == []


PROJECT = """[style]
prompt = "flat illustration"

[images."public/hero.png"]
prompt = "[sandbox:instant] a lighthouse"
widths = [64]

[images."public/fox.png"]
prompt = "[sandbox:instant] a fox"

[images."public/fox-night.png"]
sources = ["public/fox.png"]
prompt = "[sandbox:instant] make it night"
"""


@pytest.mark.parametrize("schemes", [("light",), pytest.param(("dark", "light"), marks=pytest.mark.deep)])
async def test_the_plan_of_the_project_is_shown_and_made_after_asking(
    site: Site, sandbox_settings: Settings, shot: Shot, schemes: Sequence[Scheme]
) -> None:
    folder = Path(sandbox_settings.workspace or "")
    (folder / "flux2.toml").write_text(PROJECT, "utf-8")
    async with opened(sandbox_settings, port=0, limit=50) as guard:
        for scheme in schemes:
            async with window(site, guard.url(), scheme) as shown:
                plan = shown.view.get_by_role("region", name="flux2.toml")
                await expect(plan.locator("#plan-sum")).to_have_text("3 new · $0.15")
                await expect(plan.get_by_role("listitem")).to_have_count(3)
                await expect(plan.get_by_role("listitem").last).to_contain_text("from public/fox.png")
                await shot(shown.page, f"plan-{scheme}")
                await plan.get_by_role("button", name="Make them").click()
                go = shown.view.get_by_role("button", name="Make them for $0.15")
                await expect(go).to_be_enabled()
                await shot(shown.page, f"plan-asks-{scheme}")
                assert not (folder / "public").exists()  # nothing is made before the second button
                if scheme == "light":
                    await go.click()
                    await expect(shown.view.locator(".pic.has")).to_have_count(3)
                    await expect(plan).to_be_hidden()
                    await shot(shown.page, "plan-made")
                assert shown.wrong == []
    assert Project(folder).plan().done


@pytest.mark.deep  # with the gallery it speaks above
async def test_our_host_page_speaks_with_the_extensions_own_app(site: Site, sandbox_settings: Settings) -> None:
    packages = fetched()
    assert isinstance(packages, Path)
    library = (packages / "@modelcontextprotocol/ext-apps/dist/src/app-with-deps.js").read_bytes()
    source = f"data:text/javascript;base64,{base64.b64encode(library).decode()}"
    app = Path(__file__).with_name("app.html").read_text(encoding="utf-8").replace("LIBRARY", source)
    async with opened(sandbox_settings, port=0, limit=50) as guard, window(site, guard.url()) as shown:
        await shown.page.route("**/gallery", lambda route: route.fulfill(body=app, content_type="text/html"))
        await shown.page.reload()
        await expect(shown.view.locator("body[data-ready]")).to_be_attached()
        await shown.page.emulate_media(color_scheme="dark")
        await expect(shown.view.locator("pre")).not_to_be_empty()
        assert json.loads(await shown.view.locator("pre").text_content() or "") == {
            "host": "flux2-mcp-gallery",
            "can": ["openLinks", "serverResources", "serverTools"],
            "theme": "light",
            "input": {"limit": 50},
            "result": "none",
            "tool": 2,
            "refused": True,
            "unknown": "Unknown tool: rm",
            "resource": "[]",
            "link": "Only https addresses are opened.",
            "mode": "fullscreen",
            "message": "Method not found",
            "changed": "dark",
        }
