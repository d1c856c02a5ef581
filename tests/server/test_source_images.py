"""Remixes of what stands on this machine, of earlier results and of URLs: what arrives, what leaves, what is refused."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.session import ClientRequestContext
from mcp_types import ListRootsResult, Root, TextContent
from msgspec.structs import replace
from PIL import ExifTags, Image
from pydantic import FileUrl

from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.sandbox.tasks import SandboxTask
from flux2_mcp.server.app import build
from flux2_mcp.settings import Settings
from tests.server.conftest import BOTH_ERAS
from tests.support.services import until

pytestmark = pytest.mark.anyio

LIME, MAGENTA, CYAN = (0, 255, 0), (255, 0, 255), (0, 255, 255)


@pytest.fixture
async def client(sandbox_settings: Settings) -> AsyncIterator[Client]:
    """One era: which one it is matters to none of these calls but where the client's roots are asked for."""
    async with Client(build(sandbox_settings)) as client:
        yield client


def picture(colour: tuple[int, int, int], kind: str = "PNG", size: tuple[int, int] = (300, 200), **more: Any) -> bytes:  # noqa: ANN401  # Pillow's own options
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind, **more)
    return out.getvalue()


def sideways() -> bytes:
    """A photo taken with the camera turned: wide in its bytes, tall when upright; lime above magenta."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "CANARY camera"
    wide = Image.new("RGB", (300, 200), MAGENTA)
    wide.paste(LIME, (0, 0, 150, 200))
    out = io.BytesIO()
    wide.save(out, "JPEG", quality=95, exif=exif)
    return out.getvalue()


async def made(client: Client, **arguments: object) -> dict[str, Any]:
    with anyio.fail_after(60):
        result = await client.call_tool("generate", arguments)
    assert isinstance(result.structured_content, dict), result.content
    return result.structured_content


async def refused(client: Client, *sources: str) -> list[str]:
    result = await client.call_tool("generate", {"prompt": "at night", "source_images": list(sources)})
    assert result.is_error
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text.splitlines()


def tasks(settings: Settings) -> list[SandboxTask]:
    with Sandbox(settings.home / "sandbox") as runapi:
        return runapi.tasks()


def uploads(settings: Settings) -> list[bytes]:
    folder = settings.home / "sandbox" / "uploads"
    return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.exists() else []


def counted(path: str) -> list[tuple[int, tuple[int, int, int]]]:
    """Each colour of an image, and how many pixels have it."""
    with Image.open(path) as image:
        found: Any = image.convert("RGB").getcolors(2**24)
    return list(found)


def seen(path: str, *colours: tuple[int, int, int]) -> list[int]:
    """How many pixels are nearly of each colour."""
    found = counted(path)
    return [
        sum(number for number, pixel in found if all(abs(a - b) < 24 for a, b in zip(pixel, one, strict=True)))
        for one in colours
    ]


async def test_a_photo_a_task_and_a_url_end_in_one_image_that_shows_all_three(
    client: Client, sandbox_settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(sideways())
    with Sandbox(sandbox_settings.home / "sandbox") as runapi:
        async with httpx2.AsyncClient(base_url=runapi.base_url, timeout=60) as http:
            body = {
                "source": {"type": "base64", "data": base64.b64encode(picture(CYAN)).decode()},
                "file_name": "c.png",
            }
            headers = {"Authorization": f"Bearer {runapi.api_key}"}
            url = (await http.post("/api/v1/files", json=body, headers=headers)).json()["url"]
        first = (await made(client, prompt="a red fox in snow"))["tasks"][0]
        result = await made(
            client,
            prompt="put them side by side",
            source_images=["photo.jpg", f"task:{first['task_id']}", url],
            aspect_ratio="auto",
        )
    (task,) = result["tasks"]
    (image,) = task["images"]
    assert (result["status"], task["action"], image["matches_request"]) == ("completed", "remix_image", True)
    # The photo is upright: taller than wide, and auto took that ratio.
    assert image["width"] * 3 == pytest.approx(image["height"] * 2, rel=0.03)
    _, fox = max(counted(first["images"][0]["path"]))
    assert min(seen(image["path"], LIME, MAGENTA, CYAN, fox)) > 5_000
    assert tasks(sandbox_settings)[-1].sources[1] == f"task:{first['task_id']}"
    assert task["sources"][1:] == [
        {"source": f"task:{first['task_id']}", "sent": "its address"},
        {"source": url, "sent": "its address"},
    ]
    assert task["sources"][0]["source"] == "photo.jpg"
    assert task["sources"][0]["sent"].startswith("uploaded, pixels only, 200x300, ")


async def test_nothing_leaves_of_a_photo_but_its_pixels_and_once_an_hour(
    client: Client, sandbox_settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(sideways())
    shutil.copy(tmp_path / "photo.jpg", tmp_path / "the same under another name.jpg")
    data = "data:image/jpeg;base64," + base64.b64encode(sideways()).decode()
    for source in ("photo.jpg", "the same under another name.jpg", data, (tmp_path / "photo.jpg").as_uri()):
        prompt = f"at night, {len(source)} [sandbox:stuck]"
        await made(client, prompt=prompt, source_images=[source], wait_seconds=0)
    (sent,) = uploads(sandbox_settings)
    assert b"CANARY" not in sent
    with Image.open(io.BytesIO(sent)) as upright:
        assert (upright.format, upright.size, dict(upright.getexif())) == ("JPEG", (200, 300), {})
    assert len({task.sources for task in tasks(sandbox_settings)}) == 1


async def test_the_same_call_for_the_same_picture_joins_whatever_its_address_is_now(
    client: Client, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(picture(LIME))
    first = await made(client, prompt="at night [sandbox:stuck]", source_images=["a.png"], wait_seconds=0)
    same = await made(client, prompt="at night [sandbox:stuck]", source_images=["a.png"], wait_seconds=0)
    (tmp_path / "a.png").write_bytes(picture(CYAN))
    other = await made(client, prompt="at night [sandbox:stuck]", source_images=["a.png"], wait_seconds=0)
    ids = [each["tasks"][0]["task_id"] for each in (first, same, other)]
    assert ids[0] == ids[1] != ids[2]


async def test_an_earlier_result_that_runapi_has_no_more_is_sent_from_its_file(
    client: Client, sandbox_settings: Settings
) -> None:
    first = (await made(client, prompt="a red fox in snow"))["tasks"][0]
    with Sandbox(sandbox_settings.home / "sandbox") as runapi:
        runapi.state.database.execute("DELETE FROM task WHERE id = ?", (first["task_id"],))
    result = await made(client, prompt="at night", source_images=[f"task:{first['task_id']}"])
    assert result["status"] == "completed"
    assert result["tasks"][0]["sources"][0]["sent"].startswith("uploaded, pixels only, 1024x1024, ")
    Path(first["images"][0]["path"]).unlink()
    with Sandbox(sandbox_settings.home / "sandbox") as runapi:
        runapi.state.database.execute("DELETE FROM upload", ())
    gone = await refused(client, f"task:{first['task_id']}")
    assert gone[0].startswith(f"source_images: item 1 ('task:{first['task_id']}') can't be had: ")
    assert gone[0].endswith("Its file is gone, too.")


async def test_the_path_of_an_earlier_image_is_a_source_wherever_the_workspace_is(client: Client) -> None:
    first = (await made(client, prompt="a red fox in snow"))["tasks"][0]
    prompt, path = "at night [sandbox:stuck]", first["images"][0]["path"]
    result = await made(client, prompt=prompt, source_images=[path], wait_seconds=0)
    assert result["tasks"][0]["sources"][0]["sent"].startswith("uploaded, pixels only, 1024x1024, ")


async def test_every_source_that_is_wrong_is_named_with_all_else_that_is_and_nothing_is_sent(
    client: Client, sandbox_settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "fine.png").write_bytes(picture(LIME))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    lines = await refused(
        client, "fine.png", "notes.txt", "empty.png", "nothing.png", "../up.png", "ftp://example.com/a", "task:none", ""
    )
    assert lines[:7] == [
        "source_images: item 2 ('notes.txt') is no PNG, JPEG or WebP image; convert it first.",
        "source_images: item 3 ('empty.png') is empty.",
        f"source_images: item 4 ('nothing.png') can't be read: there is no such file in {tmp_path}.",
        "source_images: item 5 ('../up.png') stands outside the workspace; move it there, or name its folder in FLUX2_ALLOWED_DIRS.",
        "source_images: item 6 ('ftp://example.com/a') is a URL that is not https, or not whole.",
        "source_images: item 7 ('task:none') names a task that the journal does not know; check_task lists those it does.",
        "source_images: item 8 ('') is neither an https URL, a path, task:ID of an earlier result, nor a data: URI.",
    ]
    assert lines[7] == "Nothing was sent and nothing was charged."
    assert uploads(sandbox_settings) == []


async def test_max_takes_exactly_one(client: Client, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture(LIME))
    arguments = {"prompt": "at night", "variant": "max", "aspect_ratio": "1:1", "source_images": ["a.png", "b.png"]}
    result = await client.call_tool("generate", arguments)
    assert isinstance(result.content[0], TextContent)
    assert result.content[0].text.startswith("source_images: got 2 items; max allows exactly 1.")


async def test_nothing_is_uploaded_for_a_call_that_a_cap_refuses(
    client: Client, sandbox_settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(picture(LIME))
    result = await client.call_tool(
        "generate", {"prompt": "at night", "source_images": ["a.png"], "max_cost_usd": 0.01}
    )
    assert result.is_error
    assert uploads(sandbox_settings) == []


async def test_folders_that_are_allowed_may_be_read_from_too(sandbox_settings: Settings, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "a.png").write_bytes(picture(LIME))
    workspace = tmp_path / "project"
    workspace.mkdir()
    settings = replace(sandbox_settings, workspace=str(workspace), allowed_dirs=(shared,))
    async with Client(build(settings)) as client:
        source = str(shared / "a.png")
        result = await made(client, prompt="at night [sandbox:stuck]", source_images=[source], wait_seconds=0)
    assert result["tasks"][0]["sources"][0]["sent"].startswith("uploaded, pixels only, 300x200, ")


# --- the workspace, and what is saved into it ---


def with_roots(settings: Settings, era: str, *roots: Path) -> Client:
    async def listed(context: ClientRequestContext) -> ListRootsResult:
        del context
        return ListRootsResult(roots=[Root(uri=FileUrl(root.as_uri())) for root in roots])

    return Client(build(settings), mode=era, list_roots_callback=listed)


async def test_an_image_is_saved_into_the_working_directory_where_the_client_names_no_root(
    client: Client, tmp_path: Path
) -> None:
    result = await made(client, prompt="a red fox in snow", save_to="assets/hero.png")
    image = result["tasks"][0]["images"][0]
    assert image["saved"] == str(tmp_path / "assets" / "hero.png")
    assert Path(image["saved"]).read_bytes() == Path(image["path"]).read_bytes()


@BOTH_ERAS
async def test_the_clients_root_is_the_workspace(sandbox_settings: Settings, era: str, tmp_path: Path) -> None:
    root, second = tmp_path / "a project", tmp_path / "second"
    root.mkdir()
    second.mkdir()
    (root / "a.png").write_bytes(picture(LIME))
    (second / "b.png").write_bytes(picture(CYAN))
    async with with_roots(sandbox_settings, era, root, second) as client:
        sources = ["a.png", str(second / "b.png")]
        result = await made(client, prompt="at night", source_images=sources, save_to="out/", count=2)
        here = await client.call_tool("check_task", {"workspace": "."})
    assert [Path(task["images"][0]["saved"]).parent for task in result["tasks"]] == [root / "out"] * 2
    assert isinstance(here.structured_content, dict)
    assert len(here.structured_content["tasks"]) == 2


async def test_several_images_are_numbered(client: Client, tmp_path: Path) -> None:
    await made(client, prompt="a red fox in snow", count=2, save_to="hero.png")
    assert sorted(path.name for path in tmp_path.glob("hero*")) == ["hero-1.png", "hero-2.png"]


async def test_a_file_that_is_there_costs_nothing_and_is_replaced_only_when_that_is_said(
    client: Client, sandbox_settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "hero.png").write_bytes(b"mine")
    arguments = {"prompt": "a red fox in snow", "save_to": "hero.png"}
    result = await client.call_tool("generate", arguments)
    assert result.is_error
    assert isinstance(result.content[0], TextContent)
    assert result.content[0].text.splitlines()[:2] == [
        "save_to: hero.png exists; give another name, or overwrite: true to replace it.",
        "Nothing was sent and nothing was charged.",
    ]
    assert tasks(sandbox_settings) == []
    assert (tmp_path / "hero.png").read_bytes() == b"mine"
    await made(client, **arguments, overwrite=True)
    with Image.open(tmp_path / "hero.png") as image:
        assert image.size == (1024, 1024)


async def test_the_same_call_again_after_its_host_gave_up_joins_although_its_file_is_there(
    client: Client, tmp_path: Path
) -> None:
    arguments = {"prompt": "a red fox in snow", "save_to": "hero.png"}
    first = await made(client, **arguments, wait_seconds=0)
    assert first["status"] == "processing"
    await until((tmp_path / "hero.png").exists)
    again = await made(client, **arguments)
    assert again["tasks"][0]["task_id"] == first["tasks"][0]["task_id"]
    assert again["tasks"][0]["images"][0]["saved"] == str(tmp_path / "hero.png")


async def test_a_key_that_saved_elsewhere_is_not_used_for_another_place(client: Client) -> None:
    arguments = {"prompt": "a red fox [sandbox:stuck]", "idempotency_key": "k", "wait_seconds": 0}
    await made(client, **arguments, save_to="a.png")
    result = await client.call_tool("generate", arguments | {"save_to": "b.png"})
    assert result.is_error
    assert isinstance(result.content[0], TextContent)
    assert result.content[0].text.startswith("save_to: differs from what this idempotency_key was first used with")


async def test_without_a_workspace_save_to_says_what_to_set(sandbox_settings: Settings) -> None:
    async with Client(build(replace(sandbox_settings, workspace=None))) as client:
        result = await client.call_tool("generate", {"prompt": "a red fox in snow", "save_to": "hero.png"})
    assert result.is_error
    assert isinstance(result.content[0], TextContent)
    assert "Set FLUX2_WORKSPACE" in result.content[0].text


async def test_the_wrong_ratio_is_told_in_words_and_in_data_with_the_money_not_hidden(client: Client) -> None:
    result = await client.call_tool("generate", {"prompt": "a red fox [sandbox:wrong_ratio]", "aspect_ratio": "16:9"})
    assert isinstance(result.structured_content, dict)
    image = result.structured_content["tasks"][0]["images"][0]
    said = "720x1280 came, which is not the ratio 16:9 that was asked for."
    assert (image["matches_request"], image["mismatch"]) == (False, said)
    assert isinstance(result.content[0], TextContent)
    assert f"Not what was asked for: {said} It would cost the same." in result.content[0].text
    assert "would charge $0.05" in result.content[0].text
