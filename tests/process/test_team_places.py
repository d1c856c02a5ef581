"""A team's server and its places: what holds one, what is answered without one, and what an end waits for."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from flux2_mcp.server.team.serve import MAX_CALLS_OF_ONE
from tests.support.provider import Provider
from tests.support.sandboxed import TLS
from tests.support.stdio import DEADLINE, ERAS, MODERN
from tests.support.team import Team, team_environment, until
from tests.support.terminal import flux2_mcp
from tests.support.web import ACCEPT, messages

LARGE = 32 * 1024 * 1024
"""More than the buffers of the system hold."""


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.mark.parametrize("era", ERAS)
def test_no_stream_is_opened_on_which_nothing_could_come(tmp_path: Path, provider: Provider, era: str) -> None:
    with Team(team_environment(tmp_path), provider) as team:
        headers = {
            "Authorization": f"Bearer {team.token()}",
            "MCP-Protocol-Version": era,
            "Accept": "text/event-stream",
        }
        for method in ("GET", "DELETE"):
            with team.http.stream(method, "/mcp", headers=headers) as refused:  # were it one, it would not end
                pass
            assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
            assert team.http.request(method, "/mcp").status_code == 401
        assert team.call(era, "tools/list", {}).status_code == 200


def _sent(team: Team, url: str) -> socket.socket:
    """A connection on which an image was asked for, and its first bytes have come."""
    parts = urlsplit(url)
    stream = socket.create_connection(("127.0.0.1", team.port), timeout=DEADLINE)
    stream.sendall(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    assert stream.recv(12) == b"HTTP/1.1 200"
    return stream


def test_an_end_waits_for_an_image_that_is_being_fetched_and_gives_out_no_other(
    tmp_path: Path, provider: Provider
) -> None:
    env = team_environment(tmp_path)
    with Team(env, provider, "--drain", "900") as team:
        (task,) = team.tool(MODERN, "generate", prompt="a red fox")["structuredContent"]["tasks"]
        url = task["images"][0]["url"]
        (file,) = (path for path in Path(env["FLUX2_HOME"], "images").iterdir() if path.is_file())
        file.write_bytes(b"x" * LARGE)
        with _sent(team, url) as stream:
            team.process.send_signal(signal.SIGTERM)
            until(lambda: team.http.get("/readyz").status_code == 503)
            late = httpx2.get(url, verify=TLS, timeout=DEADLINE)
            assert (late.status_code, late.headers["retry-after"]) == (503, "1")
            heard = 0
            while piece := stream.recv(1024 * 1024):
                heard += len(piece)
        assert heard > LARGE
        assert team.process.wait(DEADLINE) == 0


def test_whoever_reads_images_slowly_takes_not_the_places_of_all(tmp_path: Path, provider: Provider) -> None:
    env = team_environment(tmp_path)
    with Team(env, provider) as team, ExitStack() as stack:
        urls = []
        for person in ("ada", "ben"):
            call = {"name": "generate", "arguments": {"prompt": f"a red fox of {person}"}}
            *_, said = messages(team.call(MODERN, "tools/call", call, token=team.token(sub=person)))
            urls.append(said["result"]["structuredContent"]["tasks"][0]["images"][0]["url"])
        for file in Path(env["FLUX2_HOME"], "images").iterdir():
            if file.is_file():
                file.write_bytes(b"x" * LARGE)
        slow = [stack.enter_context(_sent(team, urls[0])) for _ in range(MAX_CALLS_OF_ONE)]
        with httpx2.Client(verify=TLS, timeout=DEADLINE) as http:
            refused = http.get(urls[0])
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert len(http.get(urls[1]).content) == LARGE
            slow[0].close()
            until(lambda: http.head(urls[0]).status_code == 200)


def test_a_look_at_the_head_of_an_image_is_no_look_at_it_and_a_part_of_it_is_one(
    tmp_path: Path, provider: Provider
) -> None:
    env = team_environment(tmp_path)
    with Team(env, provider) as team:
        (task,) = team.tool(MODERN, "generate", prompt="a red fox")["structuredContent"]["tasks"]
        url, ident = task["images"][0]["url"], task["task_id"]

        def looks() -> int:
            found = json.loads(flux2_mcp(env, "team", "audit", "--task", ident, "--json").stdout)["entries"]
            return sum(entry["what"] == "image" and entry["person"] is None for entry in found)

        with httpx2.Client(verify=TLS, timeout=DEADLINE) as http:
            head = http.head(url)
            assert (head.status_code, head.content, int(head.headers["content-length"]) > 1000) == (200, b"", True)
            assert looks() == 0
            assert http.get(url, headers={"Range": "bytes=1-"}).status_code == 206
            assert looks() == 1


def test_the_image_of_every_key_has_a_link_that_opens_it(tmp_path: Path, provider: Provider) -> None:
    env = team_environment(tmp_path, FLUX2_OIDC_ADMIN_GROUP="admins")
    keys = ("a/b", "..", "../../x", "100%?#&", "~")
    for key in keys:
        done = flux2_mcp(env, "generate", "a red fox", "--idempotency-key", key, "--json")
        assert done.returncode == 0, done.stderr
    with Team(env, provider) as team, httpx2.Client(verify=TLS, timeout=DEADLINE, headers=ACCEPT) as http:
        admin = team.token(groups=["admins"])
        body = {"name": "check_task", "arguments": {}}
        answer = team.call(MODERN, "tools/call", body, token=admin)
        *_, said = messages(answer)
        tasks = said["result"]["structuredContent"]["tasks"]
        assert len(tasks) == len(keys)
        for task in tasks:
            assert http.get(task["images"][0]["url"]).headers["content-type"].startswith("image/")
