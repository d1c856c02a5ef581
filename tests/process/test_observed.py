"""What the server lets an operator see: its log lines, and the spans that it sends where OTEL_* variables name a collector."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from flux2_mcp.sandbox.server import Sandbox
from tests.support.journals import newest_url
from tests.support.stdio import DEADLINE, IN_PEACE, LEGACY, MODERN, Host
from tests.support.ways import OVER_HTTP, OVER_STDIO, Way, each
from tests.system.test_logs import pairs

PROMPT = "a canary-3f9a1c in a coal mine"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def transitions(errors: str, task: str) -> list[dict[str, str]]:
    found = [pairs(line) for line in errors.splitlines() if line.startswith("time=")]
    return [each for each in found if each["event"] == "task" and each.get("task") == task]


@pytest.mark.parametrize("way", each(OVER_STDIO[LEGACY]), ids=str)
def test_at_info_each_step_of_a_task_is_one_line_and_no_prompt_key_or_path_is_in_any(
    way: Way, clean_env: dict[str, str], tmp_path: Path
) -> None:
    with Sandbox(tmp_path / "elsewhere", speed=1000, rate=None) as runapi:
        key = runapi.api_key
        env = clean_env | {"RUNAPI_API_KEY": key, "RUNAPI_BASE_URL": runapi.base_url, "FLUX2_LOG": "info"}
        with way.opened(env, tmp_path) as host:
            made = host.call("generate", prompt=PROMPT, save_to="canary-4.png")["structuredContent"]["tasks"][0]
            host.call("generate", prompt=f"{PROMPT} [sandbox:moderation]")
            assert host.call("generate", prompt=PROMPT, seed=7)["isError"] is True
            errors = host.close()
        assert newest_url(Path(env["FLUX2_HOME"])).startswith(runapi.base_url)
    assert not (Path(env["FLUX2_HOME"]) / "sandbox").exists()
    lines = [line for line in errors.splitlines() if line.startswith("time=")]
    logged = "\n".join(lines)
    assert "canary" not in logged
    assert key not in errors
    assert str(tmp_path) not in logged
    steps = transitions(errors, made["task_id"])
    (intent,) = [each for each in map(pairs, lines) if each.get("to") == "intent"][:1]
    assert not {"task", "from", "took"} & set(intent)
    assert {each["key"] for each in steps} == {intent["key"]}
    states = [(each["from"], each["to"]) for each in steps]
    assert states[0] == ("intent", "submitted")
    assert states[-1] == ("completed", "delivered")
    assert [new for _, new in states][:-1] == [old for old, _ in states][1:]
    for earlier, later in pairwise(steps):
        assert float(earlier["after"]) <= float(later["after"])
    assert all(0 <= float(each["took"]) <= float(each["after"]) + 0.001 for each in steps)
    assert any(each.get("to") == "failed" for each in map(pairs, lines))


class Collector:
    """A collector of OpenTelemetry's on loopback, as far as spans go: OTLP over HTTP, protobuf."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, ExportTraceServiceRequest]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests.append((self.path, ExportTraceServiceRequest.FromString(body)))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the base class's
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> list[Any]:
        return [
            span
            for _, request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, daemon=True)
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join(DEADLINE)
    collector.server.server_close()


def attributes(found: Any) -> dict[str, str]:  # noqa: ANN401  # protobuf's messages have no types here
    return {each.key: each.value.string_value for each in found.attributes}


@pytest.mark.parametrize("way", each(OVER_HTTP[LEGACY]), ids=str)
def test_spans_of_what_was_called_reach_the_collector_that_the_environment_names(
    way: Way, clean_env: dict[str, str], tmp_path: Path, collector: Collector
) -> None:
    env = clean_env | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_RESOURCE_ATTRIBUTES": "team=foxes"}
    with way.opened(env, tmp_path, code=IN_PEACE) as host:
        traced = {"_meta": {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}}
        failing = f"{PROMPT} [sandbox:moderation]"
        host.request("tools/call", {"name": "generate", "arguments": {"prompt": failing}} | traced)
        host.call("generate", prompt=PROMPT, seed=7)
        host.answer("tools/call", {"name": "paint", "arguments": {}})
        errors = host.close()
    assert {path for path, _ in collector.requests} == {"/v1/traces"}
    named = {span.name: span for span in collector.spans()}
    assert {"tools/call generate", "tools/call paint"} <= set(named)
    made = next(span for span in collector.spans() if span.trace_id.hex() == TRACE)
    assert (made.name, made.parent_span_id.hex()) == ("tools/call generate", "b7ad6b7169203331")
    assert attributes(made) == {
        "mcp.method.name": "tools/call",
        "mcp.protocol.version": way.era,
        "jsonrpc.request.id": attributes(made)["jsonrpc.request.id"],
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "generate",
        "error.type": "tool_error",  # its task failed
    }
    assert attributes(named["tools/call paint"])["error.type"] == "-32602"
    refused = [span.name for span in collector.spans() if attributes(span).get("error.type") == "tool_error"]
    assert refused == ["tools/call generate"] * 2
    (resource,) = {
        json.dumps(attributes(each.resource)) for _, request in collector.requests for each in request.resource_spans
    }
    assert json.loads(resource)["service.name"] == "flux2-mcp"
    assert json.loads(resource)["team"] == "foxes"
    sent = b"".join(request.SerializeToString() for _, request in collector.requests)
    assert b"canary" not in sent
    assert "level=" not in errors


# Over stdio the process is ended whatever holds it.
@pytest.mark.parametrize("way", each(OVER_HTTP[MODERN]), ids=str)
def test_a_collector_that_never_answers_keeps_nobody_from_ending(
    way: Way, clean_env: dict[str, str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        # So long OpenTelemetry itself waits for it.
        patience = {"OTEL_EXPORTER_OTLP_TIMEOUT": "3600", "OTEL_BSP_EXPORT_TIMEOUT": "3600000"}
        env = clean_env | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{deaf.getsockname()[1]}"} | patience
        with way.opened(env, tmp_path) as host:
            host.call("list_variants")
            assert "Traceback" not in host.close()


@pytest.mark.parametrize("era", [LEGACY, pytest.param(MODERN, marks=pytest.mark.deep)])
def test_where_the_packages_are_missing_the_server_says_so_and_serves(
    era: str, clean_env: dict[str, str], tmp_path: Path, collector: Collector
) -> None:
    env = clean_env | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with Host(env, era, cwd=str(tmp_path), code="sys.modules['opentelemetry.sdk.trace'] = None") as host:
        assert host.call("list_variants")["structuredContent"]["variants"]
        errors = host.close()
    assert (
        pairs(errors.splitlines()[0])["event"]
        == "no spans are sent: their packages are not installed (flux2-mcp[otel])"
    )
    assert collector.requests == []
