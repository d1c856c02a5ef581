"""A running sandbox and a plain HTTP client for it, for the tests that speak to it over loopback."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from flux2_mcp.sandbox.server import Sandbox
from tests.support import described

TEXT = "/api/v1/flux_2/text_to_image"
REMIX = "/api/v1/flux_2/remix_image"
POLLS = 5_000
LOGO = "a flat fox logo on white"
"""For a test in a sandbox that is slow enough to draw scenes: this is drawn in a tenth of the time."""
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Never used, as all is plain HTTP; without it each client would load all authorities, for a tenth of a second."""


@dataclass(frozen=True)
class Api:
    """The sandbox, a client with its key, and one without."""

    sandbox: Sandbox
    http: httpx2.Client
    anyone: httpx2.Client

    def create(self, prompt: str = "a cat", key: str | None = None, **fields: Any) -> httpx2.Response:  # noqa: ANN401  # any JSON
        """One create call; a remix where it has sources."""
        path, action = (REMIX, "remix-image") if "source_image_urls" in fields else (TEXT, "text-to-image")
        body = {"model": f"flux-2-pro-{action}", "prompt": prompt} | fields
        return self.http.post(path, json=body, headers={} if key is None else {"Idempotency-Key": key})

    def ended(self, created: httpx2.Response) -> dict[str, Any]:
        """The task of a create call, polled until it has ended."""
        path = f"{created.request.url.path}/{created.json()['id']}"
        for _ in range(POLLS):
            task: dict[str, Any] = self.http.get(path).json()
            if task["status"] not in {"pending", "processing"}:
                return task
        raise AssertionError(path)

    def image(self, prompt: str = "[sandbox:instant] a cat", **fields: Any) -> str:  # noqa: ANN401  # any JSON
        """The URL of a new image."""
        return str(self.ended(self.create(prompt, **fields))["images"][0]["url"])


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[Api]:  # noqa: ANN401  # whatever Sandbox takes
    """A sandbox a thousand times faster than life and without a rate limit, unless told otherwise.

    Each answer that its clients are given has to be one that the OpenAPI document has.
    """
    with Sandbox(folder / "sandbox", **({"speed": 1000.0, "rate": None} | options)) as sandbox:
        more: dict[str, Any] = {
            "base_url": sandbox.base_url,
            "verify": TLS,
            "timeout": 60,
            "event_hooks": {"response": [described.check]},
        }
        key = {"Authorization": f"Bearer {sandbox.api_key}"}
        with httpx2.Client(headers=key, **more) as http, httpx2.Client(**more) as anyone:
            yield Api(sandbox, http, anyone)


def outcome(response: httpx2.Response) -> tuple[int, Any]:
    """Status and JSON, to compare in one go."""
    return response.status_code, response.json()


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def wrong_fields(response: httpx2.Response) -> list[str]:
    """The fields that a validation error names, sorted."""
    body = response.json()
    assert (response.status_code, body["error"]) == (422, "Validation failed")
    assert all(isinstance(text, str) for texts in body["errors"].values() for text in texts)
    return sorted(body["errors"])
