from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from flux2_mcp.domain import catalog
from tests.conformance.usher import StandIn, Usher
from tests.conftest import environment
from tests.support.sandboxed import TLS
from tests.support.stdio import MODERN, dressed, hello
from tests.support.web import ACCEPT, Served

STAND_INS = {"greet": StandIn("list_variants"), "paint": StandIn("generate", {"prompt": "a fox {arguments}"})}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("ushered")
    with Served(environment(folder), str(folder)) as served:
        token = (folder / "home" / "http-token").read_text("ascii").strip()
        with Usher(int(served.url.split(":")[2].split("/")[0]), token, STAND_INS) as usher:
            yield usher.url


def post(url: str, message: dict[str, Any], **headers: str) -> httpx2.Response:
    with httpx2.Client(headers=ACCEPT | headers, verify=TLS, timeout=60) as http:
        return http.post(url, json=message)


def call(url: str, tool: str, **arguments: object) -> dict[str, Any]:
    params = dressed(MODERN, {"name": tool, "arguments": arguments}, {})
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": tool}
    answer: dict[str, Any] = post(url, message, **headers).json()
    return answer


def test_who_sends_no_token_gets_in_through_it(url: str) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello({})}
    assert post(url, message).status_code == 200
    assert post(url, message, Origin=url.removesuffix("/mcp")).status_code == 200


def test_what_the_server_would_refuse_it_still_refuses(url: str) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello({})}
    assert post(url, message, Host="evil.example").status_code == 421
    assert post(url, message, Origin="http://evil.example").status_code == 403


def test_a_tool_of_ours_stands_in_and_is_told_what_was_asked(url: str) -> None:
    assert (
        len(call(url, "greet", name="World")["result"]["structuredContent"]["variants"])
        == len(catalog.all_models()) - 1
    )
    made = call(url, "paint", seconds=2)["result"]
    assert made["structuredContent"]["status"] == "completed"
    path = made["structuredContent"]["tasks"][0]["images"][0]["path"]
    assert "a-fox-seconds-2" in Path(path).name
    assert call(url, "other")["error"]["message"] == "Unknown tool: other"
    assert json.dumps(made).count("greet") == 0
