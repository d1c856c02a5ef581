"""The server that sleeps until somebody needs it: what it answers, what wakes it, and that nobody notices."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import termios
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.domain.models import SANDBOX, StoredImage
from flux2_mcp.journal.records import TaskChange
from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.server import listing
from flux2_mcp.server.transports import sleep
from flux2_mcp.server.transports.early import EarlyAnswers, Snapshot
from tests.support.asleep import is_asleep, needs_proc, until_awake
from tests.support.deep import deep_but, thin
from tests.support.journals import AT, apply, failed, intent, new, opened, steps
from tests.support.openings import HOSTS, SESSIONS, opening, whole_opening
from tests.support.sandboxed import LOGO
from tests.support.stdio import DEADLINE, ERAS, LEGACY, MODERN, Host, Raw

pytestmark = [pytest.mark.anyio, needs_proc]

AWAKE = {"FLUX2_EARLY": "0"}
CALL = {"name": "list_variants", "arguments": {}}


def call(era: str, ident: int | str) -> str:
    """A call that only the server answers."""
    last = json.loads(opening(era, "tests")[-1])
    return json.dumps(last | {"id": ident, "method": "tools/call", "params": {**last.get("params", {}), **CALL}})


def answers(env: Mapping[str, str], lines: Sequence[str]) -> Counter[bytes]:
    """All that a server answers to these lines, which are sent at once."""
    with Raw(env) as server:
        server.send(*lines)
        given = Counter(server.line() for _ in range(sum(map(is_answered, lines))))
        assert server.end() == (0, b"")
    return given


def is_answered(line: str) -> bool:
    """Whether a line of `conversation` has an answer: a request, or what is no message."""
    try:
        return "id" in (message := json.loads(line)) and "method" in message
    except ValueError:
        return bool(line.strip())


def joined(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def idents(lines: Sequence[str]) -> list[Any]:
    return [ident for line in lines if (ident := json.loads(line).get("id")) is not None]


async def used(home: Path, tasks: int) -> None:
    """A journal with a delivered task and this many that failed."""
    image = StoredImage(
        path="/elsewhere/a fox — «1».png", mime_type="image/png", width=64, height=48, size_bytes=9, sha256="0"
    )
    await failed(home, SANDBOX, tasks)
    async with opened(home) as there:
        journal = there.journal(account=SANDBOX, clock=time.monotonic)
        await new(journal, intent("made"))
        await steps(journal, "made", Event.ACCEPTED, Event.COMPLETED)
        await apply(journal, "made", Event.DELIVERED, TaskChange(at=AT, images=(image,)))


@pytest.mark.parametrize("host", SESSIONS)
def test_after_what_a_real_host_says_first_it_sleeps(host: str, clean_env: dict[str, str]) -> None:
    with Raw(clean_env, loads=True) as server:
        for line in SESSIONS[host]:
            server.send(line)
            if asked := idents([line]):
                assert server.receive()["id"] == asked[0]
        assert is_asleep(server.process.pid)
        assert server.end() == (0, b"")
    assert not (Path(clean_env["FLUX2_HOME"])).exists()


@pytest.mark.parametrize(
    ("version", "tasks"),
    thin(
        product([*HANDSHAKE_PROTOCOL_VERSIONS, *MODERN_PROTOCOL_VERSIONS], [None, 0, 3, listing.PAGE_TASKS]),
        kept=[(LEGACY, None), (LEGACY, listing.PAGE_TASKS), (MODERN, 3)],
    ),
)
async def test_asleep_it_says_what_the_server_says_of_any_journal(
    version: str, tasks: int | None, clean_env: dict[str, str]
) -> None:
    if tasks is not None:
        await used(Path(clean_env["FLUX2_HOME"]), tasks)
    lines = whole_opening(version, "tests")
    with Raw(clean_env, loads=True) as server:
        server.send(*lines)
        given = Counter(server.line() for _ in idents(lines))
        assert is_asleep(server.process.pid)
        assert server.end() == (0, b"")
    assert given == answers(clean_env | AWAKE, lines)
    assert sum(b"a fox" in line for line in given) == (tasks is not None)


@pytest.mark.parametrize("era", ERAS)
def test_the_first_call_wakes_it_and_what_was_answered_is_answered_once(era: str, clean_env: dict[str, str]) -> None:
    lines = whole_opening(era, "tests")
    with Raw(clean_env) as server:
        server.send(*lines)
        assert [server.receive()["id"] for _ in idents(lines)]
        server.send(call(era, "call"))
        assert server.receive()["id"] == "call"
        assert not is_asleep(server.process.pid)
        assert server.end() == (0, b"")


@pytest.mark.parametrize("era", deep_but(ERAS, LEGACY))
def test_a_host_that_says_all_at_once_is_told_all(era: str, clean_env: dict[str, str]) -> None:
    lines = [*whole_opening(era, "tests"), call(era, "call")]
    said = answers(clean_env, lines)
    assert said == answers(clean_env | AWAKE, lines)
    assert sorted(str(json.loads(line)["id"]) for line in said) == sorted(map(str, idents(lines)))


@pytest.mark.parametrize("era", deep_but(ERAS, MODERN))
def test_two_requests_with_one_id_have_two_answers(era: str, clean_env: dict[str, str]) -> None:
    lines = whole_opening(era, "tests")
    again = [json.dumps(json.loads(line) | {"id": 1}) for line in lines if "id" in json.loads(line)]
    with Raw(clean_env) as server:
        for line in again:
            server.send(line)
            assert server.receive()["id"] == 1
        assert server.end() == (0, b"")


def test_a_host_that_pings_for_days_fills_no_memory_and_wakes_nobody(clean_env: dict[str, str]) -> None:
    with Raw(clean_env) as server:
        server.send(*opening(LEGACY, "tests"))
        assert [server.receive()["id"] for _ in range(2)] == [1, 2]
        ping = json.dumps({"jsonrpc": "2.0", "id": "p" * 3000, "method": "ping"})
        for _ in range(400):  # more than is kept of any input
            server.send(ping)
            assert server.receive()["result"] == {}
        assert is_asleep(server.process.pid)
        server.send(call(LEGACY, "call"))
        assert server.receive()["id"] == "call"
        assert server.end() == (0, b"")


def test_answers_that_pile_up_unread_are_left_to_the_server_and_lost_by_nobody(clean_env: dict[str, str]) -> None:
    lines = opening(LEGACY, "tests")
    more = [json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/list"}) for number in range(3, 120)]
    with Raw(clean_env, pipe_bytes=4096) as server:
        server.send(*lines, *more)
        until_awake(server.process.pid)
        assert sorted(server.receive()["id"] for _ in idents([*lines, *more])) == [*range(1, 120)]
        assert server.end() == (0, b"")


WAKING: Mapping[str, Sequence[str]] = {
    "a call": [call(LEGACY, 9)],
    "no JSON": ["{"],
    "a method that nobody knows": ['{"jsonrpc":"2.0","id":9,"method":"tests/none"}'],
    "a page": ['{"jsonrpc":"2.0","id":9,"method":"resources/list","params":{"cursor":"x"}}'],
    "a cancellation": ['{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}'],
    "other roots": ['{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}'],
    "an answer to nothing": ['{"jsonrpc":"2.0","id":9,"result":{}}'],
}


@pytest.mark.parametrize("what", deep_but(WAKING, "a page", "an answer to nothing"))
def test_everything_else_wakes_it(what: str, clean_env: dict[str, str]) -> None:
    with Raw(clean_env) as server:
        server.send(*opening(LEGACY, "tests"))
        assert [server.receive()["id"] for _ in range(2)] == [1, 2]
        server.send(*WAKING[what])
        until_awake(server.process.pid)
        server.send('{"jsonrpc":"2.0","id":"last","method":"resources/list"}')
        while server.receive().get("id") != "last":
            pass
        assert server.end() == (0, b"")


SETTINGS: Mapping[str, dict[str, str]] = {
    "a setting that is unusable": {"FLUX2_RATE": "fast"},
    "a mode that nobody knows": {"FLUX2_MODE": "lve"},
    "callbacks": {"FLUX2_CALLBACK_URL": "https://x.example/hook", "FLUX2_CALLBACK_PORT": "1"},
    "a listen session": {"FLUX2_LISTEN": "1", "RUNAPI_API_KEY": "k" * 20, "RUNAPI_BASE_URL": "http://127.0.0.1:1"},
    "a collector of spans": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
    "no sleep wanted": {"FLUX2_SLEEP": "0"},
    "no early answers": {"FLUX2_EARLY": "0"},
}


@pytest.mark.parametrize("what", deep_but(SETTINGS, "a setting that is unusable", "callbacks", "a collector of spans"))
def test_what_gives_a_server_work_of_its_own_keeps_it_awake(what: str, clean_env: dict[str, str]) -> None:
    with Raw(clean_env | SETTINGS[what]) as server:
        until_awake(server.process.pid)


UNUSUAL = {"FLUX2_LOG": "INFO", "FLUX2_MODE": "Sandbox", "RUNAPI_BASE_URL": "https://elsewhere.example"}


def test_settings_that_are_right_in_an_unusual_way_let_it_sleep(clean_env: dict[str, str]) -> None:
    with Raw(clean_env | UNUSUAL, loads=True) as server:
        server.send(*whole_opening(LEGACY, "tests"))
        assert sorted(server.receive()["id"] for _ in range(6)) == [*range(1, 7)]
        assert is_asleep(server.process.pid)


async def test_a_journal_that_is_broken_or_gone_wakes_it(clean_env: dict[str, str]) -> None:
    home = Path(clean_env["FLUX2_HOME"])
    await used(home, 1)
    with Raw(clean_env) as server:
        server.send(*(lines := whole_opening(LEGACY, "tests")))
        for _ in idents(lines):
            server.receive()
        assert is_asleep(server.process.pid)
        (home / "journal.sqlite3").write_bytes(b"junk" * 1000)
        until_awake(server.process.pid)
    (home / "journal.sqlite3").unlink()
    with Raw(clean_env) as server:
        server.send(*lines)
        until_awake(server.process.pid)
        assert sorted(server.receive()["id"] for _ in idents(lines)) == sorted(idents(lines))


def test_what_a_killed_process_left_is_collected_by_one_that_sleeps(clean_env: dict[str, str], tmp_path: Path) -> None:
    with Sandbox(tmp_path / "runapi", speed=20, rate=None, seed=1) as runapi:
        env = clean_env | {"RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url}
        with Raw(env) as server:
            server.send(*opening(LEGACY, "tests"))
            assert [server.receive()["id"] for _ in range(2)] == [1, 2]
            assert is_asleep(server.process.pid)
            with Host(env, LEGACY, cwd=str(tmp_path)) as host:
                made = host.call("generate", prompt=f"{LOGO} [sandbox:slow]", wait_seconds=0)
                assert is_asleep(server.process.pid)
                host.process.kill()
                host.process.wait(DEADLINE)
            until_awake(server.process.pid)
            (task,) = made["structuredContent"]["tasks"]
            check = {"name": "check_task", "arguments": {"task_ids": [task["task_id"]], "wait_seconds": 60}}
            server.send(json.dumps({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": check}))
            (found,) = server.receive()["result"]["structuredContent"]["tasks"]
            assert found["status"] == "completed"
            assert Path(found["images"][0]["path"]).exists()
        assert [task.creates for task in runapi.tasks()] == [1]


async def test_a_lease_that_lapses_while_nothing_is_written_wakes_it(clean_env: dict[str, str]) -> None:
    home = Path(clean_env["FLUX2_HOME"])
    async with opened(home) as there:
        journal = there.journal("another machine/1/x", account=SANDBOX, clock=time.monotonic)
        await new(journal, intent("left"))
        with there.connected() as connection:
            connection.execute("UPDATE task SET lease_until = ?", (time.monotonic() + 5,))
        with Raw(clean_env) as server:
            server.send(*opening(LEGACY, "tests"))
            assert [server.receive()["id"] for _ in range(2)] == [1, 2]
            until_awake(server.process.pid)
            with there.connected() as connection:
                (lease,) = connection.execute("SELECT lease_until FROM task").fetchone()
            assert time.monotonic() > lease - 20  # it did not wake because of something else
            assert server.end()[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it looks every few seconds")
async def test_a_task_that_nobody_holds_wakes_it_though_it_looks_once_a_minute(clean_env: dict[str, str]) -> None:
    """The home is made while it sleeps. The deadline is before its second look."""
    home = Path(clean_env["FLUX2_HOME"])
    with Raw(clean_env) as server:
        server.send(*opening(LEGACY, "tests"))
        assert [server.receive()["id"] for _ in range(2)] == [1, 2]
        began = time.monotonic()
        async with opened(home) as there:
            await new(there.journal("a", account=SANDBOX, clock=time.monotonic), intent("left"))
            with there.connected() as connection:
                connection.execute("UPDATE task SET lease_until = NULL")
            while is_asleep(server.process.pid):
                assert time.monotonic() < began + sleep.QUIET_SECONDS - 5, "it was not told of the change"
                await anyio.sleep(0.05)
        assert server.end()[0] == 0


@pytest.mark.deep
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it looks every few seconds")
@pytest.mark.parametrize("tasks", [None, 3])
async def test_nothing_wakes_it_while_nothing_happens(tasks: int | None, clean_env: dict[str, str]) -> None:
    if tasks is not None:
        await used(Path(clean_env["FLUX2_HOME"]), tasks)
    with Raw(clean_env) as server:
        server.send(*opening(LEGACY, "tests"))
        assert [server.receive()["id"] for _ in range(2)] == [1, 2]
        await anyio.sleep(2 * sleep.TICK_SECONDS)  # until the last change is read
        switches = switched(server.process.pid)
        await anyio.sleep(3 * sleep.TICK_SECONDS)
        assert switched(server.process.pid) == switches
        assert server.end()[0] == 0


def switched(pid: int) -> int:
    """How often the main thread of a process has gone to sleep."""
    status = Path(f"/proc/{pid}/task/{pid}/status").read_text("utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("voluntary")))


LEAVES = "import sys\nbefore = set(sys.modules)\n{}\nprint(*sorted(set(sys.modules) - before))"
HEAVY = ("asyncio", "anyio", "typing", "dataclasses", "pathlib", "hashlib", "inspect", "logging", "urllib", "decimal")


@pytest.mark.parametrize("journal", ["without", "with"])
async def test_what_it_loads_is_little(journal: str, clean_env: dict[str, str]) -> None:
    home = Path(clean_env["FLUX2_HOME"])
    if journal == "with":
        await used(home, 1)
    code = (
        "from flux2_mcp.server.transports import plain, sleep\n"
        f"place = plain.plain({{'FLUX2_HOME': {str(home)!r}, 'RUNAPI_API_KEY': 'k'}})\n"
        "watch = sleep.Watch(place.home, sandbox=place.sandbox)\n"
        "assert not watch.finds_work() and watch.newest(place.account(), 50) == ()"
    )
    told = await anyio.run_process([sys.executable, "-c", LEAVES.format(code)], env=clean_env)
    there = set(told.stdout.decode().split())
    assert {
        name for name in there if name.partition(".")[0] in {*HEAVY, "pydantic", "mcp", "mcp_types", "httpx2"}
    } == set()
    assert ("sqlite3" in there) == (journal == "with")


MANY = 1000
POOL = (
    *(json.loads(line) for era in ERAS for line in (*whole_opening(era, "tests"), call(era, 0))),
    *(json.loads(line) for lines in (*HOSTS.values(), *WAKING.values()) for line in lines if line != "{"),
)
METHODS = (
    "ping",
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "completion/complete",
    "x",
)


def conversation(dice: Random, count: int) -> list[str]:
    """A hello of one era, and then anything: each with an id of its own, some of it broken."""
    lines = opening(dice.choice(ERAS), "tests")
    for ident in range(10, 10 + count):
        message = dict(dice.choice(POOL))
        if "id" in message:
            message["id"] = dice.choice([ident, str(ident)])
        if dice.random() < 0.3:
            message["method"] = dice.choice(METHODS)
        if "id" in message and dice.random() < 0.1:
            message["params"] = dice.choice([{}, [], 7, {"cursor": ""}, {"_meta": {"progressToken": 1}}])
        line = json.dumps(message)
        lines.append(line if dice.random() > 0.05 else line[: dice.randrange(len(line))])
    return lines


@pytest.mark.parametrize("messages", [25, pytest.param(MANY, marks=pytest.mark.deep)])
async def test_random_messages_are_answered_as_without_sleep(messages: int, clean_env: dict[str, str]) -> None:
    await used(Path(clean_env["FLUX2_HOME"]), 2)
    dice = Random(messages)  # noqa: S311  # to be repeated
    while messages > 0:
        messages -= (count := dice.randint(5, 25))
        lines = conversation(dice, count)
        assert answers(clean_env, lines) == answers(clean_env | AWAKE, lines), lines


PLACES = [(era, at) for era in ERAS for at in range(len(whole_opening(era, "tests")) + 1)]


@pytest.mark.parametrize(("era", "at"), thin(PLACES, kept=[(LEGACY, 0), PLACES[-1]]))
async def test_woken_in_the_middle_of_a_line_it_loses_no_byte(era: str, at: int, clean_env: dict[str, str]) -> None:
    *lines, last = [*whole_opening(era, "tests"), call(era, "call")][: at + 1]
    with Raw(clean_env) as server:
        server.send(*lines)
        for _ in idents(lines):
            server.receive()
        server.write(last.encode()[: len(last) // 2])
        assert is_asleep(server.process.pid)
        await used(Path(clean_env["FLUX2_HOME"]), 0)
        async with opened(Path(clean_env["FLUX2_HOME"])) as there:
            await new(there.journal("another machine/1/x", account=SANDBOX, clock=lambda: -1000.0), intent("left"))
        until_awake(server.process.pid)
        server.write(last.encode()[len(last) // 2 :] + b"\n")
        if idents([last]):
            assert server.receive()["id"] == idents([last])[0]
        server.send(call(era, "after"))
        assert server.receive()["id"] == "after"
        assert server.end() == (0, b"")


def handed_over(*parts: bytes) -> tuple[bytes, list[Any]]:
    """What is passed on to the server of input that comes in these parts, and the ids that were answered before."""
    found = Snapshot.read()
    assert found is not None
    (source, to_it), (from_it, sink) = os.pipe(), os.pipe()
    fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, 2**17)
    early = EarlyAnswers(found, source, sink)
    for part in parts:
        os.write(to_it, part)
        deadline = time.monotonic() + DEADLINE
        while any(fcntl.ioctl(source, termios.FIONREAD, bytes(4))):
            assert time.monotonic() < deadline, "it does not read"
            time.sleep(0)
    unread, unsent, _ = early.hand_over()
    os.close(sink)
    said = b""
    while chunk := os.read(from_it, 2**17):
        said += chunk
    for descriptor in (source, to_it, from_it):
        os.close(descriptor)
    return unread, [json.loads(line)["id"] for line in (said + unsent).splitlines()]


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.deep)])
@pytest.mark.parametrize("era", ERAS)
def test_wherever_its_input_is_cut_it_passes_on_every_byte_but_pings(era: str, step: int) -> None:
    later = json.dumps(json.loads(opening(era, "tests")[-1]) | {"id": 7})
    lines = [*whole_opening(era, "tests"), call(era, "call"), later]
    data = joined(*lines)
    passed = joined(*(line for line in lines if '"ping"' not in line))
    answered = [
        ident for line in lines for ident in idents([line]) if "tools/call" not in line and "resources/list" not in line
    ]
    for at in range(1, len(data), step):
        assert handed_over(data[:at], data[at:]) == (passed, answered)
        begun = [
            line for line in data[:at].splitlines(keepends=True) if not (b'"ping"' in line and line.endswith(b"\n"))
        ]
        assert handed_over(data[:at])[0] == b"".join(begun)
