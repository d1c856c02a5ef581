"""The gallery over the real server: sandbox, journal, tools and resources, as a host wires them."""

from __future__ import annotations

from typing import Any

import pytest
from mcp.client.client import Client
from playwright.async_api import expect

from flux2_mcp.app import build
from flux2_mcp.context import gallery
from flux2_mcp.settings import Settings
from tests.browser.canned import TIMES
from tests.browser.conftest import Open
from tests.browser.host import Answer
from tests.conftest import SEED_PROMPT

pytestmark = pytest.mark.anyio


async def test_a_real_call_is_shown_varied_and_upscaled(
    hosting: Open, answers: dict[str, Answer], sandbox_settings: Settings
) -> None:
    async with Client(build(sandbox_settings)) as client:

        async def tool(params: dict[str, Any]) -> dict[str, Any]:
            result = await client.call_tool(params["name"], params["arguments"])
            return result.model_dump(mode="json", by_alias=True, exclude_none=True)

        async def resource(params: dict[str, Any]) -> dict[str, Any]:
            result = await client.read_resource(params["uri"])
            return result.model_dump(mode="json", by_alias=True, exclude_none=True)

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
        asked = {"prompt": SEED_PROMPT, "aspect_ratio": "4:3", "count": 2}
        first = await tool({"name": "generate", "arguments": asked})
        async with hosting(answers | {"tool": tool, "resource": resource}) as host:
            await host.open()
            await host.input(**asked)
            await host.result(first)
            seen = host.view.locator(".pic.has")
            await expect(seen).to_have_count(2, timeout=20_000)
            await host.view.get_by_role("button", name="One more like this, $0.05").first.click()
            await host.view.get_by_role("button", name="Vary for $0.05").click()
            await expect(seen).to_have_count(3, timeout=20_000)
            await host.view.get_by_role("button", name="Upscale to 2k").last.click()
            await host.view.get_by_role("button", name="Upscale for $0.07").click()
            await expect(host.view.get_by_text(f"2304 {TIMES} 1728")).to_be_visible(timeout=20_000)
            await expect(host.view.locator("#sum")).to_have_text("4 images · $0.22")
            assert host.wrong == []
