"""The sandbox speaks `api/runapi.md`, over real loopback HTTP."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from flux2_mcp.sandbox.scenarios import SCENARIOS
from flux2_mcp.sandbox.tasks import RESULT_SECONDS
from tests.support.rows import rows
from tests.support.sandboxed import REMIX, TEXT, Api, running, size_of, wrong_fields

INSTANT = "[sandbox:instant] a cat"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("home")) as api:
        yield api


def error(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_a_task_goes_from_pending_to_completed_and_says_what_it_cost(api: Api) -> None:
    created = api.create("a cat", output_resolution="2k", aspect_ratio="16:9")
    assert created.status_code == 200
    task_id = created.json()["id"]
    assert created.json() == {"id": str(uuid.UUID(task_id)), "status": "pending"}
    assert created.headers["X-RunAPI-Task-Id"] == task_id
    task = api.ended(created)
    url = task["images"][0]["url"]
    assert task == {
        "id": task_id,
        "status": "completed",
        "images": [{"url": url}],
        "usage": {"cost": 0.07, "generated_images": 1},
    }
    assert url.startswith(f"{api.sandbox.base_url}/results/")


def test_an_open_task_has_nothing_but_id_and_status(api: Api) -> None:
    created = api.create("[sandbox:stuck] a cat")
    answer = api.http.get(f"{TEXT}/{created.json()['id']}")
    assert answer.json() == {"id": created.json()["id"], "status": answer.json()["status"]}
    assert answer.headers["X-RunAPI-Task-Id"] == created.json()["id"]
    assert "Retry-After" not in answer.headers


def test_the_image_is_a_png_of_the_asked_size_for_anyone_with_its_url(api: Api) -> None:
    answer = api.anyone.get(api.image(aspect_ratio="16:9"))
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png")
    assert size_of(answer.content) == (1280, 720)
    assert api.anyone.get(str(answer.url)).content == answer.content


def test_a_remix_is_drawn_from_results_uploads_and_foreign_sources(api: Api) -> None:
    source = api.image(aspect_ratio="3:2")
    upload = api.http.post("/api/v1/files", json={"source": {"type": "url", "url": source}}).json()["url"]
    url = api.image(INSTANT, source_image_urls=[source, upload, "https://example.com/cat.png"], aspect_ratio="auto")
    assert size_of(api.anyone.get(url).content) == (1248, 832)
    assert [reference.partition(":")[0] for reference in api.sandbox.tasks()[-1].sources] == ["task", "file", ""]


@pytest.mark.parametrize(
    "url", ["http://example.com:8080/files/x", "http://127.0.0.1:8080/cat.png", "https://127.0.0.1:8080/files/x"]
)
def test_what_only_looks_like_ours_is_a_foreign_source(api: Api, url: str) -> None:
    assert api.ended(api.create(INSTANT, source_image_urls=[url]))["status"] == "completed"


def test_a_source_that_leads_nowhere_fails_the_task(api: Api) -> None:
    broken = api.image("[sandbox:instant][sandbox:corrupt] a cat")
    letter = {"source": {"type": "base64", "data": "aGVsbG8="}}
    text = api.http.post("/api/v1/files", json=letter).json()["url"]
    gone = f"{api.sandbox.base_url}/files/unknown"
    failed = [
        api.ended(api.create(INSTANT, source_image_urls=["https://example.com/cat.png", url]))
        for url in (gone, broken, text, broken.replace("signature=", "signature=0"))
    ]
    assert {task["status"] for task in failed} == {"failed"}
    assert [task["error"] for task in failed] == [
        "Source image 2 can't be used: its URL has expired or is not valid.",
        "Source image 2 can't be used: it is not a readable image.",
        "Source image 2 can't be used: it is not a readable image.",
        "Source image 2 can't be used: its URL has expired or is not valid.",
    ]


def test_a_task_id_answers_only_on_its_own_endpoint(api: Api) -> None:
    task_id = api.create().json()["id"]
    assert error(api.http.get(f"{REMIX}/{task_id}")) == (404, "not_found")
    assert error(api.http.get(f"{TEXT}/{uuid.uuid4()}")) == (404, "not_found")
    assert error(api.http.get(f"{TEXT}/..%2F..%2Fstate.db")) == (404, "not_found")
    assert error(api.http.get(f"/api/v1/flux_2/upscale/{task_id}")) == (404, "not_found")


def test_results_need_their_own_signature_and_die_after_seven_days(api: Api) -> None:
    url = api.image()
    for other in (
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url.replace("expires=", "expires=1"),
        url.partition("?")[0],
    ):
        assert error(api.anyone.get(other)) == (403, "forbidden")
    state, now = api.sandbox.state, time.time()
    try:
        state.clock = lambda: now + RESULT_SECONDS + 60
        assert error(api.anyone.get(url)) == (410, "gone")
    finally:
        state.clock = time.time


# --- who may call -----------------------------------------------------------------------------------------------------


@rows("header", [None, "", "Bearer", "Bearer wrong", "Basic {key}", "{key}", "Bearer {key}x", "Bearer ü"])
def test_any_other_key_is_turned_away_before_anything_is_looked_at(api: Api, header: str | None) -> None:
    headers = {} if header is None else {b"Authorization": header.format(key=api.sandbox.api_key).encode("latin-1")}
    before = api.sandbox.creates()
    for method, path in (("POST", TEXT), ("GET", "/api/v1/me"), ("GET", f"{TEXT}/x"), ("POST", "/api/v1/files")):
        answer = api.anyone.request(method, path, headers=headers, content=b"{")
        assert error(answer) == (401, "authentication")
    assert api.sandbox.creates() == before


@rows("host", ["runapi.ai", "evil.example:80", "127.0.0.1.evil.example", "", "[", "10.0.0.1"])
def test_a_foreign_host_header_is_turned_away(api: Api, host: str) -> None:
    answer = api.http.get("/api/v1/price_schedules", headers={"Host": host})
    assert answer.status_code == 403
    assert "X-Request-Id" in answer.headers


@rows("host", ["localhost", "localhost:1234", "LOCALHOST.:1234", "127.0.0.1:9", "[::1]:80"])
def test_loopback_names_are_let_in_and_never_shape_a_url(api: Api, host: str) -> None:
    task = api.create(INSTANT).json()["id"]
    answer = api.http.get(f"{TEXT}/{task}", headers={"Host": host})
    assert answer.json()["images"][0]["url"].startswith(f"{api.sandbox.base_url}/")


# --- what a body may hold ---------------------------------------------------------------------------------------------


@rows(
    ("fields", "wrong"),
    [
        ({"prompt": "ab"}, ["prompt"]),
        ({"prompt": None}, ["prompt"]),
        ({"prompt": "\ud800 a cat"}, ["prompt"]),
        ({"model": "flux-2-pro"}, ["model"]),
        ({"model": "flux-2-pro-remix-image"}, ["model"]),
        ({"model": ["flux-2-pro-text-to-image"]}, ["model"]),
        ({"aspect_ratio": "auto"}, ["aspect_ratio"]),
        ({"aspect_ratio": "1:2", "output_resolution": "4k"}, ["aspect_ratio", "output_resolution"]),
        ({"seed": 1, "size": "1k"}, ["seed", "size"]),
        ({"source_images": ["https://example.com/a.png"]}, ["source_images"]),
        ({"output_count": 1}, ["output_count"]),
        ({"callback_url": "ftp://example.com"}, ["callback_url"]),
        ({"callback_url": "http://localhost:99999/"}, ["callback_url"]),
        ({"model": "flux-2-max-text-to-image"}, ["aspect_ratio"]),
        ({"prompt": "[sandbox:nonsense] a cat"}, ["prompt"]),
    ],
)
def test_each_wrong_field_is_named(api: Api, fields: dict[str, Any], wrong: list[str]) -> None:
    # httpx2 writes text as UTF-8; a lone surrogate travels only as an escape.
    body = {"model": "flux-2-pro-text-to-image", "prompt": "a cat"} | fields
    headers = {"Content-Type": "application/json"}
    assert wrong_fields(api.http.post(TEXT, content=json.dumps(body), headers=headers)) == wrong


@rows("urls", [[], ["https://example.com/a.png"] * 9, ["file:///etc/hosts"], ["http://["], [1], "x"])
def test_wrong_sources_are_named_as_the_body_names_them(api: Api, urls: object) -> None:
    assert wrong_fields(api.create(source_image_urls=urls)) == ["source_image_urls"]


def test_an_unknown_marker_is_answered_with_the_known_ones(api: Api) -> None:
    (text,) = api.create("[sandbox:nonsense] a cat").json()["errors"]["prompt"]
    assert all(scenario.marker in text for scenario in SCENARIOS)


@rows("body", [b"", b"{", b"[]", b"nul", b'{"prompt": NaN}', b"\xff", b"[" * 100_000])
def test_what_is_not_a_json_object_is_a_bad_request(api: Api, body: bytes) -> None:
    assert error(api.http.post(TEXT, content=body, headers={"Content-Type": "application/json"})) == (
        400,
        "bad_request",
    )


def test_another_content_type_is_refused(api: Api) -> None:
    assert error(api.http.post(TEXT, content=b"{}")) == (415, "unsupported_media_type")
    assert error(api.http.post(TEXT, data={"prompt": "a cat"})) == (415, "unsupported_media_type")
    json_in_utf8 = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert api.http.post(TEXT, content=b"{}", headers=json_in_utf8).status_code == 422


def test_a_body_over_the_cap_is_refused_and_the_connection_still_serves(api: Api) -> None:
    for _ in range(2):
        assert error(api.create("a cat", callback_url="x" * 1_100_000)) == (413, "payload_too_large")
    assert api.create().status_code == 200


def test_unknown_paths_and_methods_answer_in_json(api: Api) -> None:
    assert error(api.http.get("/nowhere"))[0] == 404
    assert error(api.http.get("/api/v1/me/"))[0] == 404
    refused = api.http.delete("/api/v1/me")
    assert (error(refused)[0], set(refused.headers["Allow"].split(", "))) == (405, {"GET", "HEAD"})
    assert all("X-Request-Id" in answer.headers for answer in (refused, api.http.get("/nowhere")))


def test_a_callers_request_id_is_given_back_and_kept(api: Api) -> None:
    name = "X-Client-Request-Id"
    body = {"model": "flux-2-pro-text-to-image", "prompt": "a cat"}
    answer = api.http.post(TEXT, json=body, headers={name: "mine 1"})
    assert (answer.headers[name], api.sandbox.tasks()[-1].client_request_id) == ("mine 1", "mine 1")
    first, second = (api.http.get("/api/v1/me").headers for _ in range(2))
    assert name not in first
    assert first["X-Request-Id"] != second["X-Request-Id"]
    for value in (b"", b"x" * 513, b"\xfcber"):
        refused = api.http.get("/api/v1/me", headers={name.encode(): value})
        assert error(refused) == (400, "bad_request")
        assert name not in refused.headers


# --- idempotency ------------------------------------------------------------------------------------------------------


def test_twenty_creates_at_once_with_one_key_make_one_task(api: Api) -> None:
    before = len(api.sandbox.tasks())
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: api.create("a crowd", key="crowd"), range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert [task.creates for task in api.sandbox.tasks()[before:]] == [20]


def test_the_same_key_brings_the_task_as_it_now_stands(api: Api) -> None:
    created = api.create("a replay", key="replay")
    task = api.ended(created)
    assert api.create("a replay", key="replay").json() == task


def test_the_same_key_with_another_body_conflicts(api: Api) -> None:
    api.create("a cat", key="conflict")
    assert error(api.create("a dog", key="conflict")) == (409, "conflict")


@rows("key", [b"", b"x" * 513, b"a\tb", b"\xfc"])
def test_an_invalid_key_is_refused(api: Api, key: bytes) -> None:
    body = {"model": "flux-2-pro-text-to-image", "prompt": "a cat"}
    assert error(api.http.post(TEXT, json=body, headers={b"Idempotency-Key": key})) == (400, "bad_request")
