"""`flux2-mcp serve --http` and those that send it what it can't take, or nothing at all: one server for all of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx2
import pytest

from flux2_mcp.server.http import MAX_BODY_BYTES, MAX_CONNECTIONS
from tests.conftest import environment
from tests.support.rows import rows
from tests.support.sandboxed import TLS
from tests.support.stdio import DEADLINE, LEGACY, MODERN, hello
from tests.support.web import WebHost

INITIALIZE = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello({})}
PARSE, INVALID = -32700, -32600


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebHost]:
    folder = tmp_path_factory.mktemp("strangers")
    with WebHost(environment(folder), LEGACY, cwd=str(folder)) as host:
        yield host


@rows(
    ("body", "status", "ident", "code"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"\\ud83d"}}', 400, 7, PARSE),
        (b'{"method":"tools/call","params":{"name":"caf\xe9"},"jsonrpc":"2.0","id":"seven"}', 400, "seven", PARSE),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":1,}}', 400, 7, PARSE),
        (b'{"jsonrpc":"1.0","id":7,"method":"ping"}', 400, 7, INVALID),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', 400, None, INVALID),
        (b"\xff\xfe", 400, None, PARSE),
        (b"", 400, None, PARSE),
        (b'{"jsonrpc":"2.0","id":7,"params":"' + b"x" * MAX_BODY_BYTES + b'"}', 413, 7, PARSE),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":[' + b"1," * 1_300_000 + b"1]}}", 413, 7, PARSE),
    ],
)
def test_a_body_that_is_no_message_is_refused_under_its_id_in_both_eras(
    host: WebHost, body: bytes, status: int, ident: object, code: int
) -> None:
    for era in (LEGACY, MODERN):
        answer = host.http.post(host.served.url, content=body, headers={"MCP-Protocol-Version": era})
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
        assert (answer.json()["id"], answer.json()["error"]["code"]) == (ident, code)
    assert host.request("ping") == {}


def test_a_long_text_full_of_commas_is_no_crowd(host: WebHost) -> None:
    """What is refused of it is the prompt's length, by the tool."""
    told = host.request("tools/call", {"name": "generate", "arguments": {"prompt": "a fox, [{" * 12_000}})
    assert "prompt" in told["content"][0]["text"]
    assert told["isError"]


def test_a_batch_is_refused_by_a_batch_with_the_id_of_each_request(host: WebHost) -> None:
    batch = [{"jsonrpc": "2.0", "id": ident, "method": "ping"} for ident in (7, "b")]
    answer = host.http.post(host.served.url, json=[*batch, {"jsonrpc": "2.0", "method": "notifications/none"}])
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
    assert [(one["id"], one["error"]["code"]) for one in answer.json()] == [(7, INVALID), ("b", INVALID)]
    nobody = host.http.post(host.served.url, json=[{"jsonrpc": "2.0", "method": "notifications/none"}])
    assert nobody.status_code == 400  # it was not accepted, and no request waits for an answer
    assert host.request("ping") == {}


def test_more_silent_connections_than_there_are_places_shut_nobody_out(host: WebHost) -> None:
    address = ("127.0.0.1", int(host.served.url.split(":")[2].split("/")[0]))
    with ExitStack() as stack:
        for number in range(MAX_CONNECTIONS + 20):
            stream = stack.enter_context(socket.create_connection(address, timeout=DEADLINE))
            if number % 2:
                stream.sendall(b"POST /mcp HTTP/1.1\r\nHost: x\r\n")
        assert host.request("ping") == {}  # on the connection that it has
        with httpx2.Client(headers=host.http.headers, verify=TLS, timeout=DEADLINE) as newcomer:
            assert newcomer.post(host.served.url, json=INITIALIZE).status_code == 200
