"""The public API as type checkers see it. Nothing runs this file: mypy and pyright read it, both strict."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import assert_type

from flux2_mcp import (
    AsyncFlux2Client,
    Balance,
    Flux2Client,
    Image,
    Price,
    Quote,
    Task,
    TaskFailedError,
    TaskTimeoutError,
)
from flux2_mcp.pytest_plugin import Flux2Sandbox


def sync(client: Flux2Client) -> None:
    task = client.text_to_image.run(
        model="flux-2-pro-text-to-image",
        prompt="A lighthouse",
        aspect_ratio="16:9",
        output_resolution="2k",
        enable_safety_checker=True,
        callback_url=None,
        save_to=Path("hero.png"),
        overwrite=True,
        max_cost_usd=0.05,
        idempotency_key="hero",
        timeout=60,
    )
    assert_type(task, Task)
    assert_type(task.images, tuple[Image, ...])
    assert_type(task.images[0].path, Path | None)
    assert_type(task.charged_usd, Decimal | None)
    assert_type(task.total_charged_usd, Decimal | None)
    assert_type(task.steps, tuple[Task, ...])
    assert_type(task.images[0].transparent_share, float | None)
    assert_type(client.text_to_image.create(prompt="A", variant="flex", max_cost_usd=Decimal(1)), Task)
    assert_type(client.remix_image.run(prompt="A", source_images=["a.png", Path("b.png")]), Task)
    assert_type(client.remix_image.create(prompt="A", source_image_urls=["https://x.example/a.png"]), Task)
    assert_type(client.remix_image.get("id"), Task)
    assert_type(client.text_to_image.run(prompt="A", background="transparent", upscale=4), Task)
    assert_type(client.remix_image.create(prompt="A", source_images=["a.png"], background=None, upscale=8), Task)
    assert_type(client.remove_background.run(source_image=Path("a.png"), save_to="b.png", timeout=60), Task)
    assert_type(client.remove_background.create(source_image_url="https://x.example/a.png", overwrite=False), Task)
    assert_type(client.remove_background.get("id"), Task)
    assert_type(client.upscale_image.run(source_image="task:id", upscale_factor=4, max_cost_usd="0.2"), Task)
    assert_type(client.upscale_image.create(model="recraft-crisp-upscale", source_image="a.png"), Task)
    assert_type(client.upscale_image.get("id"), Task)
    assert_type(client.tasks.wait([task.id], timeout=1.5), tuple[Task, ...])
    assert_type(client.tasks.recent(status="failed", since="24h", workspace=Path()), tuple[Task, ...])
    for each in client.tasks.as_completed([task.id]):
        assert_type(each, Task)
    assert_type(client.prices(action="remix_image"), tuple[Price, ...])
    assert_type(client.quote(variant="pro", count=4), Quote)
    assert_type(client.quote(action="upscale_image", output_resolution="4"), Quote)
    assert_type(client.balance(), Balance)
    assert_type(client.handle_callback(b"{}", {}, path="/x"), bool)
    assert_type(client.sandbox, bool)
    client.text_to_image.run()  # type: ignore[call-arg]  # a prompt is needed
    client.text_to_image.run(prompt="A", source_images=[])  # type: ignore[call-arg]  # remix_image takes it
    client.text_to_image.run(prompt=1)  # type: ignore[arg-type]
    client.text_to_image.run(prompt="A", background="white")  # type: ignore[arg-type]
    client.text_to_image.run(prompt="A", upscale=3)  # type: ignore[arg-type]
    client.upscale_image.run(source_image="a.png", upscale_factor=1)  # type: ignore[arg-type]
    client.remove_background.run(source_image=["a.png"])  # type: ignore[arg-type]  # one picture
    client.remove_background.run(source_image="a.png", prompt="A")  # type: ignore[call-arg]
    client.tasks.recent(status="done")  # type: ignore[arg-type]
    task.status = "failed"  # type: ignore[misc]  # results are frozen


async def both(client: AsyncFlux2Client, failed: TaskFailedError, late: TaskTimeoutError) -> None:
    assert_type(await client.text_to_image.run(prompt="A", timeout=None), Task)
    assert_type(await client.remix_image.create(prompt="A", source_images=["a.png"]), Task)
    assert_type(await client.remove_background.run(source_image="a.png"), Task)
    assert_type(await client.upscale_image.create(source_image="a.png", upscale_factor=2), Task)
    assert_type(await client.upscale_image.get("id"), Task)
    assert_type(await client.tasks.wait(["id"]), tuple[Task, ...])
    async for each in client.tasks.as_completed(["id"], timeout=1):
        assert_type(each, Task)
    assert_type(await client.quote(), Quote)
    assert_type(await client.prices(model="flux-2-pro-text-to-image"), tuple[Price, ...])
    assert_type(await client.balance(), Balance)
    assert_type(await client.handle_callback(b"{}"), bool)
    assert_type(await client.tasks.recent(limit=1), tuple[Task, ...])
    assert_type(client.sandbox, bool)
    assert_type(failed.task, Task)
    assert_type(late.task, Task)


def test_with_the_fixture(flux2_sandbox: Flux2Sandbox) -> None:
    assert_type(flux2_sandbox.client, Flux2Client)
    assert_type(flux2_sandbox.home / "journal.sqlite3", Path)
    assert_type(flux2_sandbox.workspace, Path)
    assert_type(dict(flux2_sandbox.environ), dict[str, str])
    assert_type(flux2_sandbox.base_url, str)
    assert_type(flux2_sandbox.api_key, str)
    assert_type(flux2_sandbox.creates(), int)
