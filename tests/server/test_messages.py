"""Texts that are no message: each is refused under the id of its caller, where its id can be found, and under no other's."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from flux2_mcp.server.transports.messages import MAX_BATCH, MAX_PARTS, crowded, is_crowded, message, refusal
from tests.support.rows import rows

MOST = 10_000
PARSE, INVALID = -32700, -32600
CALL = b'"method":"tools/call","params":{"name":"generate","arguments":{"id":5,"prompt":%b}}'

UNREADABLE = {
    "half a surrogate pair": b'"\\ud83d"',
    "the other half": b'"\\udc00 fox"',
    "Latin-1": b'"caf\xe9"',
    "a control character": b'"a\tb"',
    "an escape that JSON has not": b'"C:\\\\x\\y"',
    "a word without quotes": b"fox",
    "a comma too many": b'["a",]',
    "no comma": b'"a" "b"',
    "a number that is none": b"01",
    "quotes inside of quotes": b'"say "id":5,"no""',
    "brackets in a string": b'"}},\\"id\\":6,\xff"',
    "very deep": b'{"a":' * 3000 + b"1" + b"}" * 3000,
}


def refused(text: bytes, most: int = MOST) -> tuple[object, int] | None:
    """The id and the code of a refusal; None where nothing is said."""
    assert message(text, most) is None
    told = refusal(text, most)
    assert not isinstance(told, list)
    return None if told is None else (told.id, told.error.code)


@rows("ident", [b"7", b'"seven"', b"0", b"-1", b'"}{"', b'"\\u00e9\\""'])
def test_the_id_of_a_request_that_can_not_be_read_is_found_wherever_it_stands(ident: bytes) -> None:
    for name, value in UNREADABLE.items():
        call = CALL % value
        for text in (
            b'{"jsonrpc":"2.0","id":%b,%b}' % (ident, call),
            b'{%b,"jsonrpc":"2.0","id":%b}' % (call, ident),
            b' \t{ "id" : %b , "jsonrpc" : "2.0" , %b } ' % (ident, call),
        ):
            assert refused(text, 100_000) == (json.loads(ident), PARSE), name


@rows(
    ("text", "ident"),
    [
        (b'{"jsonrpc":"2.0","id":7,', 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"a":"cut he', 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping"}}', 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping"}{"jsonrpc":"2.0","id":8,"method":"ping"}', None),
        (b'{"method":"ping","params":{}},"id":8},"jsonrpc":"2.0","id":7}', None),
        (b'{"jsonrpc":"2.0","id":7', None),  # 7 or 71
        (b'{"jsonrpc":"2.0","id":"se', None),
        (b'{"jsonrpc":"2.0","id":07,"method":"ping"}', None),
        (b'{"jsonrpc":"2.0","id":7.0,"method":"ping\xff"}', 7),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping\xff"}', None),
        (b'{"jsonrpc":"2.0","id":1e300,"method":"ping\xff"}', None),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping\xff"}', None),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping\xff"}', None),
        (b'{"jsonrpc":"2.0","id":{"id":7},"method":"ping\xff"}', None),
        (b'{"jsonrpc":"2.0","id":"\\ud83d","method":"ping"}', None),
        (b'{"jsonrpc":"2.0","id":"\xff","method":"ping"}', None),
        (b'{"jsonrpc":"2.0","id":7,"id":8,"method":"ping\xff"}', None),
        (b'{"jsonrpc":"2.0","method":"notifications/x","params":{"id":7,"x":"\xff"}}', None),
        (b'[{"jsonrpc":"2.0","id":7,"method":"ping\xff"}]', None),
        (b'"id":7,\xff', None),
        (b"\xff", None),
        (b"[" * 5000, None),
        (b'{"id":7,' + b"[" * 200_000, None),
    ],
)
def test_an_id_that_is_not_sure_is_none(text: bytes, ident: object) -> None:
    assert refused(text, 10**6) == (ident, PARSE)


def test_of_a_text_that_is_too_long_the_id_is_found_at_either_end() -> None:
    long = b'"' + b"A" * (2 * MOST) + b'"'
    for text in (b'{"jsonrpc":"2.0","id":7,%b}' % (CALL % long), b'{%b,"jsonrpc":"2.0","id":7}' % (CALL % long)):
        assert refused(text) == (7, PARSE)
        assert refused(text[:MOST] + text[-100:]) == (7, PARSE)  # and it parses


def test_an_answer_that_can_not_be_read_is_not_answered() -> None:
    for text in (
        b'{"jsonrpc":"2.0","id":7,"result":{"x":"\xff"}}',
        b'{"error":{"message":"caf\xe9"},"jsonrpc":"2.0","id":7}',
        b'{"jsonrpc":"2.0","id":7,"result":7}',
    ):
        assert refused(text) is None


def test_what_is_json_and_no_message_keeps_its_id() -> None:
    assert refused(b'{"jsonrpc":"2.0","id":7}') == (7, INVALID)
    assert refused(b'{"jsonrpc":"1.0","id":"x","method":"ping"}') == ("x", INVALID)
    assert refused(b'{"jsonrpc":"2.0","id":7.0,"method":"ping"}') == (7, INVALID)
    assert refused(b'{"jsonrpc":"2.0","id":7.5,"method":"ping"}') == (None, INVALID)
    assert refused(b'{"jsonrpc":"2.0","id":1e300,"method":"ping"}') == (None, INVALID)
    assert refused(b'{"jsonrpc":"2.0","id":null,"method":"ping"}') == (None, INVALID)
    assert refused(b"[]") == (None, INVALID)


@rows(
    ("items", "idents"),
    [
        ([{"id": 1, "method": "ping"}], [1]),
        ([{"id": 1, "method": "ping"}, {"id": "b", "method": "tools/call", "params": {}}], [1, "b"]),
        ([{"method": "notifications/x"}, {"id": 2, "method": "ping"}, {"id": 3, "result": {}}], [2]),
        ([{"method": "notifications/x"}, {"id": 3, "error": {"code": 1, "message": "x"}}], []),
        ([{"id": 4}, {"id": None, "method": "ping"}, {"id": True, "method": "ping"}], [4, None, None]),
        ([1, "x", [], {}, None], [None] * 5),
        ([[{"id": 5, "method": "ping"}]], [None]),
    ],
)
def test_each_request_of_a_batch_is_refused_under_its_id_and_nothing_else_is_answered(
    items: list[object], idents: list[object]
) -> None:
    batch = json.dumps([{"jsonrpc": "2.0"} | item if isinstance(item, dict) and item else item for item in items])
    assert message(batch.encode(), MOST) is None
    told = refusal(batch.encode(), MOST)
    assert isinstance(told, list)
    assert [(one.id, one.error.code) for one in told] == [(ident, INVALID) for ident in idents]
    assert all("each on its own" in one.error.message for one in told)


def test_of_a_batch_of_very_many_the_first_are_answered() -> None:
    told = refusal(b"[" + b"1," * 100_000 + b"1]", 10**6)
    assert isinstance(told, list)
    assert len(told) == MAX_BATCH


@given(
    st.binary(max_size=40) | st.lists(st.sampled_from(list(b'{}[]",:\\ \xff'))).map(bytes),
    st.integers(0, 200),
    st.integers(0, 3),
    st.booleans(),
)
def test_a_text_that_was_damaged_is_answered_under_its_own_id_or_under_none(
    put: bytes, at: int, gone: int, last: bool
) -> None:
    """Nothing that is put in names an id by itself; what stands deeper does, and is never taken."""
    before, after = (b'{"jsonrpc":"2.0",', b',"id":7}') if last else (b'{"id":7,"jsonrpc":"2.0",', b"}")
    call = CALL % b'"a fox in snow"'
    at = min(at, len(call))
    text = before + call[:at] + put + call[at + gone :] + after
    if message(text, MOST) is None:
        told = refusal(text, MOST)
        assert not isinstance(told, list)
        assert told is None or told.id in {7, None}


CROWDS = {
    "numbers": b"[" + b"1," * (MAX_PARTS - 1) + b"1]",
    "lists in lists": b"[" * MAX_PARTS + b"]" * MAX_PARTS,
    "objects": b"[" + b'{"a":1},' * (MAX_PARTS // 3 - 1) + b'{"a":1},0]',
    "texts": b"[" + b'"x,[{\\"",' * (MAX_PARTS // 2 - 1) + b'"x"]',
    "one text": b'{"' + b",[{" * MAX_PARTS + b'":[' + b'"\\",",' * (MAX_PARTS // 2 - 2) + b"0,0]}",
}


@rows("text", CROWDS.values(), ids=CROWDS)
def test_a_text_is_crowded_from_one_part_too_many_on_and_what_a_string_holds_is_none(text: bytes) -> None:
    """Each has as many as may be, or nearly: it passes with its strings, and a few more parts at its end are too many."""
    assert not is_crowded(text)
    assert is_crowded(text + b",1,1,1")


def test_a_crowded_text_is_refused_under_its_id_unparsed() -> None:
    many = b"[" + b"1," * 1_300_000 + b"\xff]"  # a parser would stumble over the last byte
    for text in (b'{"jsonrpc":"2.0","id":7,%b}' % (CALL % many), b'{"jsonrpc":"2.0","id":7,"result":%b}' % many):
        assert is_crowded(text)
        told = crowded(text)
        assert (told.id, told.error.code, told.error.message) == (7, PARSE, "Parse error: this has too many values.")


@given(st.recursive(st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_json_is_as_crowded_as_it_has_parts(value: object) -> None:
    """Repeated until it has too many, whichever its texts and escapes are."""
    one = json.dumps(value).encode()
    each = _parts(value) + 1  # with a comma
    fits, too_many = (MAX_PARTS - 1) // each, MAX_PARTS // each + 2
    assert not is_crowded(b"[" + b",".join([one] * fits) + b"]")
    assert is_crowded(b"[" + b",".join([one] * too_many) + b"]")


def _parts(value: object) -> int:
    """Strings, commas and opening brackets of a value."""
    if isinstance(value, dict):
        return 1 + max(len(value) - 1, 0) + len(value) + sum(map(_parts, value.values()))
    if isinstance(value, list):
        return 1 + max(len(value) - 1, 0) + sum(map(_parts, value))
    return int(isinstance(value, str))
