"""Reads `multipart/form-data` (RFC 7578), of a body that is in memory and bounded already."""

from __future__ import annotations

from email.message import Message

from msgspec import Struct

from flux2_mcp.sandbox.http import HttpError, SandboxCall

MAX_PARTS = 16


class Part(Struct, frozen=True):
    """One field. `filename` is None for plain text."""

    filename: str | None
    content: bytes


def parts(call: SandboxCall) -> dict[str, Part]:
    """The fields of a call by name; of two with one name, the last.

    Raises:
        HttpError: 415 for another content type; 400 for a body that is not of it, or has more than `MAX_PARTS` fields.
    """
    header = _header("Content-Type", call.headers.get("content-type", ""))
    if header.get_content_type() != "multipart/form-data":
        raise HttpError(415, "unsupported_media_type", "Send multipart/form-data.")
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise _broken()
    # The first boundary may stand without a line before it.
    first, *found = (b"\r\n" + call.body).split(b"\r\n--" + boundary.encode("latin-1", "replace"))
    if first or not found or len(found) > MAX_PARTS + 1 or not found[-1].startswith(b"--"):
        raise _broken()
    return dict(_part(text) for text in found[:-1])


def _part(text: bytes) -> tuple[str, Part]:
    head, blank, content = text.partition(b"\r\n\r\n")
    lines = [line.partition(":") for line in head.decode("utf-8", "replace").split("\r\n")]
    shown = next((value for name, _, value in lines if name.strip().lower() == "content-disposition"), "")
    header = _header("Content-Disposition", shown)
    name, filename = header.get_param("name", header="content-disposition"), header.get_filename()
    if not blank or not isinstance(name, str):
        raise _broken()
    return name, Part(filename, content)


def _header(name: str, value: str) -> Message:
    message = Message()
    message[name] = value.replace("\r", " ").replace("\n", " ")
    return message


def _broken() -> HttpError:
    return HttpError(400, "bad_request", "The body is not valid multipart/form-data.")
