"""Tool results as the server gives them, built from its own models, and pictures drawn by the sandbox."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

from PIL import Image, ImageOps

from flux2_mcp.domain.lifecycle import TaskStatus
from flux2_mcp.sandbox.drawing.draw import render, size_of
from flux2_mcp.server.results.tasks import (
    GenerationResult,
    GenerationStatus,
    ImageResult,
    NextAction,
    TaskResult,
)
from flux2_mcp.server.tools.answers import REQUESTS_KEY

PROMPTS = (
    "A quiet harbour at dawn, sailboats in the mist, film grain",
    "Mountain lake under a full moon, long exposure",
    "A cat asleep in a bookshop window",
    "Dunes at noon, one long shadow",
    "A robot watering a flower, children's book illustration",
    "Night train through a city in the rain",
    "Forest path in autumn, soft light",
    "A cup of coffee on a stone table",
)
DRAWN = 2
"""How many different pictures there are: each takes half a second to draw. For other shapes it is cut."""
TIMES = "\N{MULTIPLICATION SIGN}"
OPEN = ("submitting", "pending", "processing")
PATH = "/home/ada/.local/share/flux2-mcp/images/2026-11-20-a-quiet-harbour-at-dawn-{number}.png"


FETCHING = ImageResult(url="https://images.example.com/0.png", expires_at="2026-11-27T10:00:04Z")
"""Of a task that RunAPI has done and we have not fetched yet."""


def task(
    number: int,
    status: TaskStatus = "completed",
    *,
    ratio: str = "1:1",
    resolution: str = "1k",
    variant: str = "pro",
    error: str | None = None,
) -> TaskResult:
    """One task, `task-<number>`, with a file where it is completed."""
    width, height = size_of(ratio, resolution)
    done = status == "completed"
    image = ImageResult(
        url=f"https://images.example.com/{number}.png",
        expires_at="2026-11-27T10:00:04Z",
        path=PATH.format(number=number),
        mime_type="image/png",
        width=width,
        height=height,
        size_bytes=1_234_567,
        matches_request=True,
    )
    return TaskResult(
        task_id=f"task-{number}",
        status=status,
        variant=variant,
        model=f"flux-2-{variant}-text-to-image",
        action="text_to_image",
        images=[image] if done else [],
        quoted_usd=0.05 if resolution == "1k" else 0.07,
        charged_usd=0.05 if done else None,
        sources=[],
        created_at="2026-11-20T10:00:00Z",
        completed_at="2026-11-20T10:00:04Z" if done else None,
        error=error,
    )


def result(tasks: Sequence[TaskResult], *, notice: str | None = None, prompts: Sequence[str] = ()) -> dict[str, Any]:
    """What a call answers, as it goes over the wire. `prompts`: told in `_meta`, one a task, where given."""
    states = {each.status for each in tasks}
    status: GenerationStatus = (
        "processing" if states & set(OPEN) else "completed" if states == {"completed"} else "partial"
    )
    open_ids = [each.task_id for each in tasks if each.status in OPEN or each.images[:1] == [FETCHING]]
    data = GenerationResult(
        status=status,
        sandbox=notice is not None,
        notice=notice,
        tasks=list(tasks),
        quoted_usd=sum(each.quoted_usd or 0 for each in tasks),
        charged_usd=sum(each.charged_usd or 0 for each in tasks),
        next_action=NextAction(tool="check_task", arguments={"task_ids": open_ids}) if open_ids else None,
    )
    rest: dict[str, Any] = {
        "aspect_ratio": None,
        "output_resolution": None,
        "enable_safety_checker": None,
        "source_images": [],
    }
    asked = {each.task_id: {"prompt": words} | rest for each, words in zip(tasks, prompts, strict=False)}
    return {
        "content": [
            {"type": "text", "text": "words"},
            {"type": "text", "text": data.model_dump_json(exclude_defaults=True)},
        ],
        "structuredContent": data.model_dump(mode="json", exclude_defaults=True),
        "_meta": {REQUESTS_KEY: asked},
    }


def refusal(words: str) -> dict[str, Any]:
    """A tool's refusal."""
    return {"content": [{"type": "text", "text": words}], "isError": True}


def price(usd: float | None, source: str = "live") -> dict[str, Any]:
    """What check_pricing answers, as far as the gallery reads it."""
    one = {"model": "flux-2-pro-text-to-image", "usd": usd}
    return {"content": [], "structuredContent": {"prices": [one | {"source": source}], "estimate": one}}


def picture(number: int, ratio: str = "1:1") -> dict[str, str]:
    """The contents of one image resource."""
    return {"uri": f"flux2://images/task-{number}", "mimeType": "image/webp", "blob": _drawn(number % DRAWN, ratio)}


@cache
def _drawn(number: int, ratio: str) -> str:
    """A WebP of 768 pixels, base64."""
    width, height = size_of(ratio, "1k")
    scale = 768 / max(width, height)
    file = io.BytesIO()
    ImageOps.fit(_square(number), (round(width * scale), round(height * scale))).save(
        file, "WEBP", quality=80, method=0
    )
    return base64.b64encode(file.getvalue()).decode()


@cache
def _square(number: int) -> Image.Image:
    drawn = render(
        plain="FLUX2_TESTS_SCREENSHOTS" not in os.environ,  # then nobody looks at them
        prompt=PROMPTS[number],
        variant="pro",
        model="flux-2-pro-text-to-image",
        action="text_to_image",
        aspect_ratio="1:1",
        output_resolution="1k",
    )
    with Image.open(io.BytesIO(drawn)) as image:
        return image.convert("RGB")
