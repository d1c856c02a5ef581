"""Lines as no host should send them: each that is no message is told so, and the process stays as it was."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from random import Random
from typing import Any

import pytest
from mcp_types import CLIENT_CAPABILITIES_META_KEY, PROTOCOL_VERSION_META_KEY

from flux2_mcp.domain import catalog
from flux2_mcp.server.transports.stdio import CHUNK_BYTES, MAX_LINE_BYTES, TAIL_BYTES, LineReader
from tests.support.deep import thin
from tests.support.openings import opening
from tests.support.stdio import ERAS, LEGACY, MODERN, Host, Raw, patched

PARSE, INVALID = -32700, -32600
DEEP = pytest.param(MODERN, marks=pytest.mark.deep)
"""What is no message is told so before any era is looked at."""

# The line, and the id and the code of what is answered.
BROKEN: dict[str, tuple[bytes, object, int]] = {
    "no JSON": (b"hello", None, PARSE),
    "half of one": (b'{"jsonrpc":"2.0","id":51,', 51, PARSE),
    "bad UTF-8": (b'{"jsonrpc":"2.0","id":1,"method":"ping\xff"}', 1, PARSE),
    "half a surrogate pair": (b'{"method":"\\ud83d","jsonrpc":"2.0","id":53}', 53, PARSE),
    "zeros": (bytes(20), None, PARSE),
    "deeply nested": (
        b'{"jsonrpc":"2.0","id":54,"method":"ping","params":' + b'{"x":' * 9000 + b"}" * 9001,
        54,
        PARSE,
    ),
    "lists, unclosed": (b"[" * 100_000, None, PARSE),
    "too long": (b'{"method":"' + b"x" * MAX_LINE_BYTES + b'","jsonrpc":"2.0","id":"long"}', "long", PARSE),
    "a number": (b"7", None, INVALID),
    "a batch": (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', 1, INVALID),
    "a batch of none": (b"[]", None, INVALID),
    "no method": (b'{"jsonrpc":"2.0","id":7}', 7, INVALID),
    "another version": (b'{"jsonrpc":"1.0","id":"x","method":"ping"}', "x", INVALID),
    "an id that is none": (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', None, INVALID),
    "params of another kind": (b'{"jsonrpc":"2.0","id":8,"method":"ping","params":"x"}', 8, INVALID),
}


@pytest.mark.parametrize("era", [LEGACY, DEEP])
def test_a_line_that_is_no_message_is_told_so_and_the_next_is_served(era: str, served_env: dict[str, str]) -> None:
    hello, listed = opening(era, "tests")[0], opening(era, "tests")[-1]
    with Raw(served_env) as server:
        server.send(hello)
        assert "result" in server.receive()
        for number, (name, (line, ident, code)) in enumerate(BROKEN.items(), 100):
            server.send(line, "", " \t", listed.replace('"id": 2', f'"id": {number}'))
            answers = [server.receive(), server.receive()]
            # The one is refused on the spot, the other is served by the side.
            refusal, served = sorted(answers, key=lambda answer: "result" in answer)
            assert (refusal["id"], refusal["error"]["code"], name) == (ident, code, name)
            assert served["id"] == number
            assert "hello" not in refusal["error"]["message"]
        assert server.end() == (0, b"")


def test_everybody_who_waits_for_a_part_of_a_batch_is_answered(served_env: dict[str, str]) -> None:
    calls = [{"jsonrpc": "2.0", "id": ident, "method": "ping"} for ident in (61, "b", 63)]
    with Raw(served_env) as server:
        server.send(opening(LEGACY, "tests")[0])
        assert "result" in server.receive()
        server.send(json.dumps([*calls, {"jsonrpc": "2.0", "method": "notifications/none"}]))
        answers = [server.receive() for _ in calls]
        assert [(answer["id"], answer["error"]["code"]) for answer in answers] == [
            (call["id"], INVALID) for call in calls
        ]
        assert server.end() == (0, b"")


@pytest.mark.parametrize("era", [LEGACY, DEEP])
def test_a_broken_answer_is_not_answered(era: str, served_env: dict[str, str]) -> None:
    with Raw(served_env) as server:
        server.send(opening(era, "tests")[0])
        assert "result" in server.receive()
        server.send('{"jsonrpc":"2.0","id":5,"result":7}', '{"jsonrpc":"2.0","id":{},"error":{"code":"x"}}')
        server.send(opening(era, "tests")[-1])
        assert server.receive()["id"] == 2
        assert server.end() == (0, b"")


def test_a_last_line_without_its_end_is_a_line(served_env: dict[str, str]) -> None:
    with Raw(served_env) as server:
        server.write(b"this is the end")
        server.close_input()
        assert server.receive()["error"]["code"] == PARSE
        assert server.end() == (0, b"")


def test_an_answer_that_is_no_utf8_costs_that_answer_alone(served_env: dict[str, str]) -> None:
    name = "from flux2_mcp import errors\nfrom flux2_mcp.server.results import catalog as catalog_results\ndef variants(**_): raise errors.Flux2Error('\\udcff')\ncatalog_results.variants = variants"
    with Raw(served_env, command=patched(name)) as server:
        server.send(*opening(LEGACY, "tests"))
        server.send('{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"list_variants"}}')
        assert [server.receive()["id"] for _ in range(2)] == [1, 2]
        assert server.receive()["error"]["code"] == -32603
        server.send('{"jsonrpc":"2.0","id":4,"method":"ping"}')
        assert server.receive()["id"] == 4
        assert server.end() == (0, b"")


def test_lines_come_out_as_they_went_in_however_they_are_cut() -> None:
    random = Random(7)  # noqa: S311  # seeded on purpose
    lines = [bytes(random.choices(b"ab \xff\r", k=random.randrange(1, 50))) + b"." for _ in range(200)]
    data, kept = b"\n".join(lines) + b"\n\n \n", LineReader()
    found: list[bytes] = []
    while data:
        size = random.randrange(1, 100)
        found += kept.of(data[:size])
        data = data[size:]
    assert found == lines


def test_of_a_line_that_is_too_long_no_more_is_kept_than_its_beginning_and_its_end() -> None:
    kept = LineReader()
    for _ in range(MAX_LINE_BYTES // CHUNK_BYTES + 10):
        assert list(kept.of(b"x" * CHUNK_BYTES)) == []
    long, following = kept.of(b'"}\nnext\n')
    assert (len(long), long[-4:], following) == (MAX_LINE_BYTES + TAIL_BYTES, b'xx"}', b"next")


# --- a thousand of them -----------------------------------------------------------------------------------------------

SEED = 20261125


class Fuzz:
    """A conversation gone mad, the same each time.

    Args:
        era: Which era its better messages belong to.
        messages: How many it has.
    """

    def __init__(self, era: str, messages: int) -> None:
        self._messages = messages
        self._random = Random(f"{SEED} {era}")  # noqa: S311  # seeded on purpose
        self._era = era
        self._number = 1000
        self._ids: list[int | str] = []
        self.cancelled: set[int | str] = set()
        self.kinds = Counter[str]()

    @property
    def asked(self) -> set[int | str]:
        """The ids of well-formed requests."""
        return set(self._ids)

    def lines(self) -> Iterator[bytes]:
        kinds: dict[Callable[[], bytes], int] = {
            self._request: 40,
            self._strange_request: 20,
            self._cancel: 10,
            self._notification: 5,
            self._answer: 5,
            self._garbage: 10,
            self._damaged: 12,
            self._nested: 5,
            self._large: 3,
        }
        for make in self._random.choices(list(kinds), list(kinds.values()), k=self._messages):
            self.kinds[make.__name__] += 1
            yield make()

    def _asked(self, method: str, params: dict[str, Any]) -> bytes:
        number = self._number = self._number + 1
        idents: list[int | str] = [number, str(number), f"ü{number}\n", -number, 10**20 + number]
        ident = self._random.choice(idents)
        self._ids.append(ident)
        meta: dict[str, Any] = (
            {PROTOCOL_VERSION_META_KEY: MODERN, CLIENT_CAPABILITIES_META_KEY: {}} if self._era == MODERN else {}
        )
        if self._random.random() < 0.3:
            meta |= {"progressToken": self._random.choice([number, f"p{number}"])}
        message = {"jsonrpc": "2.0", "id": ident, "method": method, "params": {**params, "_meta": meta}}
        return json.dumps(message, ensure_ascii=self._random.random() < 0.5).encode()

    def _request(self) -> bytes:
        tool = self._random.choice(["list_variants", "check_task", "check_pricing", "generate"])
        fox = {"prompt": f"a fox {self._random.randrange(5)}", "wait_seconds": 0}
        questions: list[tuple[str, dict[str, Any]]] = [
            ("tools/list", {}),
            ("resources/list", {}),
            ("resources/templates/list", {}),
            ("server/discover" if self._era == MODERN else "ping", {}),
            ("tools/call", {"name": tool, "arguments": fox if tool == "generate" else {}}),
            ("tools/call", {"name": "list_variants", "arguments": {}}),
        ]
        return self._asked(*self._random.choice(questions))

    def _strange_request(self) -> bytes:
        questions: list[tuple[str, dict[str, Any]]] = [
            ("no/such", {}),
            ("", {"x": None}),
            ("initialize", {"protocolVersion": 7}),
            ("tools/call", {}),
            ("tools/call", {"name": "paint"}),
            ("tools/call", {"name": "generate", "arguments": {"prompt": self._value(), "seed": 7}}),
            ("tools/call", {"name": "generate", "arguments": {"prompt": "x", "count": self._value()}}),
            ("tools/call", {"name": "check_task", "arguments": {"task_ids": self._value()}}),
            ("tools/call", {"name": ["generate"], "arguments": "x"}),
            ("tools/list", {"cursor": self._value()}),
            ("resources/read", {"uri": self._random.choice(["", "flux2://tasks/x", "file:///etc/passwd", 7])}),
            ("resources/list", {"cursor": "x" * 2000}),
            ("completion/complete", {"ref": {}}),
            ("logging/setLevel", {"level": "loud"}),
            ("tasks/get", {"taskId": self._value()}),
        ]
        return self._asked(*self._random.choice(questions))

    def _value(self) -> object:
        return self._random.choice(
            [None, True, -1, 1e308, 10**30, "", "\x00\x1b[2J", "x" * 6000, [], [[]], {"a": {}}, "\u2028"]
        )

    def _cancel(self) -> bytes:
        ident = self._random.choice(self._ids or [0])
        self.cancelled.add(ident)
        params = {"requestId": ident, "reason": self._value()}
        return json.dumps({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}).encode()

    def _notification(self) -> bytes:
        method = self._random.choice(["notifications/initialized", "notifications/progress", "notifications/none", "x"])
        params = {"progressToken": self._value(), "progress": self._value()}
        return json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode()

    def _answer(self) -> bytes:
        body: dict[str, Any] = self._random.choice(
            [{"result": {}}, {"result": 7}, {"error": {"code": 1, "message": "x"}}, {"error": None}]
        )
        return json.dumps({"jsonrpc": "2.0", "id": self._random.choice([None, 1, "x", 1.5]), **body}).encode()

    def _garbage(self) -> bytes:
        return self._random.randbytes(self._random.randrange(1, 300)).replace(b"\n", b"")

    def _damaged(self) -> bytes:
        known = len(self._ids)
        line = bytearray(self._request())
        del self._ids[known:]  # nobody knows what comes of it
        for _ in range(self._random.randrange(1, 4)):
            at = self._random.randrange(len(line))
            line[at : at + self._random.randrange(3)] = self._random.choice(
                [b"", b"\xff", b'"', b"{", b"\xc3", b"\\u", b"\r"]
            )
        return bytes(line)

    def _nested(self) -> bytes:
        depth = self._random.choice([50, 150, 190, 250, 2000, 20_000])
        left, right = self._random.choice([(b"[", b"]"), (b'{"a":', b"}")])
        middle = left * depth + b"1" + right * depth
        return b'{"jsonrpc":"2.0","method":"notifications/none","params":{"x":' + middle + b"}}"

    def _large(self) -> bytes:
        size = self._random.choice([100_000, 1_000_000])
        return b'{"jsonrpc":"2.0","method":"notifications/none","params":{"x":"' + b"x" * size + b'"}}'


@pytest.mark.parametrize(("era", "messages"), thin(product(ERAS, [100, 1000]), kept=[(LEGACY, 100)]))
def test_messages_at_random_leave_the_process_alive_and_answering(
    era: str, messages: int, clean_env: dict[str, str]
) -> None:
    fuzz = Fuzz(era, messages)
    with Host(clean_env | {"FLUX2_DAILY_BUDGET_USD": "1"}, era) as host:
        for line in fuzz.lines():
            host.write(line + b"\n")
        host.write(b"x" * (MAX_LINE_BYTES + 1) + b"\n")
        awaited = fuzz.asked - fuzz.cancelled
        while awaited:
            awaited.discard(host.next().get("id"))
        assert len(host.call("list_variants")["structuredContent"]["variants"]) == len(catalog.all_models()) - 1
        assert host.process.poll() is None
        errors = host.close()
    assert host.process.returncode == 0
    answers = [json.loads(line) for line in host.lines]
    assert all(answer["jsonrpc"] == "2.0" for answer in answers)
    told = Counter(answer["id"] for answer in answers if "method" not in answer and answer["id"] is not None)
    assert min(fuzz.kinds.values()) >= messages / 100
    assert {ident for ident in fuzz.asked - fuzz.cancelled if told[ident] != 1} == set()
    assert {ident for ident in fuzz.cancelled if told[ident] > 1} == set()
    assert sum(answer["id"] is None for answer in answers if "error" in answer) > messages / 10
    assert "Traceback" not in errors
