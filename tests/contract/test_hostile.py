"""What comes from outside, as it never should: no reader breaks, raises what is not ours, or shows the key."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flux2_mcp.domain import models
from flux2_mcp.domain.models import Action, ImageRequest
from flux2_mcp.errors import Flux2Error, HostFileError
from flux2_mcp.hosts.editors.toml_edit import TomlEditor
from flux2_mcp.runapi import responses, wire
from flux2_mcp.runapi.responses import Response
from flux2_mcp.runapi.routes import DIRECT, not_public, routes_to
from flux2_mcp.server.transports import messages, stdio
from flux2_mcp.system.logs import redact
from tests.support.deep import deep_but

KEY = "canary-5d1c9b7e0a44/+&"
NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
REQUEST = ImageRequest(
    action=Action.TEXT_TO_IMAGE, variant="pro", model="flux-2-pro-text-to-image", prompt="an astronaut holding a cat"
)
# The names that the readers look for, so that what is made up gets past the first look.
NAMES = (
    "data", "price_schedules", "price_quote", "service", "action", "model", "currency", "pricing_status", "unit_price_cents",
    "billing_config", "key", "overrides", "1k", "reservation_amount_cents", "estimate_basis", "as_of", "balance_cents",
    "spent_cents_today", "id", "name", "email", "account", "user", "upload_url", "headers", "signed_id", "url", "file_name",
    "size_bytes", "expires_at", "status", "error", "errors", "images",
)  # fmt: skip
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from([models.SERVICE, REQUEST.model, "text_to_image", "USD", "output_resolution", "exact", "priced", KEY,
                       "1e999999", "https://x/\ud800", "2026-11-25T10:00:00Z", "0001-01-01T00:00:00+14:00", 10**400])
)  # fmt: skip
JSON = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=8),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=10)
READERS: dict[str, Callable[[dict[str, object]], object]] = {
    "price_schedules": wire.price_schedules,
    "balance": wire.balance,
    "account": wire.account,
    "preparation": wire.preparation,
    "uploaded_file": wire.uploaded_file,
    "login": wire.login,
}


@pytest.mark.parametrize("reader", deep_but(READERS, "price_schedules", "uploaded_file"))
@given(said=OBJECTS)
def test_no_json_makes_a_reader_of_the_wire_raise_anything_but_its_own_error(
    reader: str, said: dict[str, object]
) -> None:
    body = json.dumps(said).encode()
    with contextlib.suppress(Flux2Error):
        READERS[reader](dict(responses.payload(Response(200, {}, body))))


HEADERS = st.dictionaries(
    st.sampled_from(["content-type", "retry-after", "x-request-id"]),
    st.text(max_size=20) | st.sampled_from(["text/html", "-1", "1e9", "nan", KEY, "Wed, 25 Nov 99999 10:00:00 GMT"]),
)
BODIES = st.binary(max_size=60) | st.builds(
    lambda before, after: f"{before}{KEY}{after}".encode(), st.text(max_size=20), st.text(max_size=20)
) | OBJECTS.map(lambda said: json.dumps(said).encode())  # fmt: skip


@given(status=st.integers(100, 999), headers=HEADERS, body=BODIES)
def test_any_answer_is_a_success_or_an_error_that_says_no_key(
    status: int, headers: dict[str, str], body: bytes
) -> None:
    answer = Response(status, headers, body)
    error = responses.failure(answer, now=NOW, key=KEY)
    assert (error is None) is (status == 304 or (answer.ok and not answer.page))
    if error is not None:
        assert KEY not in f"{error.message}{error.cost}{error.next_step}"
        assert error.message.isprintable()
    try:
        responses.payload(answer)
    except Flux2Error as exc:
        assert KEY not in exc.message  # noqa: PT017  # most bodies are fine


ADDRESSES = st.ip_addresses().map(str) | st.text(max_size=20)
HOSTS = st.text(max_size=20) | st.sampled_from(
    [
        "a.example",
        "[::1]",
        "127.1",
        "0x7f.1",
        "ex\u00e4mple.com",
        "\U0001e900.example",
        "a..b",
        "x" * 70,
        "%00",
        "a@b",
        "[::ffff:127.0.0.1]",
    ]
)
URLS = st.builds(
    lambda scheme, host, port, rest: f"{scheme}://{host}{port}/{rest}",
    st.sampled_from(["https", "http", "HTTPS", "file", ""]),
    HOSTS,
    st.sampled_from(["", ":443", ":0", ":99999", ":x", ":"]),
    st.text(max_size=10),
)


@example(url="https://\u00e4..b/", found=["93.184.215.14"])  # found here: a name that can't be written in ASCII
@given(url=URLS | st.text(max_size=30), found=st.lists(ADDRESSES, max_size=3))
def test_whatever_the_url_and_its_lookup_it_is_refused_or_asked_at_public_addresses_alone(
    url: str, found: list[str]
) -> None:
    async def resolve(_: str, __: int) -> list[str]:
        return found

    async def routed() -> None:
        for route in await routes_to(url, "https://runapi.ai", resolve):
            parts = urlsplit(route.url)
            assert parts.scheme == "https"
            if route.way == DIRECT:
                assert parts.hostname is not None
                assert not_public(parts.hostname) is None
                assert route.name is not None
                assert route.name.isascii()

    with contextlib.suppress(Flux2Error):
        anyio.run(routed)


@given(st.text(alphabet="[]{}\"'=.,# \n\\a1tru-e\ufeffmcp_servers\x00\r", max_size=60))
def test_whatever_is_no_toml_is_refused_and_what_is_takes_an_entry(text: str) -> None:
    editor = TomlEditor()
    try:
        put = editor.put(text, "mcp_servers", "flux-2", {"command": "x", "args": []})
    except HostFileError:
        return
    entries = editor.entries(put, "mcp_servers")
    assert entries is not None
    assert entries["flux-2"] == {"command": "x", "args": []}


LINES = st.binary(max_size=60) | st.builds(
    lambda given: json.dumps(given).encode(),
    st.dictionaries(
        st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error"]),
        JSON | st.sampled_from(["2.0", "ping", "tools/call"]),
    ),
)


@given(st.lists(LINES, max_size=4), st.integers(1, 9))
def test_each_line_is_a_message_or_refused_or_an_answer_nobody_waits_for(given_: list[bytes], size: int) -> None:
    sent = b"\n".join(given_) + b"\n"
    lines = stdio.LineReader()
    whole = [line for at in range(0, len(sent), size) for line in lines.of(sent[at : at + size])]
    assert whole == [line for line in sent.split(b"\n") if line and not line.isspace()]
    for line in whole:
        told = None if messages.message(line, stdio.MAX_LINE_BYTES) else messages.refusal(line, stdio.MAX_LINE_BYTES)
        for refusal in told if isinstance(told, list) else [told] if told else []:
            assert refusal.error.code in {-32700, -32600}
            assert KEY not in refusal.error.message


@given(st.text(max_size=10), st.text(max_size=10), st.lists(st.sampled_from([KEY, "canary-5d1c%2F", "x"]), max_size=4))
def test_what_was_redacted_holds_no_key(before: str, after: str, echoes: list[str]) -> None:
    assert KEY not in redact(f"{before}{''.join(echoes)}{after}", KEY)
