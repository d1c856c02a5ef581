"""Result images: their signed, temporary addresses, their sources, and their drawing."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from flux2_mcp.domain import catalog
from flux2_mcp.domain.urls import is_loopback
from flux2_mcp.sandbox import scenarios, tasks, uploads
from flux2_mcp.sandbox.http import HttpError
from flux2_mcp.sandbox.state import SandboxState
from flux2_mcp.sandbox.tasks import RESULT_SECONDS, SandboxTask

FOREIGN = ""
"""The reference of a source on another host: it is never fetched, and the drawing leaves it out."""

PLAIN_FROM_SPEED = 100
"""From this speed on, pictures are plain: no person looks at them, and a drawing costs more processor time than the
rest of its task."""


class SourceError(Exception):
    """A source image can't be read; the text says why."""


MAX_PIXELS = 300_000_000
"""The largest picture that is made of a source."""
_SUFFIXES = {"image/jpeg": ".jpg", "image/webp": ".webp"}


def address(state: SandboxState, task: SandboxTask, base_url: str) -> str:
    """The signed address of a completed task's image, valid for 7 days from the task's end."""
    ended = int(task.ends_at or 0)
    # If the script says so, the first address has already expired.
    expires = ended - 1 if task.script.first_url_dead and task.shown <= 1 else ended + int(RESULT_SECONDS)
    return f"{base_url}/results/{task.id}{_suffix(state, task)}?expires={expires}&signature={_signature(state, task.id, expires)}"


def _suffix(state: SandboxState, task: SandboxTask) -> str:
    """An enlarged picture is of its source's kind, all others are PNG."""
    if task.sources and task.about.sandbox.get("does") == "enlarge":
        kind, _, name = task.sources[0].partition(":")
        if kind == "file" and (upload := uploads.find(state, name)) is not None:
            return _SUFFIXES.get(upload.mime_type, ".png")
        if kind == "task" and (other := tasks.find(state, name)) is not None:
            return _suffix(state, other)
    return ".png"


def find(state: SandboxState, task_id: str, expires: str, signature: str) -> SandboxTask:
    """The completed task behind such an address.

    Raises:
        HttpError: 403 for an address that was not signed here, 410 for one that has expired.
    """
    task = tasks.find(state, task_id)
    # The signature is checked before the rest of the address is used.
    if task is None or not hmac.compare_digest(_signature(state, task_id, expires).encode(), signature.encode()):
        raise HttpError(403, "forbidden", "This address is not valid.")
    if state.clock() >= int(expires):
        raise HttpError(410, "gone", "This address has expired.")
    return task


def _signature(state: SandboxState, task_id: str, expires: int | str) -> str:
    return hmac.new(state.secret, f"{task_id} {expires}".encode(), hashlib.sha256).hexdigest()


def refer(state: SandboxState, url: str) -> str:
    """A lasting reference to the source behind a temporary address: `task:<id>`, `file:<id>` or `FOREIGN`.

    Every loopback port counts as ours: another process may have served the address.

    Raises:
        SourceError: It is one of our addresses and has expired, is not valid, or leads to no image.
    """
    parts = urlsplit(url)
    folder, _, name = parts.path.strip("/").partition("/")
    if parts.scheme != "http" or not is_loopback(parts.hostname) or folder not in {"results", "files"}:
        return FOREIGN
    if folder == "results":
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        try:
            task = find(state, name.partition(".")[0], query.get("expires", ""), query.get("signature", ""))
        except HttpError as exc:
            raise SourceError("its URL has expired or is not valid") from exc
        if task.script.truncated:
            raise SourceError("it is not a readable image")
        return f"task:{task.id}"
    upload = uploads.find(state, name)
    if upload is None or not upload.alive(state.clock()):
        raise SourceError("its URL has expired or is not valid")
    content = uploads.content(state, upload)
    if content is None:
        return FOREIGN
    _proved(content)
    return f"file:{upload.id}"


def _proved(content: bytes) -> None:
    from flux2_mcp.sandbox.drawing import draw

    try:
        draw.read_sources([content])
    except draw.SourceImageError as exc:
        raise SourceError("it is not a readable image") from exc


def delivered(state: SandboxState, task: SandboxTask) -> bytes:
    """The bytes behind a completed task's address, drawn at the first request; the script may truncate them."""
    content = _drawn(state, task)
    return content[: len(content) * 3 // 5] if task.script.truncated else content


def _drawn(state: SandboxState, task: SandboxTask) -> bytes:
    path = state.results / f"{task.id}.png"
    if path.exists():
        return path.read_bytes()
    sources = [found for reference in task.sources if (found := source(state, reference)) is not None]
    content = _made(state, task, sources) if "prompt" in task.body else _finished(task, sources)
    _mark(state, task, content)
    state.write_file(path, content)
    return content


def _mark(state: SandboxState, task: SandboxTask, content: bytes) -> None:
    """Write down how a picture is known again that has markers for later tasks: a client may send it as a file of its own."""
    if scenarios.names_actions(_text(task)) and (digest := _digest(content)) is not None:
        state.database.execute("INSERT OR REPLACE INTO marked_picture VALUES (?, ?)", (digest, task.id))


def _digest(content: bytes) -> str | None:
    from flux2_mcp.sandbox.drawing import draw

    return draw.digest(content)


def _text(task: SandboxTask) -> str:
    return str(task.body.get("prompt") or task.markers.partition(tasks.OWN_MARKERS)[0])


def _finished(task: SandboxTask, sources: list[bytes]) -> bytes:
    from flux2_mcp.sandbox.drawing import cut_out, enlarge

    if not sources:  # it has been deleted since: `SandboxState.tidy`
        raise HttpError(410, "gone", "The source image is not there any more.")
    does = None if task.script.other_ratio else task.about.sandbox.get("does")
    if does == "enlarge":
        return enlarge.enlarge(sources[0], factor(task.about, task.body))
    return cut_out.cut_out(sources[0]) if does == "cut_out" else sources[0]


def _made(state: SandboxState, task: SandboxTask, sources: list[bytes]) -> bytes:
    from flux2_mcp.sandbox.drawing import draw

    variant = task.about.variant
    return draw.render(
        prompt=task.body["prompt"],
        variant=variant,
        model=task.model,
        action=task.action,
        aspect_ratio=task.aspect_ratio,
        output_resolution=task.resolution,
        sources=sources,
        size=_other_size(task, sources) if task.script.other_ratio else None,
        # The key changes the drawing: several images of one prompt are different pictures, as RunAPI's are.
        take=task.idempotency_key or "",
        accent=accent(variant),
        plain=state.speed >= PLAIN_FROM_SPEED,
    )


def factor(model: catalog.Model, body: Mapping[str, Any]) -> int:
    """How many times as long each side of a finished picture is: as the request says, or else the catalogue."""
    asked = None if model.size_field is None else body.get(model.size_field)
    return int(model.sandbox.get("factor", 1) if asked is None else asked)


def accent(variant: str) -> tuple[int, int, int] | None:
    """The colour (red, green, blue) that the catalogue gives a variant, if any."""
    named = catalog.variant_notes(variant).get("sandbox", {}).get("accent")
    return None if named is None else (named[0], named[1], named[2])


def origin(state: SandboxState, reference: str) -> str:
    """The text with the markers for the tasks that work on a picture: the prompt that it was made from; else empty.

    An upload is known for the sandbox's own picture by its pixels.
    """
    kind, _, name = reference.partition(":")
    task = tasks.find(state, name) if kind == "task" else None
    if kind == "file" and state.database.read("SELECT 1 FROM marked_picture LIMIT 1"):
        digest = _digest(source(state, reference) or b"")
        for row in state.database.read("SELECT task_id FROM marked_picture WHERE digest = ?", (digest,)):
            task = tasks.find(state, row["task_id"])
    return "" if task is None else _text(task)


def too_large(state: SandboxState, reference: str, times: int) -> str | None:
    """Why a picture is too large to be enlarged so many times, or to be worked on at all; None if it is not."""
    from flux2_mcp.sandbox.drawing import enlarge

    width, height = _size(state, reference)
    if width * height > enlarge.MAX_SOURCE_PIXELS:
        return f"it has more than {enlarge.MAX_SOURCE_PIXELS // 1_000_000} megapixels"
    if width * height * times**2 > MAX_PIXELS:
        return f"the result would have more than {MAX_PIXELS // 1_000_000} megapixels"
    return None


def _size(state: SandboxState, reference: str) -> tuple[int, int]:
    """A source's width and height, without drawing it where that is not needed."""
    kind, _, name = reference.partition(":")
    task = tasks.find(state, name) if kind == "task" else None
    if task is not None and task.sources and "prompt" not in task.body and not task.script.other_ratio:
        width, height = _size(state, task.sources[0])
        times = factor(task.about, task.body)
        return width * times, height * times
    from flux2_mcp.sandbox.drawing import draw

    content = source(state, reference)
    return (0, 0) if content is None else draw.measure(content)


def source(state: SandboxState, reference: str) -> bytes | None:
    """The bytes behind a reference; None for a foreign one, and for a file that `SandboxState.tidy` has deleted."""
    kind, _, name = reference.partition(":")
    if kind == "task" and (task := tasks.find(state, name)) is not None:
        return _drawn(state, task)
    if kind == "file" and (upload := uploads.find(state, name)) is not None:
        return uploads.content(state, upload)
    return None


def _other_size(task: SandboxTask, sources: list[bytes]) -> tuple[int, int]:
    """A size with another ratio than the request's."""
    from flux2_mcp.sandbox.drawing import draw

    first = next((found.size for found in draw.read_sources(sources[:1])), None)
    width, height = draw.size_of(task.aspect_ratio, task.resolution, first)
    return draw.size_of("9:16" if width >= height else "16:9", task.resolution)
