"""Which addresses may leave this machine in a request. Pure; deny by default."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from flux2_mcp.errors import Problem
from flux2_mcp.settings import is_loopback

LONGEST_URL = 2048


def source_problems(sources: Sequence[str], *, local: bool) -> list[Problem]:
    """What is wrong with source images, one problem each.

    Args:
        sources: As the caller gave them.
        local: True where RunAPI itself stands on loopback, so that its own results may be sources.
    """
    wrong = [number for number, url in enumerate(sources, 1) if not is_url(url, local=local)]
    return [
        Problem("source_images", f"item {number} is neither an https URL nor task:ID of an earlier result.")
        for number in wrong
    ]


def callback_problems(url: str | None, *, local: bool) -> list[Problem]:
    """What is wrong with a callback URL."""
    if url is None or is_url(url, local=local):
        return []
    return [Problem("callback_url", "is not an https URL that RunAPI could reach.")]


def is_url(text: str, *, local: bool) -> bool:
    """True for https with a host and no credentials; with `local`, for plain http on loopback too."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    if len(text) > LONGEST_URL or not text.isprintable() or " " in text or "@" in parts.netloc:
        return False
    return bool(parts.hostname) and (
        parts.scheme == "https" or (local and parts.scheme == "http" and is_loopback(parts.hostname))
    )
