"""Callbacks without an address: sessions, and the events of the tasks that ended while a session was open.

A session lives for `SESSION_SECONDS` after its last call. Its events are numbered from 1, and one that was acknowledged
does not come again. A task with a `callback_url` has no event.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from starlette.responses import JSONResponse, Response

from flux2_mcp.sandbox import tasks
from flux2_mcp.sandbox.api import task_json
from flux2_mcp.sandbox.http import HttpError, SandboxCall
from flux2_mcp.sandbox.state import SandboxState

SESSION_SECONDS = 120.0
MAX_SESSIONS = 16
"""Sessions of a folder. A new one beyond that ends the oldest."""
MAX_EVENTS = 100
"""Events of one answer; later ones come with the next."""
MAX_ID_DIGITS = 10


def open_session(state: SandboxState, call: SandboxCall) -> Response:
    """`POST /api/v1/cli/listen_sessions`: a session for the tasks that end from now on."""
    del call
    token, now = secrets.token_urlsafe(24), state.clock()
    with state.database.write():
        state.database.execute("INSERT INTO listen_session VALUES (?, ?, ?)", (token, now, now))
        state.database.execute(
            "DELETE FROM listen_session WHERE seen_at <= ? OR token NOT IN"
            " (SELECT token FROM listen_session ORDER BY opened_at DESC LIMIT ?)",
            (now - SESSION_SECONDS, MAX_SESSIONS),
        )
        state.database.execute("DELETE FROM listen_event WHERE token NOT IN (SELECT token FROM listen_session)")
    return JSONResponse({"session_token": token}, 201)


def events(state: SandboxState, call: SandboxCall) -> Response:
    """`GET /api/v1/cli/listen_events?last_id=N`: the events after that one."""
    last_id = _number(call.query.get("last_id", "0"))
    if last_id is None:
        raise HttpError(400, "bad_request", "last_id must be a whole number.")
    now = state.clock()
    with state.database.write():
        token, opened_at = _session(state, call, now)
        state.database.execute(
            """
            INSERT INTO listen_event (token, id, task_id)
            SELECT :token, row_number() OVER (ORDER BY ends_at, number) + (
                SELECT coalesce(max(id), 0) FROM listen_event WHERE token = :token
            ), id
            FROM task
            WHERE ends_at BETWEEN :opened_at AND :now AND json_extract(body, '$.callback_url') IS NULL
                AND id NOT IN (SELECT task_id FROM listen_event WHERE token = :token)
            ORDER BY ends_at, number LIMIT :most
            """,
            {"token": token, "opened_at": opened_at, "now": now, "most": MAX_EVENTS},
        )
        sql = "SELECT id, task_id FROM listen_event WHERE token = ? AND id > ? AND NOT acked ORDER BY id LIMIT ?"
        rows = state.database.read(sql, (token, last_id, MAX_EVENTS))
    found = [_event(state, call, row["id"], row["task_id"], now) for row in rows]
    return JSONResponse({"events": found})


def acknowledge(state: SandboxState, call: SandboxCall) -> Response:
    """`POST /api/v1/cli/listen_events/{id}/ack`: the event does not come again."""
    with state.database.write():
        token, _ = _session(state, call, state.clock())
        sql = "UPDATE listen_event SET acked = 1 WHERE token = ? AND id = ?"
        if not state.database.execute(sql, (token, _number(call.path["id"]))):
            raise HttpError(404, "not_found", "No such event")
    return Response(status_code=204)


def close_session(state: SandboxState, call: SandboxCall) -> Response:
    """`DELETE /api/v1/cli/listen_sessions/{token}`: ends a session."""
    with state.database.write():
        state.database.execute("DELETE FROM listen_event WHERE token = ?", (call.path["token"],))
        if not state.database.execute("DELETE FROM listen_session WHERE token = ?", (call.path["token"],)):
            raise HttpError(404, "not_found", "No such session")
    return Response(status_code=204)


def _session(state: SandboxState, call: SandboxCall, now: float) -> tuple[str, float]:
    """The token of the call's session, which lives on, and when the session began."""
    token = call.headers.get("x-session-token", "")
    sql = "UPDATE listen_session SET seen_at = ? WHERE token = ? AND seen_at > ?"
    if not state.database.execute(sql, (now, token, now - SESSION_SECONDS)):
        raise HttpError(404, "not_found", "The session has expired, or was never opened.")
    (row,) = state.database.read("SELECT opened_at FROM listen_session WHERE token = ?", (token,))
    return token, float(row["opened_at"])


def _event(state: SandboxState, call: SandboxCall, event_id: int, task_id: str, now: float) -> dict[str, Any]:
    task = tasks.find(state, task_id)
    body = {} if task is None else task_json(state, task, call.base_url, now)
    headers = {"Content-Type": "application/json", "X-RunAPI-Task-Id": task_id}
    return {"id": event_id, "signed_body": json.dumps(body), "headers": headers}


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_ID_DIGITS else None
