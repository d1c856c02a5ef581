"""What hosts say first, as captured from them in November 2026, and what the server itself answers to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    JSONRPCError,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)
from mcp_types.jsonrpc import jsonrpc_message_adapter
from pydantic import ValidationError

from flux2_mcp.server import sdk
from flux2_mcp.server.app import Flux2Server

DEADLINE = 60.0
_CLAUDE = (
    '"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":'
    '{"name":"claude-code","title":"Claude Code","version":"2.1.330","description":"Anthropic\'s agentic coding tool",'
    '"websiteUrl":"https://claude.com/claude-code"},"io.modelcontextprotocol/clientCapabilities":'
    '{"roots":{"listChanged":true},"elicitation":{"form":{},"url":{}}}}'
)
HOSTS: Mapping[str, Sequence[str]] = {
    "Claude Code 2.1.330": (
        '{"jsonrpc":"2.0","id":"server-discover-probe-1","method":"server/discover","params":{' + _CLAUDE + "}}",
        '{"method":"tools/list","jsonrpc":"2.0","id":2,"params":{' + _CLAUDE + "}}",
    ),
    "Codex 0.169.0": (
        '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{"elicitation":{"form":{},"url":{}}},"clientInfo":{"name":"codex-mcp-client","title":"Codex","version":"0.169.0"}}}',
        '{"jsonrpc":"2.0","method":"notifications/initialized"}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"progressToken":0}}}',
    ),
    "Gemini CLI 0.61.0": (
        '{"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"mcp-test-client","version":"0.0.1"}},"jsonrpc":"2.0","id":0}',
        '{"method":"notifications/initialized","jsonrpc":"2.0"}',
    ),
    "opencode 1.18.33": (
        '{"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":{}},"clientInfo":{"name":"opencode","version":"1.18.33"}},"jsonrpc":"2.0","id":0}',
        '{"method":"notifications/initialized","jsonrpc":"2.0"}',
        '{"method":"tools/list","jsonrpc":"2.0","id":1}',
    ),
}


def _asks(like: str, *methods: str) -> list[str]:
    """Requests of these methods, in the form of a recorded one."""
    message = json.loads(like)
    return [json.dumps(message | {"id": number, "method": method}) for number, method in enumerate(methods, 10)]


def _sessions() -> Mapping[str, Sequence[str]]:
    claude, codex, gemini, opencode = HOSTS.values()
    listing = '{"method":"tools/list","jsonrpc":"2.0","id":1}'
    said = (
        [claude[0], *_asks(claude[1], "prompts/list", "resources/list"), claude[1]],
        [*codex, *_asks(codex[-1], "resources/list", "resources/templates/list")],
        [*gemini, listing],
        opencode,
    )
    return dict(zip(HOSTS, said, strict=True))


INSPECTOR = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "inspector-cli", "version": "2.12.0"},
    "io.modelcontextprotocol/clientCapabilities": {
        "roots": {"listChanged": True},
        "extensions": {"io.modelcontextprotocol/tasks": {}, "io.modelcontextprotocol/skills": {}},
    },
    "io.modelcontextprotocol/logLevel": "debug",
}
"""The envelope of the Inspector's requests after its first."""
SESSIONS = _sessions()
"""What each host says in a session before anybody asks for an image."""


def legacy(version: str, client: str = "tests", capabilities: object = None, **info: object) -> list[str]:
    """How a client of 2024-11-05 to 2025-11-25 begins."""
    hello = {
        "protocolVersion": version,
        "capabilities": {} if capabilities is None else capabilities,
        "clientInfo": {"name": client, "version": "1", **info},
    }
    return [
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}),
        json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}),
    ]


def modern(version: str, client: str | None = "tests", capabilities: object = None) -> list[str]:
    """How a client of 2026-07-28 begins."""
    meta: dict[str, Any] = {
        PROTOCOL_VERSION_META_KEY: version,
        CLIENT_CAPABILITIES_META_KEY: {} if capabilities is None else capabilities,
    }
    if client is not None:
        meta[CLIENT_INFO_META_KEY] = {"name": client, "version": "1"}
    return [
        json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": {"_meta": meta}})
        for number, method in enumerate(("server/discover", "tools/list"), 1)
    ]


LISTS = ("prompts/list", "resources/list", "resources/templates/list")


def whole_opening(version: str, client: str, capabilities: object = None) -> list[str]:
    """Everything that a client of any version asks before anybody asks for an image."""
    lines = opening(version, client, capabilities)
    last = json.loads(lines[-1])
    more = LISTS if version >= "2026" else (*LISTS, "ping")
    return [*lines, *(json.dumps(last | {"id": number, "method": method}) for number, method in enumerate(more, 3))]


def opening(version: str, client: str, capabilities: object = None) -> list[str]:
    """How a client of any version begins."""
    return (modern if version >= "2026" else legacy)(version, client, capabilities)


async def live(server: Flux2Server, lines: Sequence[str]) -> dict[RequestId, bytes]:
    """The server's own answers to these lines, one after another, as they go over the wire."""
    to_server, received = anyio.create_memory_object_stream[SessionMessage | Exception]()
    sent, from_server = anyio.create_memory_object_stream[SessionMessage](100)
    answers: dict[RequestId, bytes] = {}
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group, from_server:
            group.start_soon(sdk.run_over, server, received, sent)
            async with to_server:
                for line in lines:
                    try:
                        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                    except ValidationError:
                        continue
                    await to_server.send(SessionMessage(message))
                    while isinstance(message, JSONRPCRequest) and message.id not in answers:
                        answer = (await from_server.receive()).message
                        if isinstance(answer, JSONRPCResponse | JSONRPCError) and answer.id is not None:
                            answers[answer.id] = (
                                answer.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
                            )
    return answers
