"""How serving ends: with the right code, whatever the host does; and what it leaves behind. How soon: `bench/ends.py`."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support import forked
from tests.support.deep import thin
from tests.support.journals import newest_url
from tests.support.openings import opening
from tests.support.stdio import COMMAND, DEADLINE, ERAS, IN_PEACE, LEGACY, MODERN, Host, Raw, patched

SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
PIPE_BYTES = 4096


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


def question(era: str, ident: str, kind: str = "early") -> str:
    """A request that the server itself has to answer; of the kind `asleep`, one that does not wake it."""
    last = json.loads(opening(era, "tests")[-1]) | {"id": ident}
    if kind == "asleep":
        return json.dumps(last | {"method": "resources/templates/list"})
    return json.dumps(last | {"method": "tools/call", "params": {**last.get("params", {}), "name": "list_variants"}})


def begin(server: Raw, era: str, kind: str = "early") -> None:
    """Say hello, and see that the server is there."""
    server.send(*opening(era, "tests"), question(era, "last", kind))
    while server.receive()["id"] != "last":
        pass


KINDS = {"asleep": {}, "early": {"FLUX2_SLEEP": "0"}, "late": {"FLUX2_EARLY": "0"}}


@pytest.mark.parametrize(
    ("era", "kind", "way"),
    thin(
        product(ERAS, [*KINDS, "sockets"], WAYS),
        kept=[
            # Each era, each kind and each way.
            (LEGACY, "early", "end of input"),
            (MODERN, "sockets", "SIGINT"),
            (LEGACY, "late", "SIGTERM"),
            *product([LEGACY], ["asleep"], WAYS),
        ],
    ),
)
def test_an_idle_server_ends_with_its_code(era: str, kind: str, way: str, clean_env: dict[str, str]) -> None:
    act, code = WAYS[way]
    loads = kind == "asleep"
    with Raw(clean_env | KINDS.get(kind, {}), sockets=kind == "sockets", loads=loads) as server:
        begin(server, era, kind)
        act(server)
        assert server.end() == (code, b"")


@pytest.mark.parametrize(
    ("era", "kind", "way"),
    thin(
        product(ERAS, KINDS, WAYS),
        kept=[(LEGACY, "early", "end of input"), (MODERN, "early", "SIGTERM")],
    ),
)
def test_a_call_that_waits_is_answered_and_its_task_is_free_for_the_next_process(
    era: str, kind: str, way: str, clean_env: dict[str, str], tmp_path: Path
) -> None:
    (act, code), env = WAYS[way], clean_env | KINDS[kind]
    with Host(env, era, cwd=str(tmp_path), code=IN_PEACE) as host:
        host.call("generate", prompt="a red fox [sandbox:instant]")
        call = {"name": "generate", "arguments": {"prompt": "a hare [sandbox:stuck]"}}
        ident = host.ask("tools/call", {**call, "_meta": {"progressToken": "p"}})
        while host.next().get("method") != "notifications/progress":
            pass
        act(host)
        assert host.process.wait(DEADLINE) == code
        answer = host.answer_to(ident)
        assert "Traceback" not in host.close()
    assert answer["error"] == {"code": -32000, "message": "Connection closed"}
    sandbox = urlsplit(newest_url(Path(env["FLUX2_HOME"])))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((sandbox.hostname, sandbox.port or 0), timeout=DEADLINE).close()
    with closing(sqlite3.connect(Path(env["FLUX2_HOME"]) / "journal.sqlite3")) as read:
        assert read.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        still = "FROM task WHERE state IN ('intent', 'submitted', 'processing', 'completed')"
        assert read.execute(f"SELECT count(*), count(lease_until) {still}").fetchall() == [(1, 0)]


@pytest.mark.parametrize(
    ("era", "kind"), thin(product(ERAS, ["early", "asleep"]), kept=[(LEGACY, "early"), (MODERN, "asleep")])
)
def test_a_host_that_no_longer_reads_ends_it(era: str, kind: str, clean_env: dict[str, str]) -> None:
    with Raw(clean_env) as server:
        begin(server, era, kind)
        server.close_output()
        server.send(question(era, "next", kind))
        assert server.wait() == 0


@pytest.mark.parametrize(
    ("era", "flood", "way"),
    thin(
        product(ERAS, ["answers", "refusals", "asleep"], WAYS),
        kept=[
            (LEGACY, "refusals", "end of input"),
            (MODERN, "answers", "SIGTERM"),
            (LEGACY, "asleep", "end of input"),
            (MODERN, "asleep", "SIGINT"),
        ],
    ),
)
def test_a_full_pipe_that_nobody_reads_keeps_nobody_from_ending(
    era: str, flood: str, way: str, clean_env: dict[str, str]
) -> None:
    act, code = WAYS[way]
    with Raw(clean_env, pipe_bytes=PIPE_BYTES) as server:
        begin(server, era, flood)
        server.send(
            *("not JSON" if flood == "refusals" else question(era, f"{number}", flood) for number in range(100))
        )
        server.until_full()
        act(server)
        assert server.wait() == code


HELD = "import sys, time, anyio.to_thread; from flux2_mcp.engine import service\nfrom flux2_mcp.server.results import catalog as catalog_results\ndef held(*_, **__): sys.stderr.write('held\\n'); time.sleep(10 * 60)"
HOLDS = {
    "the event loop": (
        "catalog_results.variants = held",
        ("tools/call", {"name": "list_variants"}),
        send(signal.SIGTERM),
        143,
    ),
    "a thread": (
        "service.Service.newest = lambda *_, **__: anyio.to_thread.run_sync(held)",
        ("resources/list", {}),
        close_input,
        0,
    ),
}


@pytest.mark.parametrize("what", HOLDS)
def test_whatever_holds_the_process_up_is_left_behind(what: str, clean_env: dict[str, str]) -> None:
    patch, (method, params), act, code = HOLDS[what]
    # Awake from the start: a server that sleeps lists resources without a service.
    with Raw(clean_env | {"FLUX2_SLEEP": "0"}, command=patched(f"{HELD}\n{patch}")) as server:
        server.send(*opening(LEGACY, "tests"))
        server.send(json.dumps({"jsonrpc": "2.0", "id": "held", "method": method, "params": params}))
        server.until_it_says(b"held\n")
        act(server)
        assert server.wait() == code


@pytest.mark.parametrize("descriptor", ["<&-", ">&-"])
def test_without_a_host_to_speak_with_it_says_so(descriptor: str, clean_env: dict[str, str]) -> None:
    command = f"exec {shlex.join(COMMAND)} {descriptor}"
    done = subprocess.run(["sh", "-c", command], env=clean_env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == "flux2-mcp serves MCP on standard input and output, and one of them is closed.\n"


def test_from_a_file_into_a_file_it_serves_too(served_env: dict[str, str], tmp_path: Path) -> None:
    asked, told = tmp_path / "asked", tmp_path / "told"
    asked.write_text(f"{opening(LEGACY, 'tests')[0]}\nno JSON\n", "utf-8")
    with asked.open() as source, told.open("w") as sink:
        assert forked.begin(COMMAND, served_env, stdin=source, stdout=sink).wait(DEADLINE) == 0
    answers = [json.loads(line) for line in told.read_text("utf-8").splitlines()]
    assert {(answer["id"], "result" in answer) for answer in answers} == {(1, True), (None, False)}


def test_what_others_print_never_meets_the_host(clean_env: dict[str, str]) -> None:
    patch = "catalog_results.variants = lambda **_: print('loud', flush=True) or os.system('echo louder') or 1 / 0"
    with Raw(
        clean_env,
        command=patched(f"import os; from flux2_mcp.server.results import catalog as catalog_results\n{patch}"),
    ) as server:
        server.send(*opening(LEGACY, "tests"))
        server.send('{"jsonrpc":"2.0","id":"last","method":"tools/call","params":{"name":"list_variants"}}')
        while server.receive()["id"] != "last":
            pass
        assert server.end() == (0, b"")
        assert server.process.stderr is not None
        assert server.process.stderr.read().startswith(b"loud\nlouder\n")
