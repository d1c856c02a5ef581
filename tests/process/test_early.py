"""The first answers, given before the SDK is there: the server's own, byte for byte, and never twice."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import RequestId
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from flux2_mcp import __version__
from flux2_mcp.server.app import Flux2Server, build
from flux2_mcp.server.clients import CLIENTS, STANDARD
from flux2_mcp.server.transports.early import CAPABILITIES as CAPABILITIES_KEY
from flux2_mcp.server.transports.early import CLIENT, LOG_LEVEL, SNAPSHOT, VERSION, EarlyAnswers, Opening, Snapshot
from flux2_mcp.settings import Settings, from_env
from tests.support.deep import few
from tests.support.openings import HOSTS, INSPECTOR, SESSIONS, legacy, live, opening, whole_opening
from tests.support.rows import rows
from tests.support.stdio import DEADLINE, MODERN, NO_HURRY, Raw, patched

pytestmark = pytest.mark.anyio

VERSIONS = (*HANDSHAKE_PROTOCOL_VERSIONS, *MODERN_PROTOCOL_VERSIONS)


def shape(structured: bool) -> str:
    return "structured" if structured else "text"


def snapshot() -> Snapshot:
    found = Snapshot.read()
    assert found is not None
    return found


def answered(line: bytes) -> RequestId:
    ident: RequestId = json.loads(line)["id"]
    return ident


async def taken(server: Flux2Server) -> bytes:
    """The snapshot as this package and this SDK make it: a head, then each different result in a line of its own."""
    names = {shape(row.structured): row.part for row in (*CLIENTS, STANDARD)}
    questions: dict[str, bytes] = {}
    for revision in VERSIONS:
        era = "legacy" if revision in HANDSHAKE_PROTOCOL_VERSIONS else "modern"
        for form, name in names.items():
            lines = whole_opening(revision, name)
            asked = {request["id"]: request["method"] for line in lines if "id" in (request := json.loads(line))}
            for ident, answer in (await live(server, lines)).items():
                start = b'{"jsonrpc":"2.0","id":%d,"result":' % int(ident)
                assert answer.startswith(start)
                questions[f"{era} {asked[int(ident)]} {revision} {form}"] = answer.removeprefix(start).removesuffix(
                    b"}\n"
                )
    results = list(dict.fromkeys(questions.values()))
    head = {
        "made_by": {"flux2_mcp": __version__, "mcp": version("mcp"), "mcp_types": version("mcp_types")},
        "clients": [[row.part, shape(row.structured)] for row in (*CLIENTS, STANDARD)],
        "replies": {question: results.index(result) for question, result in questions.items()},
    }
    return b"\n".join([json.dumps(head).encode(), *results]) + b"\n"


async def test_the_snapshot_is_what_this_package_and_this_sdk_say(sandbox_settings: Settings) -> None:
    """Taken anew by `make early`; the difference is reviewed like code."""
    now = await taken(build(sandbox_settings))
    if os.environ.get("FLUX2_SNAPSHOTS") == "write":
        Path(SNAPSHOT).write_bytes(now)
    assert Path(SNAPSHOT).read_bytes() == now, "run `make early` and look at what changed"


@pytest.mark.parametrize("host", HOSTS)
async def test_what_real_hosts_ask_first_is_answered_as_the_server_answers_it(
    host: str, sandbox_settings: Settings
) -> None:
    early = Opening(snapshot())
    given = {answered(line): line for each in HOSTS[host] if (line := early.answer(each.encode()))}
    assert given == await live(build(sandbox_settings), HOSTS[host])
    asked = [json.loads(line) for line in HOSTS[host]]
    assert early.given == {one["id"]: one["method"] for one in asked if "id" in one}
    assert early.given.keys() == given.keys()
    assert early.settled


async def test_the_inspectors_envelope_is_answered_too_and_no_level_that_nobody_knows(
    sandbox_settings: Settings,
) -> None:
    for extra in ({}, {"progressToken": "7"}, {LOG_LEVEL: "emergency"}):
        meta = INSPECTOR | extra
        line = json.dumps({"method": "tools/list", "params": {"_meta": meta}, "jsonrpc": "2.0", "id": 0})
        assert {0: Opening(snapshot()).answer(line.encode())} == await live(build(sandbox_settings), [line])
    for wrong in ({LOG_LEVEL: "loud"}, {LOG_LEVEL: 7}, {"progressToken": True}):
        params = {"_meta": INSPECTOR | wrong}
        line = json.dumps({"method": "tools/list", "params": params, "jsonrpc": "2.0", "id": 0})
        assert Opening(snapshot()).answer(line.encode()) is None


CAPABILITIES: tuple[dict[str, object], ...] = (
    {},
    {"roots": {"listChanged": True}, "sampling": {}, "elicitation": {"form": {}, "url": {}}},
    {"extensions": {"io.modelcontextprotocol/ui": {"mimeTypes": ["text/html;profile=mcp-app"]}}},
    {"extensions": {"io.modelcontextprotocol/tasks": {}}, "experimental": {"codex/sandbox-state": {}}},
    {"tasks": {"list": {}, "cancel": {}, "requests": {"elicitation": {"create": {}}}}, "sampling": {"tools": {}}},
)


@pytest.mark.parametrize(
    "revision",
    [VERSIONS[0], *(pytest.param(version, marks=pytest.mark.deep) for version in VERSIONS[1:-1]), VERSIONS[-1]],
)
async def test_every_kind_of_client_is_told_what_the_server_would_tell_it(
    revision: str, clean_env: dict[str, str], tmp_path: Path
) -> None:
    known = snapshot()
    for settings in (
        from_env(clean_env, workspace=str(tmp_path)),
        from_env(clean_env | {"RUNAPI_API_KEY": "k", "FLUX2_DAILY_BUDGET_USD": "1"}),
        from_env(
            clean_env | {"FLUX2_MODE": "live", "FLUX2_CALLBACK_URL": "https://x.example", "FLUX2_CALLBACK_PORT": "8"}
        ),
    ):
        server = build(settings)
        for name in (row.part or "somebody else" for row in (*CLIENTS, STANDARD)):
            for capabilities in CAPABILITIES if settings.workspace else CAPABILITIES[:1]:
                lines, early = opening(revision, name.upper(), capabilities), Opening(known)
                given = {answered(line): line for each in lines if (line := early.answer(each.encode()))}
                assert len(given) == 2
                assert given == await live(server, lines)


HELLO = opening("2025-06-18", "tests")
UNUSUAL: dict[str, list[str]] = {
    "a version that nobody knows": opening("2024-01-01", "tests"),
    "a modern version in an old hello": [HELLO[0].replace("2025-06-18", "2026-07-28")],
    "icons": legacy("2025-06-18", icons=[{"src": "https://x.example/i.png"}]),
    "a name that is none": [HELLO[0].replace('"tests"', "7")],
    "capabilities of another kind": legacy("2025-06-18", capabilities={"roots": 7}),
    "capabilities that are a list": legacy("2025-06-18", capabilities=[]),
    "a capability that nobody knows": legacy("2025-06-18", capabilities={"flying": {}}),
    "roots that are no flag": legacy("2025-06-18", capabilities={"roots": {"listChanged": "yes"}}),
    "no client": [HELLO[0].replace("clientInfo", "client")],
    "_meta in a hello": [HELLO[0].replace('"capabilities"', '"_meta": {}, "capabilities"')],
    "a page of tools": [*HELLO[:2], HELLO[2].replace("}", ', "params": {"cursor": "x"}}')],
    "a token that is no token": [*HELLO[:2], HELLO[2].replace("}", ', "params": {"_meta": {"progressToken": true}}}')],
    "tools before a hello": HELLO[2:],
    "an envelope in an old conversation": [*HELLO[:2], opening(MODERN, "tests")[1]],
    "an unknown version in an envelope": [line.replace(MODERN, "2027-01-01") for line in opening(MODERN, "tests")],
    "half an envelope": [line.replace(CAPABILITIES_KEY, "capabilities") for line in opening(MODERN, "tests")],
    "an old hello in a modern conversation": [opening(MODERN, "tests")[0], HELLO[0].replace('"id": 1', '"id": 2')],
    "ping": ['{"jsonrpc":"2.0","id":1,"method":"ping"}'],
}
"""The last line of each is left to the server."""


@rows("case", UNUSUAL)
def test_what_is_asked_in_an_unusual_way_is_left_to_the_server(case: str) -> None:
    early = Opening(snapshot())
    answers = [early.answer(line.encode()) for line in UNUSUAL[case]]
    assert answers[-1] is None
    assert not early.settled


BROKEN = (
    b"{",
    b"[]",
    b'{"jsonrpc":"2.0","id":1,"method":"ping","id":2}',
    b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":true,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":null,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":"\\ud83d","method":"ping"}',
    b'{"jsonrpc":"2.0","id":"\xff","method":"ping"}',
    '{"jsonrpc":"2.0","id":"ß","method":"ping"}'.encode(),
    b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"method":7}',
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}',
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":NaN}}',
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":7}}',
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":' + b"[" * 100 + b"]" * 100 + b"}}",
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"' + b"x" * 20_000 + b'"}}',
    b'{"jsonrpc":"2.0","id":1,"result":{}}',
)


@rows("line", BROKEN)
def test_after_a_line_that_cannot_be_placed_all_is_left_to_the_server(line: bytes) -> None:
    early = Opening(snapshot())
    assert early.answer(line) is None
    assert [early.answer(each.encode()) for each in HELLO] == [None, None, None]
    assert not early.settled


def test_an_id_that_comes_twice_is_left_to_the_server() -> None:
    early = Opening(snapshot())
    assert early.answer(HELLO[0].encode()) is not None
    assert early.answer(HELLO[2].replace('"id": 2', '"id": 1').encode()) is None
    assert early.answer(HELLO[2].encode()) is None


def test_who_says_hello_twice_is_left_to_the_server() -> None:
    early = Opening(snapshot())
    assert early.answer(HELLO[0].encode()) is not None
    assert early.answer(HELLO[0].replace('"id": 1', '"id": 9').encode()) is None
    assert early.answer(HELLO[2].encode()) is None


TOKENS = re.compile(r'"[^"]*"|true|\{\}|\d+')
POOL = (
    *("7", "true", "null", "{}", "[]", '""', '"x"', "1e3", "NaN", '{"x": 1}', '"id": 3, "id"', '"\\ud800"'),
    *(
        f'"{each}"'
        for each in ("initialize", "tools/list", "server/discover", "ping", "params", "_meta", "id", "method")
    ),
    *(f'"{each}"' for each in ("prompts/list", "resources/list", "resources/templates/list")),
    *(
        f'"{each}"'
        for each in ("roots", "sampling", "extensions", "tasks", "clientInfo", "capabilities", "name", "codex")
    ),
    *(f'"{each}"' for each in (VERSION, CLIENT, LOG_LEVEL, "debug", "progressToken", *VERSIONS)),
)


SERVER = build(from_env({"FLUX2_HOME": "/nowhere"}))


REAL = (*HOSTS.values(), *SESSIONS.values(), *(whole_opening(revision, "tests") for revision in VERSIONS))


@st.composite
def mutated(draw: st.DrawFn) -> list[str]:
    """A real opening with some of its pieces exchanged, and perhaps a line left out, doubled or misplaced."""
    lines = list(draw(st.sampled_from(REAL)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(lines) - 1))
        spans = [found.span() for found in TOKENS.finditer(lines[at])]
        start, end = draw(st.sampled_from(spans))
        lines[at] = lines[at][:start] + draw(st.sampled_from(POOL)) + lines[at][end:]
    if draw(st.booleans()):
        lines = draw(st.lists(st.sampled_from(lines), min_size=1, max_size=4))
    return lines


@given(lines=mutated())
@few(50)
def test_whatever_is_answered_early_the_server_answers_the_same(lines: list[str]) -> None:
    early = Opening(snapshot())
    given = [(answered(line), line) for each in lines if (line := early.answer(each.encode()))]
    told = anyio.run(live, SERVER, lines) if given else {}
    for ident, line in given:
        assert told[ident] == line


@pytest.mark.parametrize("other", ["flux2_mcp", "mcp", "mcp_types"])
def test_a_snapshot_of_another_version_is_refused(other: str, tmp_path: Path) -> None:
    head, *results = Path(SNAPSHOT).read_text("utf-8").splitlines(keepends=True)
    changed = json.loads(head)
    file = tmp_path / "early.jsonl"
    file.write_text(json.dumps(changed) + "\n" + "".join(results), "utf-8")
    assert Snapshot.read(str(file)) is not None
    changed["made_by"][other] = "9.9.9"
    file.write_text(json.dumps(changed) + "\n" + "".join(results), "utf-8")
    assert Snapshot.read(str(file)) is None


def test_without_a_snapshot_nothing_is_answered_early(tmp_path: Path) -> None:
    assert Snapshot.read(str(tmp_path / "none")) is None
    (tmp_path / "empty").touch()
    assert Snapshot.read(str(tmp_path / "empty")) is None


def test_what_it_could_not_send_is_handed_over_with_all_that_it_read() -> None:
    (source, to_it), (from_it, sink) = os.pipe(), os.pipe()
    fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, 4096)
    asked = "".join(f"{line}\n" for line in HELLO).encode() + b"half a li"
    early = EarlyAnswers(snapshot(), source, sink)
    os.write(to_it, asked)
    assert select.select([from_it], [], [], DEADLINE)[0]  # both were read at once, and it holds but the first
    unread, unsent, given = early.hand_over()
    sent = os.read(from_it, 65536)
    assert (unread, given) == (asked, {1: "initialize", 2: "tools/list"})
    assert unsent
    assert [json.loads(line)["id"] for line in (sent + unsent).splitlines()] == [1, 2]
    for descriptor in (source, to_it, from_it, sink):
        os.close(descriptor)


TELLS_ITS_TOOLS = f"""{NO_HURRY}
import atexit, gc, sys
@atexit.register
def tell():
    gc.unfreeze()
    from mcp.server.mcpserver.tools import Tool, ToolManager
    there = gc.get_objects()
    made = sum(type(one) is Tool for one in there)
    sys.stderr.write(" ".join([f"{{made}} made:", *(name for one in there if isinstance(one, ToolManager) for name in one._tools)]))
"""


TELLS_THAT_IT_SERVES = """
class Seen:
    @staticmethod
    def find_spec(name, *_):
        if name == "anyio._backends._asyncio":
            print("it serves", file=sys.stderr, flush=True)
sys.meta_path.insert(0, Seen)
"""
"""anyio imports it when a loop begins."""


HELD = """
import importlib.util, flux2_mcp.server.sdk
class Held:
    sdk = sys.modules.pop("flux2_mcp.server.sdk")
    def find_spec(self, name, *_):
        if name == "flux2_mcp.server.sdk":
            open({gate!r}, "rb", buffering=0).read(1)
            return importlib.util.spec_from_loader(name, self)
    def create_module(self, _):
        return self.sdk
    def exec_module(self, _):
        pass
del flux2_mcp.server.sdk
sys.meta_path.insert(0, Held())
"""
"""The same in a process that is forked from one that has the SDK: it can't tell what else is loaded before or behind the gate."""


class Gate:
    """A server that does not sleep and whose start stands still in the import of the SDK, until `open`."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        (folder / "held").mkdir()
        os.mkfifo(folder / "gate")
        (folder / "held" / "pydantic.py").write_text(
            f"import sys\n{TELLS_THAT_IT_SERVES}\nopen({str(folder / 'gate')!r}, 'rb', buffering=0).read(1)\n"
            "sys.path.remove(__file__.rpartition('/')[0])\ndel sys.modules['pydantic']\nimport pydantic\n"
        )
        self._gate = os.open(folder / "gate", os.O_RDWR)
        self.env = {**env, "FLUX2_SLEEP": "0", "PYTHONPATH": str(folder / "held")}
        self.forked = {**env, "FLUX2_SLEEP": "0"}
        self.held = patched(HELD.format(gate=str(folder / "gate")))

    def open(self) -> None:
        os.write(self._gate, b".")

    def close(self) -> None:
        os.close(self._gate)


@pytest.fixture
def gate(clean_env: dict[str, str], tmp_path: Path) -> Iterator[Gate]:
    with closing(Gate(tmp_path, clean_env)) as gate:
        yield gate


@pytest.mark.parametrize(
    "host",
    [host if host.startswith(("Claude", "Codex")) else pytest.param(host, marks=pytest.mark.deep) for host in HOSTS],
)  # one of each era
def test_a_host_has_its_answers_before_the_sdk_is_there_and_has_them_once(host: str, gate: Gate) -> None:
    with Raw(gate.env) as server:
        server.send(*HOSTS[host])
        asked = [ident for line in HOSTS[host] if (ident := json.loads(line).get("id")) is not None]
        assert [server.receive()["id"] for _ in asked] == asked
        last = dict(json.loads(HOSTS[host][-1])) | {"id": "last", "method": "tools/list"}
        server.send(json.dumps(last))  # after it, so that what the server says of the first ones must come before
        gate.open()
        assert server.receive()["id"] == "last"
        assert server.end() == (0, b"")


@pytest.mark.parametrize(
    "version",
    [pytest.param(HANDSHAKE_PROTOCOL_VERSIONS[-1], marks=pytest.mark.deep), MODERN_PROTOCOL_VERSIONS[-1]],
)
def test_a_call_that_comes_early_waits_for_no_tool_but_its_own(version: str, gate: Gate) -> None:
    with Raw(gate.env, command=patched(TELLS_ITS_TOOLS)) as server:
        server.send(*(lines := opening(version, "tests")))
        assert [server.receive()["id"] for _ in range(2)] == [1, 2]
        call = json.loads(lines[-1]) | {"id": 3, "method": "tools/call"}
        server.send(json.dumps(call | {"params": call.get("params", {}) | {"name": "list_variants"}}))
        gate.open()
        assert server.receive()["id"] == 3
        server.send(lines[-1])  # under the id that it had: 2026-07-28 allows that
        assert len(server.receive()["result"]["tools"]) == 4
        assert server.end() == (0, b"")
        assert server.errors() == "it serves\n4 made: list_variants generate check_task check_pricing"


def test_an_id_that_is_used_again_once_it_was_answered_brings_the_whole_list(gate: Gate) -> None:
    """As 2026-07-28 allows. The pipe is full when the server comes, so that its first answers wait in it."""
    with Raw(gate.env, pipe_bytes=4096) as server:
        hello, listing = opening(MODERN_PROTOCOL_VERSIONS[-1], "tests")
        server.send(hello)
        assert server.receive()["id"] == 1
        server.send(*(json.dumps(json.loads(listing) | {"id": ident}) for ident in (2, 3, 4, 1)))
        gate.open()
        server.until_it_says(b"it serves\n")  # and nothing was read meanwhile
        answers = [server.receive() for _ in range(4)]
        assert [(answer["id"], len(answer["result"]["tools"])) for answer in answers] == [
            (2, 4),
            (3, 4),
            (4, 4),
            (1, 4),
        ]
        assert server.end() == (0, b"")


def test_a_server_that_is_greeted_late_answers_before_it_makes_a_tool(clean_env: dict[str, str]) -> None:
    with Raw(clean_env | {"FLUX2_EARLY": "0"}, command=patched(TELLS_ITS_TOOLS)) as server:
        server.send(HELLO[0])
        assert server.receive()["id"] == 1
        assert server.end() == (0, b"")
        assert server.errors() == "0 made:"


def test_what_was_not_answered_early_is_answered_by_the_server_in_its_own_time(gate: Gate) -> None:
    with Raw(gate.forked, command=gate.held) as server:
        server.send(HELLO[0])
        assert server.receive()["id"] == 1
        server.send("this is no JSON", "x" * 100_000)
        server.send('{"jsonrpc":"2.0","id":2,"method":"tools/list"}')
        server.send('{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"list_variants"}}')
        gate.open()
        answers = [server.receive() for _ in range(4)]
        assert [answer["id"] for answer in answers] == [None, None, 2, 3]
        assert [answer["error"]["code"] for answer in answers[:2]] == [-32700, -32700]
        assert server.end() == (0, b"")


def test_an_early_answer_that_is_cancelled_afterwards_brings_no_second_one(gate: Gate) -> None:
    with Raw(gate.forked, command=gate.held) as server:
        server.send(*HELLO)
        assert [server.receive()["id"] for _ in range(2)] == [1, 2]
        server.send('{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}')
        server.send('{"jsonrpc":"2.0","id":3,"method":"ping"}')
        gate.open()
        assert server.receive()["id"] == 3
        assert server.end() == (0, b"")


def test_a_host_that_only_looks_and_goes_does_not_wait_for_the_sdk(gate: Gate) -> None:
    with Raw(gate.env) as server:
        server.send(*HELLO)
        assert [server.receive()["id"] for _ in range(2)] == [1, 2]
        assert server.end() == (0, b"")  # while the gate is shut


def test_a_question_that_is_left_when_input_ends_is_still_answered(gate: Gate) -> None:
    with Raw(gate.forked, command=gate.held) as server:
        server.send(HELLO[0])
        server.send("not JSON")
        server.close_input()
        assert server.receive()["id"] == 1
        gate.open()
        assert server.receive()["error"]["code"] == -32700
        assert server.end() == (0, b"")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_sdk_loads_ends_the_process_at_once(number: int, code: int, gate: Gate) -> None:
    with Raw(gate.env) as server:
        server.send(HELLO[0])
        server.receive()
        server.process.send_signal(number)
        assert server.wait() == code


def test_answers_that_nobody_reads_keep_nobody_from_ending(gate: Gate) -> None:
    with Raw(gate.env, pipe_bytes=4096) as server:
        server.send(*HELLO)  # the answer to the last takes more than that
        server.until_full()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 143


@pytest.mark.deep  # an id that is used again is read late, too
def test_answers_that_are_read_late_are_whole(gate: Gate) -> None:
    with Raw(gate.env, pipe_bytes=4096) as server:
        server.send(*HELLO, '{"jsonrpc":"2.0","id":3,"method":"ping"}')
        server.until_full()
        gate.open()
        assert [server.receive()["id"] for _ in range(3)] == [1, 2, 3]
        assert server.end() == (0, b"")


def test_a_host_that_is_gone_before_its_first_answer_ends_it(gate: Gate) -> None:
    with Raw(gate.forked, command=gate.held) as server:
        server.close_output()
        server.send(*HELLO)
        gate.open()
        assert server.wait() == 0


def test_before_the_first_answers_next_to_nothing_is_loaded() -> None:
    """A host waits for every import. What it costs in milliseconds, `bench/startup.py` measures."""
    code = "import sys, flux2_mcp.__main__, flux2_mcp.server.transports.early; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.partition(".")[0] == "flux2_mcp"} == {
        "flux2_mcp",
        "flux2_mcp.__main__",
        "flux2_mcp.server",
        "flux2_mcp.server.transports",
        "flux2_mcp.server.transports.early",
        "flux2_mcp.system",
        "flux2_mcp.system.environment",
    }
    assert not loaded & {"dataclasses", "inspect", "pathlib", "typing", "asyncio", "pydantic", "mcp"}
