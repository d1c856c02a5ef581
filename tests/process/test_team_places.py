"""A team's server and its places: what holds one, what is answered without one, and what an end waits for."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.support.provider import Provider
from tests.support.sandboxed import TLS
from tests.support.stdio import DEADLINE, ERAS, MODERN
from tests.support.team import Team, team_environment, until

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
