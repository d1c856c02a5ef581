"""The model, scripted: calls `generate` once, and keeps what the client tells it next.

On loopback it speaks as Anthropic's Messages API (to Claude Code) and as OpenAI's Responses API (to Codex) stream: only the
events, and of those only the fields, that the pinned clients need.
"""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.real_hosts.clients import CLIENT_SECONDS

Event = dict[str, Any]
USAGE = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
URL = "MODEL-URL"
CLAUDE_TOOL = "mcp__flux-2__generate"
CODEX_TOOLS = "mcp__flux_2"
"""Codex gives a server's tools to the model as a namespace of this name."""


@dataclass(frozen=True)
class Seen:
    """What reached the model of one tool result: the texts, and the pictures by the type they are said to be of."""

    texts: list[str]
    pictures: list[tuple[str, bytes]]


HAND_OVER = f"""
import os, socket, sys
listening = socket.create_server(("127.0.0.1", 0))
socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b"."], [listening.fileno()])
url = "http://127.0.0.1:%d" % listening.getsockname()[1]
os.execv(sys.argv[2], [argument.replace("{URL}", url) for argument in sys.argv[2:]])
"""
"""Listens where the client runs, which may have a loopback of its own, hands that socket to the test, and becomes the client."""


@dataclass
class Model:
    """The model. `told` is empty until a client has told it what its call gave.

    `hand_over` is where the socket comes from on which it answers.
    """

    prompt: str
    hand_over: socket.socket
    told: list[Seen] = field(default_factory=list)

    @property
    def before(self) -> tuple[str, ...]:
        """What comes before a command, as an absolute path, in whose arguments URL stands for where the model is asked."""
        return (sys.executable, "-c", HAND_OVER, str(self.hand_over.fileno()))

    def answer(self, path: str, asked: Mapping[str, Any]) -> list[Event]:
        """The events for one request."""
        if path == "/v1/messages":
            return self._claude(asked)
        return self._codex(asked) if path == "/v1/responses" else []

    def _claude(self, asked: Mapping[str, Any]) -> list[Event]:
        blocks = [block for message in asked["messages"] for block in message["content"] if isinstance(block, dict)]
        results = {block["tool_use_id"]: block for block in blocks if block["type"] == "tool_result"}
        tools = {tool["name"] for tool in asked.get("tools", [])}
        if "call_generate" in results:
            self.told.append(_claude_seen(results["call_generate"]["content"]))
        elif CLAUDE_TOOL in tools:
            return _claude_says(
                {"type": "tool_use", "id": "call_generate", "name": CLAUDE_TOOL, "input": {}},
                {"type": "input_json_delta", "partial_json": json.dumps({"prompt": self.prompt})},
            )
        elif "WaitForMcpServers" in tools and "call_wait" not in results:
            # Claude Code's own way to say that a server is not up yet. A model would do the same.
            return _claude_says(
                {"type": "tool_use", "id": "call_wait", "name": "WaitForMcpServers", "input": {}},
                {"type": "input_json_delta", "partial_json": "{}"},
            )
        return _claude_says({"type": "text", "text": ""}, {"type": "text_delta", "text": "Done."})

    def _codex(self, asked: Mapping[str, Any]) -> list[Event]:
        # Codex waits for its servers before it asks, and lets some models search for their tools rather than list them.
        outputs = [item["output"] for item in asked["input"] if item.get("type") == "function_call_output"]
        if not outputs:
            arguments = json.dumps({"prompt": self.prompt})
            called = {"type": "function_call", "namespace": CODEX_TOOLS, "name": "generate", "arguments": arguments}
            return _codex_says(called | {"call_id": "call_generate"})
        self.told.append(_codex_seen(outputs[0]))
        content = [{"type": "output_text", "text": "Done."}]
        return _codex_says({"type": "message", "role": "assistant", "content": content})


def _claude_seen(content: str | list[Event]) -> Seen:
    blocks: list[Event] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    sources = [block["source"] for block in blocks if block["type"] == "image"]
    return Seen(
        [block["text"] for block in blocks if block["type"] == "text"],
        [(source["media_type"], base64.b64decode(source["data"])) for source in sources],
    )


def _codex_seen(output: str | list[Event]) -> Seen:
    items: list[Event] = [{"type": "input_text", "text": output}] if isinstance(output, str) else output
    urls = [item["image_url"] for item in items if item["type"] == "input_image"]
    parts = [url.removeprefix("data:").partition(";base64,") for url in urls]
    return Seen(
        [item["text"] for item in items if item["type"] == "input_text"],
        [(kind, base64.b64decode(data)) for kind, _, data in parts],
    )


def _claude_says(block: Event, delta: Event) -> list[Event]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "scripted", "content": []}
    return [
        {"type": "message_start", "message": message | {"stop_reason": None, "usage": USAGE}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use" if block["type"] == "tool_use" else "end_turn"},
            "usage": USAGE,
        },
        {"type": "message_stop"},
    ]


def _codex_says(item: Event) -> list[Event]:
    return [
        {"type": "response.created", "response": {"id": "resp_1"}},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {"id": "resp_1", "usage": USAGE}},
    ]


def _stream(events: Iterable[Event]) -> bytes:
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()


class _Handler(BaseHTTPRequestHandler):
    """Whatever else a client asks for on its way is answered with nothing."""

    model: Model

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._send(b"{}")

    def do_HEAD(self) -> None:
        self._send(b"")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        self._send(_stream(self.model.answer(self.path.partition("?")[0], asked)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        del format, args


@contextmanager
def scripted(prompt: str) -> Iterator[Model]:
    """A model that calls `generate` with a prompt, while this lasts."""
    ours, theirs = socket.socketpair()
    model = Model(prompt, theirs)

    def serve() -> None:
        _, handed, *_ = socket.recv_fds(ours, 1, 1)
        if handed:  # else no client came
            with ThreadingHTTPServer(("127.0.0.1", 0), _Handler, bind_and_activate=False) as server:
                server.socket.close()
                server.socket = socket.socket(fileno=handed[0])
                server.RequestHandlerClass = type("Handler", (_Handler,), {"model": model})
                over.append(server.shutdown)
                server.serve_forever()

    over: list[Callable[[], None]] = []
    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    try:
        yield model
    finally:
        theirs.close()
        for end in over:
            end()
        serving.join(CLIENT_SECONDS)
        ours.close()
