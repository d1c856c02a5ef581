"""How serving ends: in under half a second, with the right code, whatever the host does; and what it leaves behind."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.process.openings import opening
from tests.process.stdio import COMMAND, DEADLINE, ERAS, LEGACY, Host, Raw, patched

SECONDS = 0.5
ATTEMPTS = 3
"""These machines are shared: an end that takes too long is tried again."""
SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
PIPE_BYTES = 4096


def in_time(attempt: Callable[[], float]) -> None:
    """An attempt gives the seconds that an end took."""
    took: list[float] = []
    while not took or (took[-1] >= SECONDS and len(took) < ATTEMPTS):
        took.append(attempt())
    assert took[-1] < SECONDS, took


def ended(server: Raw | Host, code: int) -> float:
    began = time.monotonic()
    assert server.process.wait(DEADLINE) == code
    return time.monotonic() - began


def close_input(server: Raw | Host) -> None:
    if isinstance(server, Raw):
        server.close_input()
    else:
        assert server.process.stdin is not None
        server.process.stdin.close()


def send(number: int) -> Callable[[Raw | Host], None]:
    return lambda server: server.process.send_signal(number)


WAYS = {"end of input": (close_input, 0)} | {
    signal.Signals(number).name: (send(number), code) for number, code in SIGNALS
}


def question(era: str, ident: str) -> str:
    """A request that the server itself has to answer."""
    return json.dumps(json.loads(opening(era, "tests")[-1]) | {"id": ident, "method": "resources/templates/list"})


def begin(server: Raw, era: str) -> None:
    """Say hello, and see that the server is there."""
    server.send(*opening(era, "tests"), question(era, "last"))
    while server.receive()["id"] != "last":
        pass


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("early", "sockets"), [("1", False), ("1", True), ("0", False)], ids=["early", "sockets", "late"]
)
@pytest.mark.parametrize("era", ERAS)
def test_an_idle_server_ends_in_time_with_its_code(
    era: str, early: str, sockets: bool, way: str, clean_env: dict[str, str]
) -> None:
    (act, code), env = WAYS[way], clean_env | {"FLUX2_EARLY": early}

    def attempt() -> float:
        with Raw(env, sockets=sockets) as server:
            begin(server, era)
            act(server)
            took = ended(server, code)
            assert server.end() == (code, b"")
            return took

    in_time(attempt)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("era", ERAS)
def test_a_call_that_waits_is_answered_and_its_task_is_free_for_the_next_process(
    era: str, way: str, served_env: dict[str, str], tmp_path: Path
) -> None:
    (act, code), env = WAYS[way], served_env

    def attempt() -> float:
        with Host(env, era, cwd=str(tmp_path)) as host:
            first = host.call("generate", prompt="a red fox [sandbox:instant]")["structuredContent"]
            call = {"name": "generate", "arguments": {"prompt": f"a hare {time.monotonic()} [sandbox:stuck]"}}
            ident = host.ask("tools/call", {**call, "_meta": {"progressToken": "p"}})
            while host.next().get("method") != "notifications/progress":
                pass
            act(host)
            took = ended(host, code)
            answer = host.answer_to(ident)
            assert "Traceback" not in host.close()
        assert answer["error"] == {"code": -32000, "message": "Connection closed"}
        sandbox = urlsplit(first["tasks"][0]["images"][0]["url"])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((sandbox.hostname, sandbox.port or 0), timeout=DEADLINE).close()
        with closing(sqlite3.connect(Path(env["FLUX2_HOME"]) / "journal.sqlite3")) as read:
            assert read.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            still = "FROM task WHERE state IN ('intent', 'submitted', 'processing', 'completed')"
            assert read.execute(f"SELECT count(*) > 0, count(lease_until) {still}").fetchall() == [(1, 0)]
        return took

    in_time(attempt)


@pytest.mark.parametrize("era", ERAS)
def test_a_host_that_no_longer_reads_ends_it(era: str, clean_env: dict[str, str]) -> None:
    def attempt() -> float:
        with Raw(clean_env) as server:
            begin(server, era)
            server.close_output()
            server.send(question(era, "next"))
            return ended(server, 0)

    in_time(attempt)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("flood", ["answers", "refusals"])
@pytest.mark.parametrize("era", ERAS)
def test_a_full_pipe_that_nobody_reads_keeps_nobody_from_ending(
    era: str, flood: str, way: str, clean_env: dict[str, str]
) -> None:
    (act, code), env = WAYS[way], clean_env

    def attempt() -> float:
        with Raw(env, pipe_bytes=PIPE_BYTES) as server:
            begin(server, era)
            server.send(*("not JSON" if flood == "refusals" else question(era, f"{number}") for number in range(100)))
            server.until_full()
            act(server)
            return ended(server, code)

    in_time(attempt)


HELD = "import sys, time, anyio.to_thread; from flux2_mcp import service, views\ndef held(*_, **__): sys.stderr.write('held\\n'); time.sleep(3 * 60)"
HOLDS = {
    "the event loop": ("views.variants = held", ("tools/call", {"name": "list_variants"}), send(signal.SIGTERM), 143),
    "a thread": (
        "service.Service.page = lambda *_, **__: anyio.to_thread.run_sync(held)",
        ("resources/list", {}),
        close_input,
        0,
    ),
}


@pytest.mark.parametrize("what", HOLDS)
def test_whatever_holds_the_process_up_is_left_behind(what: str, clean_env: dict[str, str]) -> None:
    patch, (method, params), act, code = HOLDS[what]

    def attempt() -> float:
        with Raw(clean_env, command=patched(f"{HELD}\n{patch}")) as server:
            server.send(*opening(LEGACY, "tests"))
            server.send(json.dumps({"jsonrpc": "2.0", "id": "held", "method": method, "params": params}))
            assert server.process.stderr is not None
            assert server.process.stderr.readline() == b"held\n"
            act(server)
            return ended(server, code)

    in_time(attempt)


@pytest.mark.parametrize("descriptor", ["<&-", ">&-"])
def test_without_a_host_to_speak_with_it_says_so(descriptor: str, served_env: dict[str, str]) -> None:
    command = f"exec {shlex.join(COMMAND)} {descriptor}"
    done = subprocess.run(["sh", "-c", command], env=served_env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == "flux2-mcp serves MCP on standard input and output, and one of them is closed.\n"


def test_from_a_file_into_a_file_it_serves_too(served_env: dict[str, str], tmp_path: Path) -> None:
    asked, told = tmp_path / "asked", tmp_path / "told"
    asked.write_text(f"{opening(LEGACY, 'tests')[0]}\nno JSON\n", "utf-8")
    with asked.open() as source, told.open("w") as sink:
        assert subprocess.run(COMMAND, env=served_env, stdin=source, stdout=sink, check=False).returncode == 0
    answers = [json.loads(line) for line in told.read_text("utf-8").splitlines()]
    assert {(answer["id"], "result" in answer) for answer in answers} == {(1, True), (None, False)}


def test_what_others_print_never_meets_the_host(served_env: dict[str, str]) -> None:
    patch = "views.variants = lambda **_: print('loud', flush=True) or os.system('echo louder') or 1 / 0"
    with Raw(served_env, command=patched(f"import os; from flux2_mcp import views\n{patch}")) as server:
        server.send(*opening(LEGACY, "tests"))
        server.send('{"jsonrpc":"2.0","id":"last","method":"tools/call","params":{"name":"list_variants"}}')
        while server.receive()["id"] != "last":
            pass
        assert server.end() == (0, b"")
        assert server.process.stderr is not None
        assert server.process.stderr.read().startswith(b"loud\nlouder\n")
