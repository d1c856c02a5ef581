"""A key goes through every command, tool, fault and crash, at every log level: it stands in its own file and nowhere else."""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle, product
from pathlib import Path
from urllib.parse import quote

import click
import httpx2
import pytest

from flux2_mcp.cli.main import flux2
from flux2_mcp.sandbox.scenarios import SCENARIOS
from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.settings import LEVELS
from tests.process.conftest import Here
from tests.support import forked
from tests.support.deep import thin
from tests.support.sandboxed import TLS
from tests.support.stdio import DEADLINE, LEGACY, MODERN, Host, Raw, dressed, patched
from tests.support.terminal import COMMAND, flux2_mcp
from tests.support.ways import OVER_HTTP, OVER_STDIO, TOOLS, Way

KEY = "canary-5d1c9b7e0a44/+&"
"""Percent-encoding changes it: echoes come in both forms."""
PROMPT = "canary-3f9a1c in a coal mine"
DRAWN = {"no_usage", "expired_url", "wrong_ratio", "corrupt"}
PROMPTS = [f"{PROMPT} [sandbox:{one.marker}]{'[sandbox:moderation]' * (one.marker not in DRAWN)}" for one in SCENARIOS]
"""Those that are not about an image fail in the end: drawing is most of what a task costs."""
URL = re.compile(r"http://127\.0\.0\.1:\d+[^\s\"]*")

STARTS = ("doctor", "claude-code", "--timeout", "120", "--json")
"""Starts the server whose entry was written before."""
RUNS: tuple[tuple[str, ...], ...] = (
    ("whoami",),
    ("team", "people"),
    ("team", "token", "create", "canary"),
    ("team", "token", "list", "--json"),
    ("team", "token", "revoke", "00000000"),
    ("team", "audit"),
    ("balance", "--json"),
    ("pricing",),
    ("variants", "--json"),
    ("generate", PROMPT, "--no-picture"),
    ("generate", f"{PROMPT} [sandbox:moderation]", "--json"),
    ("generate", PROMPT, "--variant", "nobody"),
    ("remix", PROMPT, "https://example.com/a.png", "--no-picture"),
    ("remix", PROMPT, "nobody.png"),
    ("wait", "nobody"),
    ("tasks", "--json"),
    ("open", "nobody"),
    ("spend",),
    ("plan", "--json"),
    ("apply", "--yes"),
    ("derive",),
    ("adopt", "nobody.png"),
    ("schema",),
    ("prune", "--older-than", "1d", "--yes"),
    ("install", "codex", "claude-code"),
    ("install", "codex", "--uninstall"),
    ("doctor", "codex", "--json"),
    STARTS,
    ("completion", "bash"),
    ("version",),
)
SERVING = (("gallery", "--no-open"), ("serve", "--http", "--port", "0"), ("sandbox",))


DEEP_LEVELS = ["debug", *(pytest.param(level, marks=pytest.mark.deep) for level in LEVELS if level != "debug")]
"""At debug the most is said."""


def leaks(key: str, *shown: str, below: Path, but: Path | None = None) -> list[str]:
    """Where the key stands, in any form: a piece of what was shown, or a file."""
    forms = {key, quote(key, safe=""), json.dumps(key)[1:-1], base64.b64encode(key.encode()).decode().rstrip("=")}
    files = {str(path): path.read_bytes() for path in below.rglob("*") if path.is_file() and path != but}
    places = files | {text: text.encode() for text in shown}
    return [place for place, held in places.items() if any(form.encode() in held for form in forms)]


@contextmanager
def mirror(key: str) -> Iterator[str]:
    """A service that says back the key it was given, in each shape an error or an answer has. Gives its address."""
    said = cycle([
        (400, "application/json", json.dumps({"error": {"code": "bad", "message": f"No: Bearer {key}"}})),
        (422, "application/json", json.dumps({"error": "Validation failed", "errors": {key: [f"not {key}"]}})),
        (401, "application/json", json.dumps({"error": f"{quote(key, safe='')} is unknown"})),
        (403, "text/html", f"<html><title>{key}</title><h1>{key}</h1></html>"),
        (402, "text/plain", f"Authorization: Bearer {key}"),
        (200, "application/json", json.dumps({"id": "t", "status": "failed", "error": f"key {key} is spent"})),
        (200, "application/json", json.dumps({"id": 1, "name": key, "email": key, "account": {"name": key}})),
        (200, "application/json", f'"{key}'),
    ])  # fmt: skip

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, kind, body = next(said)
            self.send_response(status, key)
            self.send_header("Content-Type", kind)
            self.send_header("X-Request-Id", key)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815  # http.server's name

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the base class's
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Who asked has gone: a command ends while an answer is on its way. It would be told on this process's stderr."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(DEADLINE)
    server.server_close()


def visited(env: dict[str, str], *command: str) -> str:
    """Start what serves, look at what it serves, and stop it; all that came of it."""
    process = forked.begin([*COMMAND, *command], env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        seen, deadline = "", time.monotonic() + DEADLINE
        while not (found := URL.search(seen)):
            assert time.monotonic() < deadline, seen
            line = process.stdout.readline()
            assert line, seen
            seen += line
        answer = httpx2.get(found[0], verify=TLS, follow_redirects=True, timeout=DEADLINE)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    return f"{seen}{rest}{answer.headers}{answer.text}"


def test_no_command_is_left_out() -> None:
    assert {run[0] for run in (*RUNS, *SERVING)} | {"login", "logout"} == set(flux2.list_commands(click.Context(flux2)))


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.deep)])
def test_a_key_that_was_typed_in_stands_in_its_file_alone_until_it_is_in_none(
    clean_env: dict[str, str], here: Here, tmp_path: Path, *, processes: bool
) -> None:
    home = tmp_path / "user"
    file = home / ".config" / "runapi" / "config.json"
    (home / ".codex").mkdir(parents=True)
    with Sandbox(tmp_path.parent / f"{tmp_path.name}-runapi", speed=1000, rate=None) as runapi:
        key = runapi.api_key
        debug = {"RUNAPI_BASE_URL": runapi.base_url, "FLUX2_LOG": "debug"}
        env = clean_env | debug
        done = flux2_mcp(env, "login", "--stdin", given=key)
        assert done.returncode == 0, done.stderr
        assert json.loads(file.read_text("utf-8"))["api_key"] == key
        shown = [done.stdout, done.stderr]
        for run in RUNS:
            if processes:
                done = flux2_mcp(env, *run)
                shown += [done.stdout, done.stderr]
            elif run is not STARTS:
                shown += here(*run, **debug)[1:]
        shown += [visited(env, *run) for run in SERVING]
        assert leaks(key, *shown, below=tmp_path, but=file) == []
        assert [path.name for path in file.parent.iterdir()] == ["config.json"]
        assert leaks(key, below=tmp_path) == [str(file)]  # what looks for it finds it
        shown = [*here("logout", **debug)[1:]]
    assert leaks(key, *shown, below=tmp_path) == []


@pytest.mark.parametrize("level", DEEP_LEVELS)
def test_a_service_that_says_the_key_back_gets_it_shown_by_no_command(here: Here, tmp_path: Path, level: str) -> None:
    with mirror(KEY) as base_url:
        env = {"RUNAPI_API_KEY": KEY, "RUNAPI_BASE_URL": base_url, "FLUX2_LOG": level, "NO_COLOR": "1"}
        runs = [here(*run, **env) for run in RUNS for _ in range(8) if run[0] in {"whoami", "balance", "pricing"}]
        runs += [here("generate", f"{PROMPT} {number}", "--wait", "0", **env) for number in range(8)]
        runs += [here("tasks", "--json", **env), here("wait", "t", "--timeout", "1", **env)]
    assert {code for code, _, _ in runs} >= {2, 3, 4}
    assert leaks(KEY, *(text for _, *both in runs for text in both), below=tmp_path) == []


# Each transport, and each era, once.
@pytest.mark.parametrize(
    ("way", "prompts"),
    [
        (OVER_STDIO[MODERN], PROMPTS[::2]),
        *(pytest.param(way, PROMPTS, marks=pytest.mark.deep) for way in (OVER_STDIO[MODERN], OVER_HTTP[LEGACY])),
    ],
    ids=str,
)
def test_no_tool_shows_the_key_whatever_becomes_of_its_task(
    way: Way, prompts: Sequence[str], clean_env: dict[str, str], tmp_path: Path
) -> None:
    with Sandbox(tmp_path.parent / f"{tmp_path.name}-runapi", speed=1000, rate=None) as runapi:
        key = runapi.api_key
        env = clean_env | {"RUNAPI_API_KEY": key, "RUNAPI_BASE_URL": runapi.base_url, "FLUX2_LOG": "debug"}
        # At this rate a stuck task takes little from the others.
        with way.opened(env | {"FLUX2_RATE": "20"}, tmp_path) as host:
            for prompt in prompts:
                host.call("generate", prompt=prompt, wait_seconds=1)
            host.call("generate", prompt=PROMPT, source_images=["nobody.png"])
            called = {"generate"} | {tool for tool in TOOLS[1:] if host.call(tool)}
            for each in host.request("resources/list")["resources"]:
                host.request("resources/read", {"uri": each["uri"]})
            errors = host.close()
    assert called == set(TOOLS)
    assert len(host.heard) > len(prompts)
    assert leaks(key, errors, json.dumps(host.heard), below=tmp_path) == []


@pytest.mark.parametrize("level", ["debug", pytest.param("info", marks=pytest.mark.deep)])
def test_a_server_whose_service_says_the_key_back_tells_nobody(
    clean_env: dict[str, str], tmp_path: Path, level: str
) -> None:
    with mirror(KEY) as base_url:
        env = clean_env | {"RUNAPI_API_KEY": KEY, "RUNAPI_BASE_URL": base_url, "FLUX2_LOG": level}
        with Host(env, MODERN, cwd=str(tmp_path)) as host:
            for number in range(8):
                host.call("generate", prompt=f"{PROMPT} {number}", wait_seconds=0)
                host.call("check_pricing")
            host.call("check_task", wait_seconds=1)
            errors = host.close()
    assert len(host.heard) == 17
    assert leaks(KEY, errors, json.dumps(host.heard), below=tmp_path) == []


# The exceptions that libraries raise over a header name it whole, as h11 does: b'Bearer ...'.
BREAKS = """
from flux2_mcp{module} import {owner}
def broken(*_, **__): raise RuntimeError("Illegal header value b'Bearer {key}' for {prompt}")
{owner}.{name} = broken
"""
CRASHES = {
    "in a tool": (".engine.service", "Service", "generate"),
    "in its parts": (".runapi.client", "RunApi", "create"),
    "while a task is kept": (".engine.steps", "TaskSteps", "send"),
    "at the start": (".server", "app", "build"),
}


@pytest.mark.parametrize(
    ("where", "level"),
    thin(
        product(CRASHES, ["debug", "info"]),
        kept=[
            ("in a tool", "debug"),
            ("in its parts", "info"),
            ("while a task is kept", "info"),
            ("at the start", "info"),
        ],
    ),
)
def test_a_crash_shows_no_key_at_any_level_and_no_prompt_below_debug(
    clean_env: dict[str, str], tmp_path: Path, level: str, where: str
) -> None:
    module, owner, name = CRASHES[where]
    code = BREAKS.format(module=module, owner=owner, name=name, key=KEY, prompt=PROMPT)
    env = clean_env | {"RUNAPI_API_KEY": KEY, "RUNAPI_BASE_URL": "http://127.0.0.1:9", "FLUX2_LOG": level}
    arguments = {"prompt": PROMPT, "wait_seconds": 1, "preview": False}
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    request |= {"params": dressed(MODERN, {"name": "generate", "arguments": arguments}, {})}
    with Raw(env, command=patched(code)) as raw:
        raw.send(json.dumps(request))
        said = "" if where == "at the start" else json.dumps(raw.receive())
        _, rest = raw.end()
        errors = raw.errors()
    assert "RuntimeError" in errors
    assert (PROMPT in errors) is (level == "debug")
    assert leaks(KEY, errors, said, rest.decode(), below=tmp_path) == []


@pytest.mark.parametrize("level", LEVELS)
def test_a_command_that_crashes_shows_no_key(
    here: Here, tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(f"Illegal header value b'Bearer {KEY}'")

    monkeypatch.setattr("flux2_mcp.runapi.client.RunApi.me", broken)
    code, out, err = here("whoami", RUNAPI_API_KEY=KEY, FLUX2_LOG=level)
    assert code != 0
    assert "RuntimeError" in err
    assert leaks(KEY, out, err, below=tmp_path) == []


def test_no_prompt_is_in_a_log_line_of_a_command_at_info(here: Here, tmp_path: Path) -> None:
    with Sandbox(tmp_path / "runapi", speed=1000, rate=None) as runapi:
        env = {
            "RUNAPI_API_KEY": runapi.api_key,
            "RUNAPI_BASE_URL": runapi.base_url,
            "FLUX2_LOG": "info",
            "FLUX2_RATE": "20",
        }
        told = [here("generate", prompt, "--wait", "1", **env)[2] for prompt in PROMPTS[::3]]
    lines = [line for err in told for line in err.splitlines() if "flux2_mcp." in line]
    assert any("event" in line or "task" in line for line in lines)
    assert not [line for line in lines if "canary" in line]
