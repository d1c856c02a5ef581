from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp_types import CallToolResult, TextContent
from PIL import Image

from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.server.results.tasks import JOINED_NOTICE, SANDBOX_NOTICE
from flux2_mcp.settings import Settings
from tests.conftest import SEED_PROMPT
from tests.server.conftest import BOTH_ERAS
from tests.support.journals import newest_url
from tests.support.rows import each_row

pytestmark = pytest.mark.anyio


def texts(result: CallToolResult) -> list[str]:
    return [block.text for block in result.content if isinstance(block, TextContent)]


async def made(client: Client, **arguments: object) -> dict[str, Any]:
    with anyio.fail_after(30):
        result = await client.call_tool("generate", arguments)
    assert not result.is_error, texts(result)
    assert isinstance(result.structured_content, dict)
    return result.structured_content


@BOTH_ERAS
async def test_the_seed_prompt_becomes_a_checked_png_on_disk(client: Client, sandbox_settings: Settings) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    result = await made(client, prompt=SEED_PROMPT)
    task = result["tasks"][0]
    image = task["images"][0]
    path = Path(image["path"])
    assert path.parent == sandbox_settings.home / "images"
    with Image.open(path) as picture:
        picture.load()
        assert (picture.format, picture.size) == ("PNG", (1024, 1024))
    created, completed = (datetime.fromisoformat(task[name]) for name in ("created_at", "completed_at"))
    assert before <= created <= completed <= datetime.now(UTC)
    assert result == {
        "status": "completed",
        "sandbox": True,
        "notice": SANDBOX_NOTICE,
        "tasks": [
            {
                "task_id": task["task_id"],
                "status": "completed",
                "prompt": SEED_PROMPT,
                "variant": "pro",
                "model": "flux-2-pro-text-to-image",
                "action": "text_to_image",
                "images": [
                    {
                        "path": str(path),
                        "mime_type": "image/png",
                        "width": 1024,
                        "height": 1024,
                        "size_bytes": path.stat().st_size,
                        "matches_request": True,
                    }
                ],
                "sources": [],
                "quoted_usd": 0.05,
                "charged_usd": 0.05,
                "created_at": task["created_at"],
                "completed_at": task["completed_at"],
                "error": None,
            }
        ],
        "quoted_usd": 0.05,
        "charged_usd": 0.05,
        "next_action": None,
    }


async def test_words_and_json_each_carry_everything_that_matters(client: Client) -> None:
    result = await client.call_tool("generate", {"prompt": "a red fox in snow"})
    (words,) = texts(result)
    assert isinstance(result.structured_content, dict)
    image = result.structured_content["tasks"][0]["images"][0]
    assert words.startswith(image["path"])
    for fact in ("a red fox in snow", "status: completed", "would charge $0.05", "SANDBOX", "NOT FLUX.2"):
        assert fact in words


async def test_several_images_are_several_tasks_each_paid(client: Client) -> None:
    result = await made(client, prompt="a red fox in snow", count=2, aspect_ratio="16:9")
    sizes = {(task["images"][0]["width"], task["images"][0]["height"]) for task in result["tasks"]}
    assert len({task["task_id"] for task in result["tasks"]}) == 2
    assert len({task["images"][0]["path"] for task in result["tasks"]}) == 2
    assert len({Path(task["images"][0]["path"]).read_bytes() for task in result["tasks"]}) == 2
    assert all(width * 9 == height * 16 for width, height in sizes)
    assert (result["status"], result["quoted_usd"], result["charged_usd"]) == ("completed", 0.1, 0.1)


async def test_an_earlier_result_can_be_remixed_by_its_url(client: Client, sandbox_settings: Settings) -> None:
    await made(client, prompt="a red fox in snow")
    url = newest_url(sandbox_settings.home)
    result = await made(client, prompt="at night", source_images=[url], variant="flex")
    task = result["tasks"][0]
    assert (task["action"], task["model"]) == ("remix_image", "flux-2-flex-remix-image")
    assert (result["status"], result["charged_usd"]) == ("completed", 0.14)


async def test_an_earlier_task_can_be_remixed_by_its_id(client: Client, sandbox_settings: Settings) -> None:
    first = await made(client, prompt="a red fox in snow")
    task_id = first["tasks"][0]["task_id"]
    result = await made(client, prompt="at night [sandbox:stuck]", source_images=[f"task:{task_id}"], wait_seconds=0)
    assert (result["status"], result["tasks"][0]["action"]) == ("processing", "remix_image")
    with Sandbox(sandbox_settings.home / "sandbox") as runapi:
        assert runapi.tasks()[-1].sources == (f"task:{task_id}",)


async def test_a_task_that_is_no_source_is_refused_by_its_number(client: Client) -> None:
    stuck = await made(client, prompt="a red fox [sandbox:stuck]", wait_seconds=0)
    sources = [f"task:{stuck['tasks'][0]['task_id']}", "task:none"]
    refused = await client.call_tool("generate", {"prompt": "at night", "source_images": sources})
    assert refused.is_error
    first, second = texts(refused)[0].splitlines()[:2]
    unknown = "names a task that the journal does not know; check_task lists those it does."
    assert first == f"source_images: item 2 ('task:none') {unknown}"
    assert "Nothing was sent" in second
    refused = await client.call_tool("generate", {"prompt": "at night", "source_images": sources[:1]})
    text = texts(refused)[0].splitlines()[0]
    assert re.fullmatch(
        r"source_images: item 1 \('task:[-0-9a-f]+'\) names a task that is p\w+; wait for it with check_task\.", text
    )


async def test_waiting_no_longer_gives_the_id_and_the_call_to_make_next(client: Client) -> None:
    result = await made(client, prompt="a red fox [sandbox:stuck]", wait_seconds=0)
    task = result["tasks"][0]
    assert result["status"] == "processing"
    assert task["status"] in {"pending", "processing"}
    assert result["next_action"] == {"tool": "check_task", "arguments": {"task_ids": [task["task_id"]]}}


async def test_the_same_call_while_the_first_has_not_ended_joins_it(client: Client) -> None:
    first = await made(client, prompt="a red fox [sandbox:stuck]", wait_seconds=0)
    second = await made(client, prompt="a red fox [sandbox:stuck]", wait_seconds=0)
    assert second["tasks"][0]["task_id"] == first["tasks"][0]["task_id"]
    assert JOINED_NOTICE in second["notice"]


async def test_the_same_call_after_the_first_was_told_is_a_new_one(client: Client) -> None:
    first = await made(client, prompt="a red fox in snow")
    second = await made(client, prompt="a red fox in snow")
    assert second["tasks"][0]["task_id"] != first["tasks"][0]["task_id"]


async def test_an_own_idempotency_key_gives_the_same_task_again(client: Client) -> None:
    first = await made(client, prompt="a red fox in snow", idempotency_key="fox-1")
    second = await made(client, prompt="a red fox in snow", idempotency_key="fox-1")
    assert second["tasks"][0]["task_id"] == first["tasks"][0]["task_id"]
    refused = await client.call_tool("generate", {"prompt": "a blue fox in snow", "idempotency_key": "fox-1"})
    assert refused.is_error
    assert texts(refused)[0].startswith("idempotency_key: was used for another request")


async def test_a_failed_generation_is_an_error_that_says_why_and_what_to_do_next(client: Client) -> None:
    with anyio.fail_after(30):
        failed = await client.call_tool("generate", {"prompt": "a red fox [sandbox:moderation]"})
    assert failed.is_error
    result = failed.structured_content
    assert isinstance(result, dict)
    task = result["tasks"][0]
    assert (result["status"], task["status"], result["charged_usd"]) == ("failed", "failed", 0.0)
    (words,) = texts(failed)
    assert task["error"] in words
    assert f"Next: {result['next_step']}" in words
    assert "moderation" in result["next_step"]
    checked = await client.call_tool("check_task", {"task_ids": [task["task_id"]]})  # this call itself goes well
    assert (checked.is_error, checked.structured_content) == (False, result)


async def test_of_several_images_one_that_came_is_no_error(client: Client) -> None:
    done = await made(client, prompt="a red fox in snow", idempotency_key="k")
    failed = await client.call_tool("generate", {"prompt": "a fox [sandbox:moderation]", "count": 2})
    assert failed.is_error
    ids = [done["tasks"][0]["task_id"]]
    assert isinstance(failed.structured_content, dict)
    ids += [task["task_id"] for task in failed.structured_content["tasks"]]
    checked = await client.call_tool("check_task", {"task_ids": ids})
    assert isinstance(checked.structured_content, dict)
    assert (checked.structured_content["status"], "next_step" in checked.structured_content) == ("partial", False)


async def test_trouble_on_the_way_is_overcome_however_much_of_it_there_is(client: Client) -> None:
    troubles = "".join(f"[sandbox:{marker}]" for marker in ("create_503", "create_html", "create_lost", "poll_503"))
    result = await made(client, prompt=f"a red fox {troubles}")
    assert (result["status"], result["charged_usd"]) == ("completed", 0.05)


async def test_trouble_that_can_not_be_overcome_is_told_with_what_it_cost(client: Client) -> None:
    result = await client.call_tool("generate", {"prompt": "a red fox [sandbox:insufficient_credits]"})
    assert result.is_error
    assert "402" in texts(result)[0]
    assert "Nothing was charged." in texts(result)[0]


async def test_an_expired_url_is_asked_for_anew(client: Client) -> None:
    result = await made(client, prompt="a red fox [sandbox:expired_url]")
    assert result["status"] == "completed"
    assert Path(result["tasks"][0]["images"][0]["path"]).exists()


async def test_a_corrupt_image_is_told_and_never_kept(client: Client, sandbox_settings: Settings) -> None:
    called = await client.call_tool("generate", {"prompt": "a red fox [sandbox:corrupt]"})
    result = called.structured_content
    assert isinstance(result, dict)
    task = result["tasks"][0]
    assert (task["status"], task["charged_usd"]) == ("completed", 0.05)
    assert "no money moved" in texts(called)[0]
    assert re.findall(r"\bcharged\b|\bcosts\b", texts(called)[0]) == []
    assert set(task["images"][0]) == {"url", "expires_at"}
    assert "its image can't be had: The image is broken: it can't be decoded to its end." in task["error"]
    assert result["next_action"] is None
    assert [path for path in (sandbox_settings.home / "images").rglob("*") if path.is_file()] == []


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_cost_usd": 0.04}, "The quote is $0.05 and max_cost_usd allows $0.04."),
    ({"save_to": "../x.png"}, "save_to: must stay below the workspace"),
    ({"save_to": "x.gif"}, "save_to: ends in .gif"),
    ({"overwrite": True}, "overwrite: goes with save_to only."),
    ({"variant": "max"}, "aspect_ratio: max needs it"),
    ({"variant": "flux-2-pro-text-to-image", "source_images": ["https://example.com/a.png"]},
     "Use flux-2-pro-remix-image, or variant pro."),
    ({"source_images": ["/etc/passwd"]}, "source_images: item 1 ('/etc/passwd') stands outside the workspace"),
    ({"callback_url": "ftp://example.com"}, "callback_url: is not an https URL"),
]  # fmt: skip


@BOTH_ERAS
async def test_what_can_not_be_sent_is_refused_before_anything_is(client: Client) -> None:
    with each_row() as row:
        for arguments, words in REFUSED:
            with row(arguments):
                result = await client.call_tool("generate", {"prompt": "a fox"} | arguments)
                assert result.is_error
                assert words in texts(result)[0]
                assert "Nothing was sent and nothing was charged." in texts(result)[0]
    listed = await client.call_tool("check_task", {})
    assert isinstance(listed.structured_content, dict)
    assert listed.structured_content["tasks"] == []


async def test_all_that_is_wrong_with_a_call_is_named_at_once(client: Client, sandbox_settings: Settings) -> None:
    def lines(result: CallToolResult) -> list[str]:
        assert result.is_error
        return texts(result)[0].splitlines()

    call = {"prompt": "", "variant": "Pro", "aspect_ratio": "16x9", "save_to": "../x.png", "max_cost_usd": 0.01}
    named = lines(await client.call_tool("generate", call | {"prompt": "a", "source_images": ["no.png"]}))
    assert [line.partition(":")[0] for line in named[:5]] == [
        "variant",
        "prompt",
        "aspect_ratio",
        "source_images",
        "save_to",
    ]
    assert 'got "Pro" (did you mean pro?); allowed: pro, flex, max' in named[0]
    assert 'got "16x9" (did you mean 16:9?); allowed: ' in named[2]
    folder = sandbox_settings.workspace
    assert named[3] == f"source_images: item 1 ('no.png') can't be read: there is no such file in {folder}."
    dear = lines(await client.call_tool("generate", call | {"variant": "flex", "count": 3, "aspect_ratio": "1:1"}))
    assert [line.partition(":")[0] for line in dear[:3]] == ["prompt", "save_to", "max_cost_usd"]
    assert dear[2] == "max_cost_usd: the call would cost $0.42."
    (Path(folder or "") / "x.png").write_bytes(b"mine")
    there = {"prompt": "a fox", "save_to": "x.png", "max_cost_usd": 0.01}
    both = lines(await client.call_tool("generate", there))
    assert [line.partition(":")[0] for line in both[:2]] == ["save_to", "max_cost_usd"]


@BOTH_ERAS
async def test_progress_is_strictly_increasing_and_only_for_who_asked(client: Client) -> None:
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert (total, bool(message)) == (None, True)
        seen.append(progress)

    # Each task ends, and nothing is drawn.
    arguments = {"prompt": "a red fox [sandbox:slow][sandbox:moderation]", "count": 2}
    await client.call_tool("generate", arguments, progress_callback=note)
    assert seen == sorted(set(seen))
    assert seen
