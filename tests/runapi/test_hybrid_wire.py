"""Hybrid tasks: where one is polled, and what its envelope says."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from flux2_mcp.domain.models import RemoteTask, Status
from flux2_mcp.errors import WireError
from flux2_mcp.runapi import error_text, wire
from tests.support.rows import rows

BASE, CALLED = "https://runapi.ai", "/api/v1/flux_2/text_to_image"
KEY, URL = "sk-run/very+secret", "https://cdn.example.com/1.png"
DONE = {"id": "t", "status": "completed", "images": [{"url": URL}], "usage": {"cost": 0.05}}


def read(status: str, code: object, body: object, content_type: str = "application/json", **more: object) -> RemoteTask:
    """What a GET for a hybrid task makes of its envelope."""
    response = {"status": code, "content_type": content_type, "headers": {}, "body": body}
    said = {"id": "t", "status": status, "error": None, "response": response} | more
    loaded = error_text.loads(json.dumps(said))
    assert isinstance(loaded, dict)
    return wire.task(loaded, asked="t", key=KEY)


@pytest.mark.parametrize(
    "body", [DONE, json.dumps(DONE), {"code": 200, "data": DONE}], ids=["object", "text", "nested"]
)
def test_the_stored_answer_is_read_as_the_endpoints_own(body: object) -> None:
    assert read("completed", 200, body) == RemoteTask(
        task_id="t", status=Status.COMPLETED, image_urls=(URL,), cost_usd=Decimal("0.05")
    )


def test_the_envelope_tells_what_the_stored_answer_leaves_out() -> None:
    task = read("completed", 200, {"images": [{"url": URL}]}, billing={"settlement": {"charged_amount_cents": 5}})
    assert (task.status, task.image_urls, task.cost_usd) == (Status.COMPLETED, (URL,), Decimal("0.05"))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"status": "processing"}, Status.PROCESSING),
        ({"state": "failed", "error": "no"}, Status.FAILED),
        ({}, Status.COMPLETED),
    ],
)
def test_the_stored_answers_own_status_goes_before_the_envelopes(body: object, status: Status) -> None:
    assert read("completed", 200, body).status is status


@rows("body", [None, "", "no JSON", [], 7, "[1]"])
def test_an_end_whose_answer_can_not_be_read_is_one_without_an_image(body: object) -> None:
    assert read("completed", 200, body) == RemoteTask(task_id="t", status=Status.COMPLETED)


@pytest.mark.parametrize("status", ["pending", "processing", "queued"])
def test_nothing_stored_counts_before_the_envelope_says_that_it_has_ended(status: str) -> None:
    for code in (200, 500):
        assert not read(status, code, DONE).status.ended


@rows(
    ("status", "code", "body", "content_type", "words"),
    [
        ("completed", 422, {"error": "Validation failed", "errors": {"prompt": ["too long"]}}, "application/json", "Validation failed: prompt: too long"),
        ("failed", 402, {"error": {"code": "no_credits", "message": "Insufficient credits"}}, "application/json", "Insufficient credits"),
        ("failed", 500, {"message": f"broke with {KEY}"}, "application/json", "broke with ••••"),
        ("completed", 502, "<html><title>502 Bad Gateway</title></html>", "text/html", "502 Bad Gateway"),
        ("completed", 503, "come again", "text/plain", "come again"),
        ("completed", "410", None, "application/json", "RunAPI answered 410."),
        ("completed", 302, {}, "application/json", "RunAPI answered 302."),
        ("failed", 200, DONE, "application/json", "RunAPI answered 200."),
    ],
)  # fmt: skip
def test_a_stored_error_is_a_failed_task_with_its_words(
    status: str, code: object, body: object, content_type: str, words: str
) -> None:
    assert read(status, code, body, content_type) == RemoteTask(task_id="t", status=Status.FAILED, error=words)


def test_a_failure_without_a_stored_answer_has_the_envelopes_words() -> None:
    said: dict[str, Any] = {"id": "t", "status": "failed", "error": "moderated", "response": None}
    assert wire.task(said, asked="t") == RemoteTask(task_id="t", status=Status.FAILED, error="moderated")
    assert read("failed", 500, None, error="moderated").error == "moderated"


def test_a_word_that_nobody_promised_is_no_end_of_a_hybrid_task_either() -> None:
    for code in (200, 500):
        assert read("archived", code, DONE).status is Status.UNKNOWN


@rows(
    ("location", "path"),
    [
        ("/api/v1/tasks/t", "/api/v1/tasks/t"),
        ("https://runapi.ai/api/v1/tasks/t", "/api/v1/tasks/t"),
        ("https://RunAPI.ai:443/api/v1/tasks/t?x=1#y", "/api/v1/tasks/t?x=1"),
        ("//runapi.ai/results/t", "/results/t"),
        ("../tasks/t", "/api/v1/tasks/t"),
        (" /api/v1/tasks/t ", "/api/v1/tasks/t"),
        ("https://me@runapi.ai/t", "/t"),
        ("/\\evil.example/t", "/\\evil.example/t"),
    ],
)
def test_a_location_on_our_origin_is_a_path_behind_the_base_url(location: str, path: str) -> None:
    assert wire.location_path(location, CALLED, BASE) == path


@pytest.mark.parametrize(
    "location", ["/api/v1/tasks/t", "/gate/api/v1/tasks/t", "https://proxy.example/gate/api/v1/tasks/t"]
)
def test_a_base_url_with_a_path_keeps_it(location: str) -> None:
    assert wire.location_path(location, CALLED, "https://proxy.example/gate") == "/api/v1/tasks/t"


@rows(
    "location",
    [
        "https://evil.example/api/v1/tasks/t",
        "//evil.example/t",
        "http://runapi.ai/t",
        "https://runapi.ai:8443/t",
        "https://runapi.ai@evil.example/t",
        "https://runapi.ai.evil.example/t",
        "https://runapi.ai:x/t",
        "https://[/t",
        "ftp://runapi.ai/t",
        "javascript:alert(1)",
        "https://runapi.ai",
        "/t t",
        "/t\u00e9",
        f"/{'x' * 8192}",
    ],
)
def test_no_other_location_is_followed_and_nothing_is_lost(location: str) -> None:
    with pytest.raises(WireError, match="Nothing is lost: the same idempotency key finds the task") as caught:
        wire.location_path(location, CALLED, BASE)
    assert "evil" not in caught.value.message


def test_an_id_that_nothing_else_names_is_the_last_part_of_the_location() -> None:
    for location in ("/api/v1/tasks/a%20b", "/api/v1/tasks/a%20b?x=/y"):
        task = wire.task({}, location=location)
        assert (task.task_id, task.location, task.status) == ("a b", location, Status.PENDING)
    assert wire.task({"id": "body"}, named="header", location="/tasks/path").task_id == "body"
    assert wire.task({}, named="header", location="/tasks/path").task_id == "header"
    with pytest.raises(WireError, match="names no task"):
        wire.task({}, location="/tasks/")


@rows(("said", "replayed"), [(True, True), (False, False), ("true", False), (1, False), (None, False)])
def test_a_replay_is_one_that_runapi_says_plainly(said: object, replayed: bool) -> None:
    assert wire.task({"id": "t", "task_replayed": said}).replayed is replayed
    assert wire.task({"data": {"id": "t", "task_replayed": said}}).replayed is replayed
