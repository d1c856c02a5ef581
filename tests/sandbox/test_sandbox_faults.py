"""What each marker does, seen over HTTP."""

from __future__ import annotations

import io
import json
import logging
import socket
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from flux2_mcp.sandbox.scenarios import MODERATED
from tests.support.sandboxed import TEXT, Api, running, size_of


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("home")) as api:
        yield api


def polls(api: Api, task_id: str, times: int) -> list[int]:
    return [api.http.get(f"{TEXT}/{task_id}").status_code for _ in range(times)]


def test_moderation_fails_the_task_with_its_reason(api: Api) -> None:
    created = api.create("[sandbox:moderation] a cat")
    assert api.ended(created) == {"id": created.json()["id"], "status": "failed", "error": MODERATED}


def test_insufficient_credits_answers_402_each_time_and_makes_nothing(api: Api) -> None:
    before = len(api.sandbox.tasks())
    answers = [api.create("[sandbox:insufficient_credits] a cat", key="poor") for _ in range(2)]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
        (402, "insufficient_credits"),
        (402, "insufficient_credits"),
    ]
    assert len(api.sandbox.tasks()) == before


def test_an_empty_account_answers_402(tmp_path: Path) -> None:
    with running(tmp_path, opening_cents=9) as api:
        assert [api.create("[sandbox:instant] a cat").status_code for _ in range(2)] == [200, 402]


def test_a_scripted_429_carries_seconds_then_passes(tmp_path: Path) -> None:
    with running(tmp_path, speed=1.0) as api:
        first, second = (api.create("[sandbox:rate_limited] a cat", key="busy") for _ in range(2))
    assert (first.status_code, first.headers["Retry-After"], second.status_code) == (429, "2", 200)


def test_a_scripted_429_carries_a_date_then_passes(tmp_path: Path) -> None:
    now = time.time()
    with running(tmp_path, speed=1.0) as api:
        api.sandbox.state.clock = lambda: now
        first, second = (api.create("[sandbox:rate_limited_date] a cat") for _ in range(2))
    assert (first.status_code, second.status_code) == (429, 200)
    assert first.headers["Retry-After"] == formatdate(now + 2, usegmt=True)


def test_a_client_over_the_rate_is_told_when_to_come_back(tmp_path: Path) -> None:
    with running(tmp_path, rate=0.001, burst=2) as api:
        answers = [api.http.get("/api/v1/me") for _ in range(3)]
        assert api.anyone.get("/api/v1/price_schedules").status_code == 200
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 990 <= int(answers[2].headers["Retry-After"]) <= 1_000
    assert answers[2].json() == {"error": {"code": "rate_limited", "message": "Too many requests"}}


def test_create_blips_come_once(api: Api) -> None:
    for marker, status in (("create_503", 503), ("create_html", 502)):
        first, second = (api.create(f"[sandbox:{marker}] a cat", key=marker) for _ in range(2))
        assert (first.status_code, second.status_code) == (status, 200)


def test_an_html_page_is_one(api: Api) -> None:
    page = api.create("[sandbox:create_html] a proxy")
    assert page.headers["Content-Type"].startswith("text/html")
    assert page.text.startswith("<!doctype html>")
    assert "502 Bad Gateway" in page.text


def test_poll_blips_come_first_and_never_again(api: Api) -> None:
    assert polls(api, api.create("[sandbox:poll_503] a cat").json()["id"], 4) == [503, 503, 200, 200]
    assert polls(api, api.create("[sandbox:poll_html] a cat").json()["id"], 3) == [502, 200, 200]


def test_each_poll_of_an_open_task_may_say_when_to_ask_next(api: Api) -> None:
    slow = api.create("[sandbox:poll_retry_after][sandbox:stuck] a cat").json()["id"]
    done = api.create("[sandbox:poll_retry_after][sandbox:instant] a cat").json()["id"]
    assert api.http.get(f"{TEXT}/{slow}").headers["Retry-After"] == "1"
    assert "Retry-After" not in api.http.get(f"{TEXT}/{done}").headers


def test_a_task_without_usage_is_charged_all_the_same(api: Api) -> None:
    before = api.sandbox.state.money().spent
    task = api.ended(api.create("[sandbox:instant][sandbox:no_usage] a cat"))
    assert sorted(task) == ["id", "images", "status"]
    assert api.sandbox.state.money().spent == before + 5


def test_the_first_url_of_an_expired_result_is_dead_and_the_second_works(api: Api) -> None:
    created = api.create("[sandbox:expired_url] a cat")
    first = api.ended(created)["images"][0]["url"]
    second, third = (api.http.get(f"{TEXT}/{created.json()['id']}").json()["images"][0]["url"] for _ in range(2))
    assert [api.anyone.get(url).status_code for url in (first, first, second)] == [410, 410, 200]
    assert second == third


@pytest.mark.parametrize(("asked", "delivered"), [("1:1", (720, 1280)), ("9:16", (1280, 720))])
def test_a_wrong_ratio_is_delivered(api: Api, asked: str, delivered: tuple[int, int]) -> None:
    url = api.image("[sandbox:instant][sandbox:wrong_ratio] a cat", aspect_ratio=asked)
    assert size_of(api.anyone.get(url).content) == delivered


def test_a_corrupt_image_breaks_off_in_the_same_place_each_time(api: Api) -> None:
    url = api.image("[sandbox:instant][sandbox:corrupt] a cat")
    first, second = api.anyone.get(url), api.anyone.get(url)
    assert (first.content, first.status_code) == (second.content, 200)
    with pytest.raises(OSError, match="truncated"), Image.open(io.BytesIO(first.content)) as image:
        image.load()


def raw(api: Api, body: dict[str, Any], key: str) -> bytes:
    """All bytes that a create call gets back on a plain socket, until the other side is gone."""
    content = json.dumps(body).encode()
    head = (
        f"POST {TEXT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {api.sandbox.api_key}\r\nIdempotency-Key: {key}\r\n"
        f"Connection: close\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection(
        ("127.0.0.1", int(api.sandbox.base_url.rpartition(":")[2])), timeout=60
    ) as connection:
        connection.sendall(head.encode() + content)
        received = b""
        try:
            while chunk := connection.recv(4096):
                received += chunk
        except ConnectionResetError:
            pass
    return received


def test_a_lost_create_sends_no_byte_and_its_retry_finds_the_task(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    body = {"model": "flux-2-pro-text-to-image", "prompt": "[sandbox:create_lost] a cat"}
    before = len(api.sandbox.tasks())
    with caplog.at_level(logging.DEBUG):
        assert raw(api, body, "lost") == b""
        (made,) = api.sandbox.tasks()[before:]
        answer = raw(api, body, "lost")
    assert answer.startswith(b"HTTP/1.1 200")
    assert made.id.encode() in answer
    assert [task.creates for task in api.sandbox.tasks()[before:]] == [2]
    assert "Exception" not in caplog.text


def test_a_client_sees_a_lost_create_as_a_transport_error(api: Api) -> None:
    with pytest.raises(httpx2.TransportError):
        api.create("[sandbox:create_lost] a dog")
    assert api.create("[sandbox:create_lost] a dog").status_code == 200
