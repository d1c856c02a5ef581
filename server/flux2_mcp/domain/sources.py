"""The forms of a source image: an https URL, `task:ID`, a path, or a `data:` URI. Pure."""

from __future__ import annotations

import base64
import binascii
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

from flux2_mcp.domain.hidden_fields import repr_without
from flux2_mcp.domain.urls import is_url
from flux2_mcp.errors import Flux2Error

TASK, DATA, FILE = "task:", "data:", "file:"
MAX_SOURCE_BYTES = 32 * 1024 * 1024
"""Bytes of one source image. RunAPI states no limit (`api/runapi.md`, files); a photo of 50 megapixels has half."""

Kind = Literal["url", "task", "file", "data"]


class SourceRef(Struct, frozen=True):
    """One source, parsed: `text` is a URL, a task's id or a file's path; `data` has the bytes of a `data:` URI."""

    kind: Kind
    text: str
    data: bytes = b""

    __repr__ = repr_without("data")


class UnreadableError(Flux2Error):
    """A source can't be sent. The message is the end of a sentence that begins with the source's number."""

    code = "unreadable_source"


def parse(text: str, *, local: bool, max_bytes: int = MAX_SOURCE_BYTES) -> SourceRef:
    """Parse a source.

    Args:
        text: The caller's text.
        local: True if RunAPI itself is on loopback (the sandbox), so that its own results may be sources.
        max_bytes: A `data:` URI with more bytes is refused.

    Raises:
        UnreadableError: The text has none of the forms.
    """
    if text.startswith(TASK):
        return SourceRef("task", text.removeprefix(TASK))
    if text.startswith(DATA):
        return _data(text, max_bytes)
    if text.startswith(FILE):
        if (path := file_path(text)) is None:
            raise UnreadableError("is a file: URI of another machine, or a broken one.")
        return SourceRef("file", path)
    if "://" in text or text.startswith("//"):
        if not is_url(text, local=local):
            raise UnreadableError("is a URL that is not https, or not whole.")
        return SourceRef("url", text)
    if not text.strip() or not text.isprintable():
        raise UnreadableError("is neither an https URL, a path, task:ID of an earlier result, nor a data: URI.")
    return SourceRef("file", text)


def file_path(uri: str) -> str | None:
    """The path of a `file:` URI of this machine; None for any other."""
    from urllib.request import url2pathname  # it loads an HTTP client, and few sources are such addresses

    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    path = url2pathname(parts.path)
    return path if path and parts.scheme == "file" and parts.netloc in {"", "localhost"} else None


def is_local(text: str) -> bool:
    """True for a path, whose meaning depends on the caller's working folder."""
    try:
        return not text.startswith(DATA) and parse(text, local=False).kind == "file"
    except UnreadableError:
        return False


def _data(text: str, max_bytes: int) -> SourceRef:
    head, comma, payload = text.partition(",")
    if not comma or not head.endswith(";base64"):
        raise UnreadableError("is a data: URI that is not base64.")
    if len(payload) > max_bytes * 4 // 3 + 4:
        raise UnreadableError(f"holds more than {max_bytes // 2**20} MB.")
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise UnreadableError("is a data: URI whose base64 is broken.") from exc
    return SourceRef("data", "data: URI", data)
