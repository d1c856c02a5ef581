from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from flux2_mcp.errors import SettingsError
from flux2_mcp.server.transports import bearer
from tests.support.rows import rows

pytestmark = pytest.mark.anyio

TOKEN = "t" * 43


def test_a_token_is_made_once_for_its_owner_alone_and_found_again(tmp_path: Path) -> None:
    home = tmp_path / "not yet" / "there"
    token, made = bearer.token(home)
    assert (made, len(token) >= bearer.MIN_TOKEN_CHARS) == (True, True)
    file = bearer.path(home)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert bearer.token(home) == (token, False)
    assert [path.name for path in home.iterdir()] == ["http-token"]  # and no draft


def test_no_two_homes_have_the_same_token(tmp_path: Path) -> None:
    assert bearer.token(tmp_path / "a")[0] != bearer.token(tmp_path / "b")[0]


def test_of_many_who_start_at_once_one_makes_it_and_all_have_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(bearer.token, [tmp_path / "home"] * 64))
    assert len({token for token, _ in got}) == 1
    assert sum(made for _, made in got) == 1


def test_who_comes_second_to_making_it_leaves_it_as_it_is(tmp_path: Path) -> None:
    token, _ = bearer.token(tmp_path)
    assert bearer.make(tmp_path) is False
    assert bearer.token(tmp_path) == (token, False)
    assert [path.name for path in tmp_path.iterdir()] == ["http-token"]


def test_a_file_that_others_can_read_is_no_secret_and_is_refused(tmp_path: Path) -> None:
    bearer.token(tmp_path)
    bearer.path(tmp_path).chmod(0o640)
    with pytest.raises(SettingsError, match="Other users can read") as caught:
        bearer.token(tmp_path)
    assert caught.value.next_step.startswith("Delete it and start again")


@pytest.mark.parametrize("content", ["", "short", "é" * 64, "\n"])
def test_a_file_without_a_token_is_refused_and_never_means_no_token(tmp_path: Path, content: str) -> None:
    file = bearer.path(tmp_path)
    file.write_text(content, "utf-8")
    file.chmod(0o600)
    with pytest.raises(SettingsError, match="holds no token"):
        bearer.token(tmp_path)


def test_a_home_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"can't be used: Not a directory"):
        bearer.token(tmp_path / "file" / "home")


@rows(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN} ", 200),
        (None, 401),
        ("", 401),
        (TOKEN, 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN} {TOKEN}", 401),
        (b"Bearer \xff\xfe", 401),
    ],
)
async def test_only_the_token_opens(header: str | bytes | None, status: int) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with client() as http:
        answer = await http.get("/", headers=headers)  # type: ignore[arg-type]  # bytes are a header's own form
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "FLUX2_HOME" in answer.text
        assert TOKEN not in answer.text


async def test_two_authorizations_are_none() -> None:
    async with client() as http:
        headers = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer other")]
        assert (await http.get("/", headers=headers)).status_code == 401


async def test_what_is_refused_reaches_nothing_behind_it() -> None:
    async with client() as http:
        assert (await http.get("/nowhere")).status_code == 401
        assert (await http.get("/nowhere", headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 404


def client() -> httpx2.AsyncClient:
    async def inside(_: object) -> PlainTextResponse:
        return PlainTextResponse("in")

    app = Starlette(routes=[Route("/", inside)])
    app.add_middleware(bearer.BearerOnly, token=TOKEN)
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1")


def test_the_file_of_a_umask_that_lets_everybody_in_is_closed_all_the_same(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        bearer.token(tmp_path / "home")
    finally:
        os.umask(before)
    assert stat.S_IMODE(bearer.path(tmp_path / "home").stat().st_mode) == 0o600
