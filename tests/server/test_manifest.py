"""A project's manifest in the place of a prompt: its plan and price, its making, and how that stands."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp_types import CallToolResult, TextContent
from msgspec.structs import replace

from flux2_mcp.engine.project import Project
from flux2_mcp.server.app import build
from flux2_mcp.settings import Settings
from tests.server.test_confirmation import User, asking
from tests.support.services import until

pytestmark = pytest.mark.anyio

INSTANT = "[sandbox:instant] "
THREE = f"""\
[images."a.png"]
prompt = "{INSTANT}a fox"

[images."b.png"]
prompt = "{INSTANT}a dog"

[images."c.png"]
prompt = "{INSTANT}at night"
sources = ["a.png"]
"""


@pytest.fixture
def site(tmp_path: Path, sandbox_settings: Settings) -> tuple[Path, Settings]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "flux2.toml").write_text(THREE, "utf-8")
    return folder, replace(sandbox_settings, workspace=str(folder))


async def called(client: Client, tool: str, **arguments: object) -> tuple[str, dict[str, Any], CallToolResult]:
    with anyio.fail_after(60):
        result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text, result.structured_content or {}, result


async def test_the_plan_is_priced_made_and_then_nothing_is_to_do(site: tuple[Path, Settings], era: str) -> None:
    folder, settings = site
    async with Client(build(settings), mode=era) as client:
        text, data, _ = await called(client, "check_pricing", manifest="flux2.toml")
        assert text.splitlines()[:4] == [
            "a.png: new, $0.05",
            "b.png: new, $0.05",
            "c.png: new, from a.png, $0.05",
            "flux2.toml: 3 new, 0 current; $0.15",
        ]
        assert (data["plan"]["usd"], data["plan"]["counts"], data["prices"]) == (0.15, {"new": 3}, [])
        text, data, result = await called(client, "generate", manifest=str(folder / "flux2.toml"), wait_seconds=60)
        assert (result.is_error, data["status"], data["charged_usd"]) == (False, "completed", 0.15)
        assert [(each["path"], each["result"]) for each in data["manifest"]["images"]] == [
            (path, "made") for path in ("a.png", "b.png", "c.png")
        ]
        assert "flux2.toml: 0 left to do, 0 were current" in text
        assert [task["images"][0]["saved"] for task in data["tasks"]] == [str(folder / f"{name}.png") for name in "abc"]
        assert Project(folder).plan().done
        text, _, _ = await called(client, "check_pricing", manifest=".")
        assert text == "flux2.toml: nothing to do, 3 pictures are as it says."
        text, _, _ = await called(client, "generate", manifest=".")
        assert "flux2.toml: 0 left to do, 3 were current" in text
        assert "No task was needed, so nothing was paid." in text
        (folder / "b.png").write_bytes(b"another")
        text, _, _ = await called(client, "generate", manifest=".")
        assert (text.count("Next:"), "overwrite: true replaces" in text) == (1, True)


async def test_a_call_that_does_not_wait_names_its_tasks_and_the_rest_goes_on(site: tuple[Path, Settings]) -> None:
    folder, settings = site
    slow = THREE.replace(INSTANT, "[sandbox:slow] ")
    (folder / "flux2.toml").write_text(slow, "utf-8")
    async with Client(build(replace(settings, sandbox_speed=100.0))) as client:  # whose pictures are plain
        text, data, _ = await called(client, "generate", manifest="flux2.toml", wait_seconds=0.2)
        [next_step] = [line for line in text.splitlines() if line.startswith("Next:")]
        assert next_step.endswith(
            "or generate with the same manifest again: it joins what runs, and pays nothing twice."
        )
        assert data["status"] == "processing"
        assert {each["path"]: each["result"] for each in data["manifest"]["images"]} == {
            "a.png": "open", "b.png": "open", "c.png": "waiting",
        }  # fmt: skip
        ids = data["next_action"]["arguments"]["task_ids"]
        assert len(ids) == 2
        _, data, _ = await called(client, "check_task", task_ids=ids, wait_seconds=60)
        assert (data["status"], len(data["tasks"])) == ("completed", 2)
        more = '\n[images."d.png"]\nprompt = "a boat"\n'  # the file grows while its pictures are made
        (folder / "flux2.toml").write_text(slow + more, "utf-8")
        _, data, _ = await called(client, "generate", manifest="flux2.toml", wait_seconds=60)  # joins what runs
        assert data["status"] == "completed"
        assert data["manifest"]["images"][-1] | {"task_id": ""} == {
            "path": "d.png", "result": "made", "charged_usd": 0.05, "task_id": "",
        }  # fmt: skip
    assert Project(folder).plan().done


async def test_what_is_wrong_is_refused_with_its_line_or_by_its_name(site: tuple[Path, Settings]) -> None:
    folder, settings = site
    async with Client(build(settings)) as client:
        text, _, result = await called(client, "generate", manifest="flux2.toml", prompt="a fox", count=2)
        assert (result.is_error, text.splitlines()[:2]) == (
            True, ["prompt: goes without manifest only.", "count: goes without manifest only."],
        )  # fmt: skip
        for outside in ("../flux2.toml", "/etc/flux2.toml", "~nobody/flux2.toml"):
            text, _, result = await called(client, "check_pricing", manifest=outside)
            assert (result.is_error, text.splitlines()[0]) == (
                True, "manifest: must be a path in the workspace, such as flux2.toml.",
            )  # fmt: skip
        (folder / "flux2.toml").write_text('[images."../a.png"]\nprompt = "a fox"\n', "utf-8")
        for tool in ("check_pricing", "generate"):
            text, _, result = await called(client, tool, manifest="flux2.toml")
            assert result.is_error
            assert text.startswith('flux2.toml:1:9 images."../a.png": must stay below the project\'s folder')
            assert "Nothing was sent and nothing was charged." in text


async def test_a_dear_plan_is_asked_about_as_a_whole(site: tuple[Path, Settings], era: str) -> None:
    folder, settings = site
    settings = replace(settings, confirm_usd=Decimal("0.10"))
    user = User("decline")
    async with asking(settings, era, user) as client:
        text, _, result = await called(client, "generate", manifest="flux2.toml")
        assert (result.is_error, text.splitlines()[0].startswith("The user declined.")) == (True, True)
    [asked] = user.asked
    assert asked.message.splitlines()[0] == "Make 3 pictures of flux2.toml for $0.15?"
    async with asking(settings, era, None) as client:
        text, _, result = await called(client, "generate", manifest="flux2.toml")
        assert (result.is_error, "call again with max_cost_usd: 0.15" in text) == (True, True)
        _, data, _ = await called(client, "generate", manifest="flux2.toml", max_cost_usd=0.15, wait_seconds=60)
        assert data["status"] == "completed"
    await until(lambda: Project(folder).plan().done)
