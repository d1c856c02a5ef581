"""Files that last (`/v1/files`), and uploads of them in parts (`/v1/uploads`).

A file is kept for `KEEP_DAYS` days, an upload for one hour. A folder holds at most `MAX_FILES` files, and as many uploads.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse, Response

from flux2_mcp.sandbox.http import HttpError, SandboxCall, invalid
from flux2_mcp.sandbox.multipart import parts
from flux2_mcp.sandbox.state import KEEP_DAYS, SandboxState
from flux2_mcp.sandbox.uploads import MAX_FILE_BYTES, MAX_NAME_CHARS
from flux2_mcp.system.sqlite_file import Row

MAX_FILES = 100
MAX_UPLOAD_PARTS = 64
MAX_BODY_BYTES = MAX_FILE_BYTES + 65_536
"""Bytes of a body that holds a file and its fields."""
FILE_SECONDS = KEEP_DAYS * 86_400.0
UPLOAD_SECONDS = 3_600.0
PAGE, MAX_PAGE = 20, 100
MAX_PURPOSE_CHARS = 64


def create(state: SandboxState, call: SandboxCall) -> Response:
    """`POST /v1/files`: a file, in one call."""
    given = parts(call)
    file, purpose = given.get("file"), given.get("purpose")
    wrong = {} if file is not None and file.content else {"file": ["must be a file with at least one byte"]}
    name = (file and file.filename) or "upload"
    words = "user_data" if purpose is None else purpose.content.decode("utf-8", "replace")
    if wrong := wrong | _wrong_names(name, words):
        raise invalid(wrong)
    content = b"" if file is None else file.content
    if len(content) > MAX_FILE_BYTES:
        raise HttpError(413, "payload_too_large", f"The file is larger than {MAX_FILE_BYTES} bytes.")
    with state.database.write():
        return JSONResponse(_file(_kept(state, name, words, content)))


def listed(state: SandboxState, call: SandboxCall) -> Response:
    """`GET /v1/files`: a page of the files, by `after`, `limit`, `order` and `purpose`."""
    limit, order = call.query.get("limit", str(PAGE)), call.query.get("order", "desc")
    wrong = {} if order in {"asc", "desc"} else {"order": ["must be asc or desc"]}
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 3 and 1 <= int(limit) <= MAX_PAGE):  # noqa: PLR2004  # digits of MAX_PAGE
        wrong["limit"] = [f"must be an integer from 1 to {MAX_PAGE}"]
    if wrong:
        raise invalid(wrong)
    later = "<" if order == "desc" else ">"
    sql = (
        "SELECT * FROM file WHERE expires_at > :now AND (:purpose IS NULL OR purpose = :purpose)"
        f" AND (:after IS NULL OR number {later} (SELECT number FROM file WHERE id = :after))"
        f" ORDER BY number {order} LIMIT :limit"
    )
    values = {"now": state.clock(), "purpose": call.query.get("purpose"), "after": call.query.get("after")}
    rows = state.database.read(sql, values | {"limit": int(limit) + 1})
    shown = [_file(row) for row in rows[: int(limit)]]
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
    return JSONResponse({"object": "list", "data": shown, **ends, "has_more": len(rows) > int(limit)})


def retrieve(state: SandboxState, call: SandboxCall) -> Response:
    """`GET /v1/files/{id}`: what is known of a file."""
    return JSONResponse(_file(_found(state, call.path["id"])))


def content(state: SandboxState, call: SandboxCall) -> Response:
    """`GET /v1/files/{id}/content`: its bytes."""
    path = _path(state, _found(state, call.path["id"])["id"])
    if not path.exists():
        raise HttpError(404, "not_found", "No such file")
    # A browser must not run an uploaded file.
    return Response(
        path.read_bytes(), headers={"Content-Disposition": "attachment"}, media_type="application/octet-stream"
    )


def delete(state: SandboxState, call: SandboxCall) -> Response:
    """`DELETE /v1/files/{id}`: it is gone at once."""
    with state.database.write():
        row = _found(state, call.path["id"])
        state.database.execute("DELETE FROM file WHERE id = ?", (row["id"],))
    _path(state, row["id"]).unlink(missing_ok=True)
    return JSONResponse({"id": row["id"], "object": "file", "deleted": True})


def begin(state: SandboxState, call: SandboxCall) -> Response:
    """`POST /v1/uploads`: an upload whose bytes come in parts."""
    body = call.json()
    size, name, purpose = body.get("bytes"), body.get("filename"), body.get("purpose", "user_data")
    known = {"bytes", "filename", "mime_type", "purpose"}
    wrong = {field: ["is not a known field"] for field in body if field not in known} | _wrong_names(name, purpose)
    if type(size) is not int or not 1 <= size <= MAX_FILE_BYTES:
        wrong["bytes"] = [f"must be an integer from 1 to {MAX_FILE_BYTES}"]
    if not isinstance(body.get("mime_type"), str):
        wrong["mime_type"] = ["must be text"]
    if wrong:
        raise invalid(wrong)
    now, upload_id = state.clock(), f"upload_{secrets.token_hex(12)}"
    with state.database.write():
        _tidied(state, now)
        _room(state, "file_upload")
        sql = "INSERT INTO file_upload VALUES (?, ?, ?, ?, 'pending', ?, ?, NULL)"
        state.database.execute(sql, (upload_id, name, purpose, size, now, now + UPLOAD_SECONDS))
        return JSONResponse(_upload(state, upload_id))


def add_part(state: SandboxState, call: SandboxCall) -> Response:
    """`POST /v1/uploads/{id}/parts`: one part's bytes."""
    given = parts(call).get("data")
    if given is None or not given.content:
        raise invalid({"data": ["must be a file with at least one byte"]})
    part_id, now = f"part_{secrets.token_hex(12)}", state.clock()
    with state.database.write():
        upload = _pending(state, call.path["id"])
        sql = "SELECT count(*) AS parts, coalesce(sum(bytes), 0) AS bytes FROM upload_part WHERE upload_id = ?"
        (sums,) = state.database.read(sql, (upload["id"],))
        if sums["parts"] >= MAX_UPLOAD_PARTS or sums["bytes"] + len(given.content) > upload["bytes"]:
            raise invalid({"data": [f"must be at most {MAX_UPLOAD_PARTS} parts of {upload['bytes']} bytes together"]})
        state.write_file(_path(state, part_id), given.content)
        sql = "INSERT INTO upload_part VALUES (?, ?, ?)"
        state.database.execute(sql, (part_id, upload["id"], len(given.content)))
    shown = {"id": part_id, "object": "upload.part", "created_at": int(now), "upload_id": upload["id"]}
    return JSONResponse(shown)


def complete(state: SandboxState, call: SandboxCall) -> Response:
    """`POST /v1/uploads/{id}/complete`: the parts, in the order of `part_ids`, become a file."""
    asked = call.json().get("part_ids")
    with state.database.write():
        upload = _pending(state, call.path["id"])
        rows = state.database.read("SELECT id, bytes FROM upload_part WHERE upload_id = ?", (upload["id"],))
        sizes = {row["id"]: row["bytes"] for row in rows}
        named = asked if isinstance(asked, list) and all(isinstance(each, str) for each in asked) else []
        if len(set(named)) != len(named) or not named or set(named) - sizes.keys():
            raise invalid({"part_ids": ["must name parts of this upload, each once"]})
        if sum(sizes[each] for each in named) != upload["bytes"]:
            raise invalid({"part_ids": [f"must have {upload['bytes']} bytes together"]})
        bytes_ = b"".join(_path(state, each).read_bytes() for each in named)
        row = _kept(state, upload["filename"], upload["purpose"], bytes_)
        _ended(state, upload["id"], "completed", row["id"])
        return JSONResponse(_upload(state, upload["id"]))


def cancel(state: SandboxState, call: SandboxCall) -> Response:
    """`POST /v1/uploads/{id}/cancel`: its parts are gone."""
    with state.database.write():
        upload = _pending(state, call.path["id"])
        _ended(state, upload["id"], "cancelled", None)
        return JSONResponse(_upload(state, upload["id"]))


def _wrong_names(name: object, purpose: object) -> dict[str, list[str]]:
    bounds = {"filename": (name, MAX_NAME_CHARS), "purpose": (purpose, MAX_PURPOSE_CHARS)}
    return {
        field: [f"must be 1 to {most} printable characters"]
        for field, (text, most) in bounds.items()
        if not (isinstance(text, str) and 0 < len(text) <= most and text.isprintable() and text.strip())
    }


def _kept(state: SandboxState, name: str, purpose: str, content: bytes) -> Row:
    """Store a file. Called inside a transaction."""
    now, file_id = state.clock(), f"file_{secrets.token_hex(12)}"
    _tidied(state, now)
    _room(state, "file")
    state.write_file(_path(state, file_id), content)
    sql = "INSERT INTO file (id, filename, purpose, bytes, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)"
    state.database.execute(sql, (file_id, name, purpose, len(content), now, now + FILE_SECONDS))
    return _found(state, file_id)


def _room(state: SandboxState, table: str) -> None:
    (row,) = state.database.read(f"SELECT count(*) AS held FROM {table}")
    if row["held"] >= MAX_FILES:
        raise HttpError(409, "conflict", f"This sandbox holds {MAX_FILES} already: delete some, or wait.")


def _tidied(state: SandboxState, now: float) -> None:
    """Delete what has expired. The bytes go with `SandboxState.tidy`."""
    state.database.execute("DELETE FROM file WHERE expires_at <= ?", (now,))
    state.database.execute("DELETE FROM file_upload WHERE expires_at <= ?", (now,))
    state.database.execute("DELETE FROM upload_part WHERE upload_id NOT IN (SELECT id FROM file_upload)")


def _ended(state: SandboxState, upload_id: str, status: str, file_id: str | None) -> None:
    for row in state.database.read("SELECT id FROM upload_part WHERE upload_id = ?", (upload_id,)):
        _path(state, row["id"]).unlink(missing_ok=True)
    state.database.execute("DELETE FROM upload_part WHERE upload_id = ?", (upload_id,))
    sql = "UPDATE file_upload SET status = ?, file_id = ? WHERE id = ?"
    state.database.execute(sql, (status, file_id, upload_id))


def _found(state: SandboxState, file_id: str) -> Row:
    rows = state.database.read("SELECT * FROM file WHERE id = ? AND expires_at > ?", (file_id, state.clock()))
    if not rows:
        raise HttpError(404, "not_found", "No such file")
    return rows[0]


def _pending(state: SandboxState, upload_id: str) -> Row:
    rows = state.database.read("SELECT * FROM file_upload WHERE id = ?", (upload_id,))
    if not rows or rows[0]["expires_at"] <= state.clock():
        raise HttpError(404, "not_found", "No such upload")
    if rows[0]["status"] != "pending":
        raise HttpError(409, "conflict", f"This upload is {rows[0]['status']}.")
    return rows[0]


def _path(state: SandboxState, name: str) -> Path:
    return state.uploads / name


def _file(row: Row) -> dict[str, Any]:
    named = {name: row[name] for name in ("id", "bytes", "filename", "purpose")}
    return named | {"object": "file", "created_at": int(row["created_at"]), "expires_at": int(row["expires_at"])}


def _upload(state: SandboxState, upload_id: str) -> dict[str, Any]:
    (row,) = state.database.read("SELECT * FROM file_upload WHERE id = ?", (upload_id,))
    named = {name: row[name] for name in ("id", "bytes", "filename", "purpose", "status")}
    times = {"created_at": int(row["created_at"]), "expires_at": int(row["expires_at"])}
    file = None if row["file_id"] is None else _file(_found(state, row["file_id"]))
    return named | times | {"object": "upload", "file": file}
