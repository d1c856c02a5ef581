"""Source images: uploaded by prepare, put and confirm, or in one call. Each has an unguessable URL for one hour."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import mimetypes
import secrets
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from flux2_mcp.sandbox.http import HttpError, invalid
from flux2_mcp.sandbox.state import SandboxState, stamp

MAX_FILE_BYTES = 32 * 1024 * 1024
"""Bytes of one file."""
MAX_BASE64_CHARS = MAX_FILE_BYTES * 4 // 3 + 4_096
"""Bytes of a body that holds such a file in base64."""
URL_SECONDS = 3_600.0
"""How long an upload's target accepts bytes, and how long a confirmed file's URL is valid (`api/runapi.md`, files)."""
MAX_NAME_CHARS = 255
MD5_BYTES = 16
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)


class Upload(Struct, frozen=True, kw_only=True):
    """One row. Times are seconds since the epoch.

    `id` is the file in its URL, `target` the address for its bytes, `signed_id` the upload in the confirm call; each is
    a secret. `held` is false for a foreign address, which is only noted.
    """

    id: str
    target: str | None
    signed_id: str | None
    file_name: str
    size_bytes: int
    checksum: str | None
    mime_type: str
    prepared_at: float
    stored_at: float | None
    confirmed_at: float | None
    held: bool

    @property
    def headers(self) -> dict[str, str]:
        """The headers that its bytes must come with."""
        return {"Content-Type": self.mime_type, "Content-MD5": self.checksum or ""}

    def alive(self, now: float) -> bool:
        """True while its URL is valid."""
        return self.confirmed_at is not None and now < self.confirmed_at + URL_SECONDS


def prepare(state: SandboxState, body: dict[str, Any]) -> Upload:
    """Make a target for the bytes that `body` describes.

    Raises:
        HttpError: 422 with the problems of `filename`, `byte_size` (1 to `MAX_FILE_BYTES`) or `checksum` (base64 of an
            MD5).
    """
    name, size, checksum = (body.get(field) for field in ("filename", "byte_size", "checksum"))
    wrong = _unknown(body, "filename", "byte_size", "checksum") | _wrong_name("filename", name)
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_FILE_BYTES:
        wrong["byte_size"] = [f"must be an integer from 1 to {MAX_FILE_BYTES}"]
    if len(_decoded(checksum)) != MD5_BYTES:
        wrong["checksum"] = ["must be the base64 of the bytes' MD5"]
    if wrong:
        raise invalid(wrong)
    return _insert(state, str(name), int(str(size)), checksum=str(checksum))


def put(state: SandboxState, target: str, headers: dict[str, str], content: bytes) -> None:
    """Take the bytes for a prepared target, once.

    Raises:
        HttpError: 403 for a target that is unknown, used or too old; 400 if a prepared header is missing or differs, or
            the bytes are not those that the prepare call described.
    """
    upload = _one(state, "target", target)
    now = state.clock()
    if upload is None or now >= upload.prepared_at + URL_SECONDS:
        raise _spent()
    for name, value in upload.headers.items():
        if headers.get(name.lower()) != value:
            raise HttpError(400, "bad_request", f"Send exactly the headers of the prepare call: {name}.")
    if len(content) != upload.size_bytes:
        raise HttpError(400, "bad_request", f"Announced were {upload.size_bytes} bytes, {len(content)} came.")
    if not hmac.compare_digest(_md5(content), upload.checksum or ""):
        raise HttpError(400, "bad_request", "The bytes don't match their Content-MD5.")
    # The file is written before the row is updated. A second call writes the same bytes.
    state.write_file(state.uploads / upload.id, content)
    sql = "UPDATE upload SET stored_at = ?, held = 1, mime_type = ? WHERE id = ? AND stored_at IS NULL"
    if state.database.execute(sql, (now, kind(content, upload.file_name), upload.id)) == 0:
        raise _spent()


def _spent() -> HttpError:
    return HttpError(403, "forbidden", "This upload address is not valid, or has been used.")


def confirm(state: SandboxState, body: dict[str, Any]) -> Upload:
    """Open the URL of an upload whose bytes were received. A second confirm changes nothing.

    Raises:
        HttpError: 404 for an unknown `signed_id`, 422 if the bytes were not received.
    """
    signed_id = body.get("signed_id")
    upload = _one(state, "signed_id", signed_id) if isinstance(signed_id, str) and signed_id.isascii() else None
    if upload is None:
        raise HttpError(404, "not_found", "No such upload")
    if upload.stored_at is None:
        raise invalid({"signed_id": ["its bytes have not been uploaded"]})
    sql = "UPDATE upload SET confirmed_at = ? WHERE id = ? AND confirmed_at IS NULL"
    state.database.execute(sql, (state.clock(), upload.id))
    return _one(state, "id", upload.id) or upload


def keep(state: SandboxState, name: str, content: bytes | None) -> Upload:
    """Store a file from one call, confirmed at once. `content` is None for a foreign address: it is never fetched."""
    return _insert(state, name, len(content or b""), content=content, whole=True)


def parse_source(body: dict[str, Any]) -> tuple[str, str | bytes]:
    """The name and the source of `POST /files`: an address, or the decoded bytes.

    Raises:
        HttpError: 422 with the problems of each field.
    """
    source, name = body.get("source"), body.get("file_name")
    wrong = _unknown(body, "source", "file_name") | (_wrong_name("file_name", name) if name is not None else {})
    match source:
        case {"type": "url", "url": str(found), **rest} if not rest and found.isascii():
            value: str | bytes = found
        case {"type": "base64", "data": str(data), **rest} if not rest:
            # A data: address is accepted too, since many clients have one.
            value = _decoded(data.partition(";base64,")[2] if data.startswith("data:") else data)
            if not value:
                wrong["source"] = ["data must be base64 of at least one byte"]
        case _:
            value = ""
            wrong["source"] = ['must be {"type": "url", "url": ...} or {"type": "base64", "data": ...}']
    if wrong:
        raise invalid(wrong)
    guess = value.partition("?")[0].rpartition("/")[2] if isinstance(value, str) else ""
    return str(name or guess or "upload")[:MAX_NAME_CHARS], value


def find(state: SandboxState, file_id: str) -> Upload | None:
    """The file with this id."""
    return _one(state, "id", file_id)


def content(state: SandboxState, upload: Upload) -> bytes | None:
    """The bytes of a file; None if they are not held, or `SandboxState.tidy` has deleted them."""
    path = state.uploads / upload.id
    return path.read_bytes() if upload.held and path.exists() else None


def answer(upload: Upload, base_url: str) -> dict[str, Any]:
    """The JSON of a confirmed file."""
    confirmed = upload.confirmed_at or 0.0
    return {
        "file_name": upload.file_name,
        "url": f"{base_url}/files/{upload.id}",
        "size_bytes": upload.size_bytes,
        "mime_type": upload.mime_type,
        "created_at": stamp(confirmed),
        "expires_at": stamp(confirmed + URL_SECONDS),
    }


def _insert(
    state: SandboxState,
    name: str,
    size: int,
    *,
    checksum: str | None = None,
    content: bytes | None = None,
    whole: bool = False,
) -> Upload:
    now = state.clock()
    upload = Upload(
        id=secrets.token_urlsafe(24),
        target=None if whole else secrets.token_urlsafe(24),
        signed_id=None if whole else secrets.token_urlsafe(24),
        file_name=name,
        size_bytes=size,
        checksum=checksum,
        mime_type=kind(content or b"", name),
        prepared_at=now,
        stored_at=now if whole else None,
        confirmed_at=now if whole else None,
        held=content is not None,
    )
    if content is not None:
        state.write_file(state.uploads / upload.id, content)
    row = asdict(upload)
    names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
    state.database.execute(f"INSERT INTO upload ({names}) VALUES ({marks})", row)
    return upload


def _one(state: SandboxState, column: str, value: str) -> Upload | None:
    rows = state.database.read(f"SELECT * FROM upload WHERE {column} = ?", (value,))
    return next((Upload(**(dict(row) | {"held": bool(row["held"])})) for row in rows), None)


def _unknown(body: dict[str, Any], *known: str) -> dict[str, list[str]]:
    return {name: ["is not a known field"] for name in body if name not in known}


def _wrong_name(field: str, name: object) -> dict[str, list[str]]:
    fits = isinstance(name, str) and 0 < len(name) <= MAX_NAME_CHARS and name.isprintable() and name.strip()
    return {} if fits else {field: [f"must be 1 to {MAX_NAME_CHARS} printable characters"]}


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except (binascii.Error, ValueError):
        return b""


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def kind(content: bytes, name: str) -> str:
    """The MIME type of a file, by its first bytes, or else by its name."""
    found = next((kind for magic, kind in _MAGIC if content.startswith(magic)), None)
    return found or mimetypes.guess_type(name)[0] or "application/octet-stream"
