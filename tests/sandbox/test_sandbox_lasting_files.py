"""Files that last and uploads in parts: what is refused, and the bounds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from flux2_mcp.sandbox.lasting_files import FILE_SECONDS, MAX_FILES, MAX_UPLOAD_PARTS, UPLOAD_SECONDS
from flux2_mcp.sandbox.multipart import MAX_PARTS
from tests.support.sandboxed import Api, running, wrong_fields

FILES, UPLOADS = "/v1/files", "/v1/uploads"
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.fixture
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("home")) as api:
        yield api


def kept(api: Api, content: bytes = b"x", name: str = "a.txt", purpose: str = "user_data") -> httpx2.Response:
    return api.http.post(FILES, files={"file": (name, content)}, data={"purpose": purpose})


def begun(api: Api, **more: Any) -> httpx2.Response:  # noqa: ANN401  # any JSON
    return api.http.post(UPLOADS, json={"bytes": 3, "filename": "a.txt", "mime_type": "text/plain"} | more)


def part(api: Api, upload_id: str, content: bytes = b"abc") -> httpx2.Response:
    return api.http.post(f"{UPLOADS}/{upload_id}/parts", files={"data": ("p", content)})


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {"Content-Type": "application/json"}, 415),
        (b"", {"Content-Type": "multipart/form-data"}, 400),
        (b"", FORM, 400),
        (b"--b", FORM, 400),
        (b"--b--", FORM, 422),
        (b"--b\r\n\r\nx\r\n--b--", FORM, 400),
        (b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx', FORM, 400),
        (b'before\r\n--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--', FORM, 400),
        (b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n\r\n--b--', FORM, 422),
        (b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n', FORM, 200),
        (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * (MAX_PARTS + 1) + b"--b--", FORM, 400),
    ],
)
def test_a_body_is_a_form_or_is_refused(api: Api, body: bytes, headers: dict[str, str], status: int) -> None:
    assert api.http.post(FILES, content=body, headers=headers).status_code == status


@pytest.mark.parametrize("content", [b"\r\n--", b"\r\n", b"\0\xff", b"a\r\n\r\nb", b"--b"])
def test_bytes_come_back_as_they_were(api: Api, content: bytes) -> None:
    answer = api.http.get(f"{FILES}/{kept(api, content).json()['id']}/content")
    assert (answer.content, answer.headers["Content-Disposition"]) == (content, "attachment")


def test_names_and_pages_are_held_to_their_bounds(api: Api) -> None:
    assert wrong_fields(kept(api, purpose="x" * 65)) == ["purpose"]
    assert wrong_fields(kept(api, name="x" * 256)) == ["filename"]
    for query in ({"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"order": "up"}):
        assert wrong_fields(api.http.get(FILES, params=query)) == [*query]


def test_a_file_is_gone_after_its_time(api: Api) -> None:
    file = kept(api).json()
    assert file["expires_at"] - file["created_at"] == FILE_SECONDS
    now = time.time()
    api.sandbox.state.clock = lambda: now + FILE_SECONDS + 1
    assert api.http.get(f"{FILES}/{file['id']}").status_code == 404
    assert api.http.get(FILES).json()["data"] == []


def test_a_folder_holds_so_many_files_and_no_more(api: Api) -> None:
    for _ in range(MAX_FILES):
        assert kept(api).status_code == 200
    assert kept(api).status_code == 409
    first = api.http.get(FILES, params={"limit": 1}).json()["first_id"]
    assert api.http.delete(f"{FILES}/{first}").status_code == 200
    assert kept(api).status_code == 200


def test_an_upload_takes_what_was_announced_in_so_many_parts(api: Api) -> None:
    assert wrong_fields(begun(api, bytes=0, filename="", mime_type=7, more=1)) == [
        "bytes",
        "filename",
        "mime_type",
        "more",
    ]
    upload = begun(api).json()["id"]
    assert wrong_fields(part(api, upload, b"abcd")) == ["data"]
    assert wrong_fields(part(api, upload, b"")) == ["data"]
    made = part(api, upload, b"ab").json()["id"]
    end = f"{UPLOADS}/{upload}/complete"
    for ids in ([made], [made, made], ["another"], [], [7], "x"):
        assert wrong_fields(api.http.post(end, json={"part_ids": ids})) == ["part_ids"]
    many = begun(api, bytes=MAX_UPLOAD_PARTS + 9).json()["id"]
    for _ in range(MAX_UPLOAD_PARTS):
        assert part(api, many, b"x").status_code == 200
    assert wrong_fields(part(api, many, b"x")) == ["data"]


def test_an_upload_is_gone_after_an_hour_and_leaves_no_part(api: Api) -> None:
    upload = begun(api).json()["id"]
    assert part(api, upload).status_code == 200
    assert api.http.post(f"{UPLOADS}/{upload}/cancel", json={}).json()["status"] == "cancelled"
    assert [*api.sandbox.state.uploads.iterdir()] == []
    other, now = begun(api).json()["id"], time.time()
    api.sandbox.state.clock = lambda: now + UPLOAD_SECONDS + 1
    assert part(api, other).status_code == 404
