"""Where files go: the client's roots, whatever else stands among them, and absolute places in the workspace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client import ClientRequestContext
from mcp.client.client import Client
from mcp_types import CallToolResult, ErrorData, ListRootsResult, Request, TextContent
from pydantic import RootModel

from flux2_mcp.images.workspace import inside
from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.server.app import build
from flux2_mcp.settings import Settings

pytestmark = pytest.mark.anyio

PROMPT = "a red fox in snow"
OTHERS = ("vscode-remote://ssh-remote+desk/work", "untitled:Untitled-1", "/no/uri", "file://elsewhere/share", "")


class Named(ListRootsResult):
    """What clients answer, whether or not it is a list of folders."""

    roots: list[dict[str, Any]]  # type: ignore[assignment]  # the SDK's own type knows file: alone


def with_roots(settings: Settings, *uris: str) -> Client:
    async def listed(context: ClientRequestContext) -> ListRootsResult:
        del context
        return Named(roots=[{"uri": uri} for uri in uris])

    return Client(build(settings), mode="legacy", list_roots_callback=listed)


async def made(client: Client, **arguments: object) -> CallToolResult:
    with anyio.fail_after(30):
        return await client.call_tool("generate", {"prompt": PROMPT} | arguments)


def said(result: CallToolResult) -> str:
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


def saved(result: CallToolResult) -> str:
    assert not result.is_error, said(result)
    assert isinstance(result.structured_content, dict)
    path: str = result.structured_content["tasks"][0]["images"][0]["saved"]
    return path


def workspace(result: CallToolResult) -> str:
    """The workspace, as a refusal of a place outside it names it: that costs no image."""
    found = re.match(r"save_to: stands outside the workspace (.*); give a place in it, such as ", said(result))
    assert found, said(result)
    return found[1]


async def test_a_root_that_is_no_folder_of_this_machine_is_passed_over(
    sandbox_settings: Settings, tmp_path: Path
) -> None:
    (root := tmp_path / "a project").mkdir()
    async with with_roots(sandbox_settings, *OTHERS, root.as_uri()) as client:
        assert workspace(await made(client, save_to="/hero.png")) == str(root)
        assert not (await client.call_tool("check_task", {"workspace": "."})).is_error
    async with with_roots(sandbox_settings, *OTHERS) as client:
        assert workspace(await made(client, save_to="/hero.png")) == str(tmp_path)


async def test_in_the_era_that_asks_by_an_answer_such_a_root_is_passed_over_too(
    sandbox_settings: Settings, tmp_path: Path
) -> None:
    (root := tmp_path / "a project").mkdir()

    async def listed(context: ClientRequestContext) -> ListRootsResult:
        raise AssertionError(context)

    async def ask(params: dict[str, Any]) -> dict[str, Any]:
        request = Request[dict[str, Any], str](method="tools/call", params=params)
        with anyio.fail_after(30):
            return (await client.session.send_request(request, RootModel[dict[str, Any]])).root

    async with Client(build(sandbox_settings), list_roots_callback=listed) as client:
        call = {"name": "generate", "arguments": {"prompt": PROMPT, "save_to": "/hero.png"}}
        asked = await ask(call)
        (key,) = asked["inputRequests"]
        roots = [{"name": "no address"}, *({"uri": uri} for uri in (*OTHERS, root.as_uri()))]
        answered = {"requestState": asked["requestState"], "inputResponses": {key: {"roots": roots}}}
        result = await ask(call | answered)
    assert workspace(CallToolResult.model_validate(result)) == str(root)


async def test_a_client_that_can_not_tell_its_roots_names_none(sandbox_settings: Settings, tmp_path: Path) -> None:
    async def listed(context: ClientRequestContext) -> ErrorData:
        del context
        return ErrorData(code=-32603, message="no folder is open")

    async with Client(build(sandbox_settings), mode="legacy", list_roots_callback=listed) as client:
        assert workspace(await made(client, save_to="/hero.png")) == str(tmp_path)


async def test_an_absolute_place_in_the_workspace_is_taken_by_whichever_name(
    sandbox_settings: Settings, tmp_path: Path
) -> None:
    (root := tmp_path / "project").mkdir()
    (link := tmp_path / "link").symlink_to(root)
    async with with_roots(sandbox_settings, link.as_uri()) as client:
        assert saved(await made(client, save_to=str(root / "new" / "a.png"))) == str(root / "new" / "a.png")
    for base in (root, link):
        for folder in (root, link):
            assert inside(base, f"{folder}/public/hero.png") == "public/hero.png"
            assert inside(base, f"{folder}/out/") == "out/"
            assert inside(base, f"{folder}/out") == "out"
            assert inside(base, f"{folder}/../project/a.png") == "a.png"
            assert inside(base, f"{folder}/new/./../out/") == "out/"


async def test_a_place_outside_the_workspace_is_refused_with_the_workspaces_name_before_money_moves(
    sandbox_settings: Settings, tmp_path: Path
) -> None:
    (root := tmp_path / "project").mkdir()
    (root / "out").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    outside = [
        tmp_path / "a.png",
        tmp_path / "projects" / "a.png",
        f"{tmp_path}/",
        "/",
        "~/a.png",
        "~nobody-here/a.png",
    ]
    async with with_roots(sandbox_settings, root.as_uri()) as client:
        by_dots = (root / ".." / "a.png", root / "out" / ".." / "a.png", f"{root}/..", f"{root}/../../etc/")
        for place in (*outside, *by_dots, tmp_path / "loop" / "a.png", f"{root.parent}/\0/a.png"):
            text = said(await made(client, save_to=str(place)))
            assert text.startswith(f"save_to: stands outside the workspace {root}; give a place in it, such as "), place
        for place in (root, f"{root}/", f"{root}/.", f"{root}/new/.."):
            text = said(await made(client, save_to=str(place)))
            assert text.startswith(f"save_to: is the workspace {root}; give a place in it, such as "), place
        text = said(await made(client, save_to=str(root / "out" / "a.png")))
        assert text.startswith("save_to: a link on the way leads outside the workspace")
    with Sandbox(sandbox_settings.home / "sandbox") as sandbox:
        assert sandbox.tasks() == []
