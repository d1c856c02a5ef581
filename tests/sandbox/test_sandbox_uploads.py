"""Source images over HTTP: prepare, put, confirm; and the one-call form."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from flux2_mcp.sandbox.uploads import MAX_FILE_BYTES, URL_SECONDS
from tests.support.rows import rows
from tests.support.sandboxed import Api, outcome, running

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAADUlEQVR4nGM4IQcEJwAHIwIJ5FiIOQAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("home")) as api:
        yield api


def prepare(api: Api, content: bytes = PNG, **change: object) -> httpx2.Response:
    checksum = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    body = {"filename": "a cat.png", "byte_size": len(content), "checksum": checksum} | change
    return api.http.post("/api/v1/files/prepare", json=body)


def put(api: Api, prepared: dict[str, Any], content: bytes = PNG, **headers: str) -> httpx2.Response:
    return api.anyone.put(prepared["upload_url"], content=content, headers=prepared["headers"] | headers)


def confirm(api: Api, signed_id: object) -> httpx2.Response:
    return api.http.post("/api/v1/files/confirm", json={"signed_id": signed_id})


def test_a_file_is_prepared_put_confirmed_and_served_to_anyone(api: Api) -> None:
    prepared = prepare(api).json()
    checksum = base64.b64encode(hashlib.md5(PNG, usedforsecurity=False).digest()).decode()
    assert sorted(prepared) == ["headers", "signed_id", "upload_url"]
    assert prepared["headers"] == {"Content-Type": "image/png", "Content-MD5": checksum}
    assert put(api, prepared).status_code == 200
    confirmed = confirm(api, prepared["signed_id"])
    file = confirmed.json()
    assert file == {
        "file_name": "a cat.png",
        "url": file["url"],
        "size_bytes": len(PNG),
        "mime_type": "image/png",
        "created_at": file["created_at"],
        "expires_at": file["expires_at"],
    }
    served = api.anyone.get(file["url"])
    assert (served.content, served.headers["Content-Type"]) == (PNG, "image/png")
    assert served.headers["Content-Disposition"] == "attachment"
    assert outcome(confirm(api, prepared["signed_id"])) == (200, file)


def test_the_three_secrets_of_an_upload_are_different(api: Api) -> None:
    prepared = prepare(api).json()
    put(api, prepared)
    target = prepared["upload_url"].rpartition("/")[2]
    for path in (f"/files/{target}", f"/files/{prepared['signed_id']}", f"/uploads/{prepared['signed_id']}"):
        assert api.anyone.get(path).status_code in {404, 405}
    assert confirm(api, target).status_code == 404


def test_the_put_refuses_a_key(api: Api) -> None:
    prepared = prepare(api).json()
    refused = put(api, prepared, Authorization=f"Bearer {api.sandbox.api_key}")
    assert (refused.status_code, "another host" in refused.text) == (400, True)
    assert put(api, prepared).status_code == 200


@rows(
    ("content", "headers", "said"),
    [
        (PNG[:-1] + b"x", {}, "don't match their Content-MD5"),
        (PNG + b"x", {}, f"Announced were {len(PNG)} bytes"),
        (PNG, {"Content-Type": "image/jpeg"}, "Send exactly the headers"),
        (PNG, {"Content-MD5": base64.b64encode(b"0" * 16).decode()}, "Send exactly the headers"),
    ],
    ids=["other bytes", "more bytes", "other type", "other sum"],
)
def test_what_was_not_announced_is_refused_and_the_target_stays_open(
    api: Api, content: bytes, headers: dict[str, str], said: str
) -> None:
    prepared = prepare(api).json()
    refused = put(api, prepared, content, **headers)
    assert (refused.status_code, said in refused.json()["error"]["message"]) == (400, True)
    assert confirm(api, prepared["signed_id"]).json()["errors"] == {"signed_id": ["its bytes have not been uploaded"]}
    assert put(api, prepared).status_code == 200


def test_each_header_of_prepare_is_needed(api: Api) -> None:
    prepared = prepare(api).json()
    for name in prepared["headers"]:
        headers = {other: value for other, value in prepared["headers"].items() if other != name}
        assert api.anyone.put(prepared["upload_url"], content=PNG, headers=headers).status_code == 400


def test_an_upload_address_works_once_and_for_an_hour(api: Api) -> None:
    prepared, late = prepare(api).json(), prepare(api).json()
    assert [put(api, prepared).status_code for _ in range(2)] == [200, 403]
    state, now = api.sandbox.state, time.time()
    try:
        state.clock = lambda: now + URL_SECONDS + 1
        assert put(api, late).status_code == 403
    finally:
        state.clock = time.time
    assert api.anyone.put("/uploads/unknown", content=PNG).status_code == 403


def test_a_files_url_lives_an_hour_from_its_confirmation(api: Api) -> None:
    prepared = prepare(api).json()
    put(api, prepared)
    url = confirm(api, prepared["signed_id"]).json()["url"]
    state, now = api.sandbox.state, time.time()
    seen = []
    try:
        for later in (URL_SECONDS - 5, URL_SECONDS + 5):
            state.clock = lambda moment=now + later: moment  # type: ignore[misc]  # mypy can't type a default here
            seen.append(api.anyone.get(url).status_code)
        failed = api.ended(api.create("[sandbox:instant] a cat", source_image_urls=[url]))
        assert failed["error"] == "Source image 1 can't be used: its URL has expired or is not valid."
    finally:
        state.clock = time.time
    assert seen == [200, 410]


def test_a_file_that_is_not_confirmed_is_not_served(api: Api) -> None:
    prepared = prepare(api).json()
    put(api, prepared)
    (row,) = api.sandbox.state.database.read("SELECT id FROM upload WHERE signed_id = ?", (prepared["signed_id"],))
    assert api.anyone.get(f"/files/{row['id']}").status_code == 410


@rows(
    ("change", "field"),
    [
        ({"filename": ""}, "filename"),
        ({"filename": "a\nb"}, "filename"),
        ({"filename": 1}, "filename"),
        ({"byte_size": 0}, "byte_size"),
        ({"byte_size": True}, "byte_size"),
        ({"byte_size": MAX_FILE_BYTES + 1}, "byte_size"),
        ({"byte_size": "10"}, "byte_size"),
        ({"checksum": "not base64!"}, "checksum"),
        ({"checksum": base64.b64encode(b"short").decode()}, "checksum"),
        ({"checksum": None}, "checksum"),
        ({"name": "x"}, "name"),
    ],
)
def test_a_wrong_prepare_names_its_field(api: Api, change: dict[str, Any], field: str) -> None:
    answer = prepare(api, **change)
    assert (answer.status_code, list(answer.json()["errors"])) == (422, [field])


@rows("signed_id", ["unknown", "", None, 1, "\u00fc"])
def test_an_unknown_upload_cannot_be_confirmed(api: Api, signed_id: object) -> None:
    assert confirm(api, signed_id).status_code == 404


def test_a_file_name_never_becomes_a_path(api: Api) -> None:
    prepared = prepare(api, filename="../../../etc/passwd").json()
    put(api, prepared)
    file = confirm(api, prepared["signed_id"]).json()
    assert file["file_name"] == "../../../etc/passwd"
    assert "passwd" not in file["url"]
    assert {len(path.name) for path in api.sandbox.state.uploads.iterdir()} == {32}


def test_a_body_larger_than_any_file_is_not_taken(api: Api) -> None:
    prepared = prepare(api).json()
    assert put(api, prepared, b"x" * (MAX_FILE_BYTES + 1)).status_code == 413


# --- in one call ------------------------------------------------------------------------------------------------------


def create(api: Api, source: object, **fields: object) -> httpx2.Response:
    return api.http.post("/api/v1/files", json={"source": source} | fields)


@pytest.mark.parametrize("lead", ["", "data:image/png;base64,"])
def test_base64_is_kept_and_named(api: Api, lead: str) -> None:
    data = lead + base64.b64encode(PNG).decode()
    file = create(api, {"type": "base64", "data": data}, file_name="cat.png").json()
    assert (file["file_name"], file["size_bytes"], file["mime_type"]) == ("cat.png", len(PNG), "image/png")
    assert api.anyone.get(file["url"]).content == PNG


def test_a_file_of_this_sandbox_is_copied_whatever_its_port(api: Api) -> None:
    data = base64.b64encode(PNG).decode()
    first = create(api, {"type": "base64", "data": data}).json()["url"]
    elsewhere = f"http://localhost:1/files/{first.rpartition('/')[2]}"
    second = create(api, {"type": "url", "url": elsewhere}).json()["url"]
    assert second != first
    assert api.anyone.get(second).content == PNG


def test_a_foreign_address_is_written_down_and_not_fetched(api: Api) -> None:
    file = create(api, {"type": "url", "url": "https://example.com/pictures/cat.webp?x=1"}).json()
    assert (file["file_name"], file["size_bytes"], file["mime_type"]) == ("cat.webp", 0, "image/webp")
    assert api.anyone.get(file["url"]).status_code == 404
    task = api.ended(api.create("[sandbox:instant] a cat", source_image_urls=[file["url"]]))
    assert task["status"] == "completed"


@rows(
    "source",
    [
        None,
        "https://example.com/cat.png",
        {"type": "url"},
        {"type": "url", "url": "ftp://example.com/cat.png"},
        {"type": "url", "url": "http://127.0.0.1:1/files/unknown"},
        {"type": "base64", "data": ""},
        {"type": "base64", "data": "not base64!"},
        {"type": "base64", "data": "aGVsbG8=", "extra": 1},
        {"type": "path", "path": "/etc/passwd"},
    ],
)
def test_a_source_that_is_none_is_refused(api: Api, source: object) -> None:
    answer = create(api, source)
    assert (answer.status_code, list(answer.json()["errors"])) == (422, ["source"])


def test_a_wrong_name_or_stranger_is_refused(api: Api) -> None:
    answer = create(api, {"type": "base64", "data": "aGVsbG8="}, file_name="", purpose="x")
    assert (answer.status_code, sorted(answer.json()["errors"])) == (422, ["file_name", "purpose"])
