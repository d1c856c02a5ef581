from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux2_mcp.domain.sources import UnreadableError, is_local, parse
from flux2_mcp.domain.urls import MAX_URL_CHARS, callback_problems, is_url
from flux2_mcp.errors import Problem
from tests.support.rows import rows

LONG = "https://example.com/"


@rows(
    "url",
    [
        "https://example.com/cat.png",
        "https://example.com",
        "HTTPS://EXAMPLE.COM:8443/a%20b?c=d#e",
        "https://münchen.example/ä.png",
        "https://[2001:db8::1]/cat.png",
        "https://example.com/@ada",
        LONG + "x" * (MAX_URL_CHARS - len(LONG)),
    ],
)
@rows("local", [True, False])
def test_https_with_a_host_may_leave(url: str, *, local: bool) -> None:
    assert is_url(url, local=local)


@rows(
    "url",
    [
        *("", "cat.png", "/home/ada/cat.png", "C:\\cat.png", "file:///etc/passwd", "data:image/png;base64,AAAA"),
        *("ftp://example.com/cat.png", "http://example.com/cat.png", "//example.com/cat.png", "https://", "https:cat"),
        *("https:///cat.png", "https://ada@example.com/", "https://ada:pw@example.com/", "https://:pw@example.com/"),
        *("https://@example.com/", "https://exa mple.com/", "https://example.com/a b", "https://example.com/\n"),
        *(
            " https://example.com/",
            "https://example.com/\x00",
            "https://example.com/\u202e",
            "https://example.com/\ud800",
        ),
        *("https://example.com:99999/", "https://example.com:x/", "https://[::1", "javascript:alert(1)"),
        LONG + "x" * (MAX_URL_CHARS - len(LONG) + 1),
    ],
)
@rows("local", [True, False])
def test_anything_else_stays_here(url: str, *, local: bool) -> None:
    assert not is_url(url, local=local)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/a.png", "http://localhost/a.png", "http://[::1]:1/a.png"])
def test_plain_http_on_loopback_may_leave_only_where_runapi_itself_stands_there(url: str) -> None:
    assert is_url(url, local=True)
    assert not is_url(url, local=False)


@pytest.mark.parametrize("url", ["http://127.0.0.1.example.com/", "http://0.0.0.0/", "http://u@127.0.0.1/"])
def test_what_only_looks_like_loopback_stays_here(url: str) -> None:
    assert not is_url(url, local=True)


@rows(
    ("text", "kind", "rest"),
    [
        ("https://example.com/cat.png", "url", "https://example.com/cat.png"),
        ("task:0193a5f0", "task", "0193a5f0"),
        ("cat.png", "file", "cat.png"),
        ("./art/cat 1.png", "file", "./art/cat 1.png"),
        ("/home/ada/cat.png", "file", "/home/ada/cat.png"),
        ("C:\\cats\\cat.png", "file", "C:\\cats\\cat.png"),
        ("~/cat.png", "file", "~/cat.png"),
        ("tasks/cat.png", "file", "tasks/cat.png"),
        ("file:///home/ada/cat%201.png", "file", "/home/ada/cat 1.png"),
        ("file://localhost/cat.png", "file", "/cat.png"),
        ("data:image/png;base64,AAAA", "data", "data: URI"),
    ],
)
def test_a_source_is_known_by_how_it_begins(text: str, kind: str, rest: str) -> None:
    given = parse(text, local=False)
    assert (given.kind, given.text) == (kind, rest)
    assert is_local(text) is (kind == "file")


def test_the_bytes_of_a_data_uri_are_read_and_never_shown() -> None:
    given = parse("data:image/png;base64,aGVsbG8=", local=False)
    assert given.data == b"hello"
    assert "hello" not in repr(given)


@rows(
    ("text", "words"),
    [
        ("", "is neither an https URL, a path, task:ID"),
        ("  ", "is neither"),
        ("cat\x00.png", "is neither"),
        ("cat\n.png", "is neither"),
        ("http://example.com/cat.png", "is a URL that is not https"),
        ("ftp://example.com/cat.png", "is a URL that is not https"),
        ("//example.com/cat.png", "is a URL that is not https"),
        ("https://ada:pw@example.com/", "is a URL that is not https"),
        ("file://elsewhere/cat.png", "is a file: URI of another machine"),
        ("file://[", "is a file: URI of another machine, or a broken one"),
        ("data:image/png,AAAA", "is a data: URI that is not base64"),
        ("data:image/png;base64", "is a data: URI that is not base64"),
        ("data:image/png;base64,AA A", "is a data: URI whose base64 is broken"),
        ("data:image/png;base64,ÄÄÄÄ", "is a data: URI whose base64 is broken"),
    ],
)
def test_what_is_no_source_is_refused_with_a_reason_that_does_not_show_it(text: str, words: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        parse(text, local=False)
    assert caught.value.message.startswith(words)
    assert "ada" not in caught.value.message
    assert not is_local(text)


def test_a_data_uri_is_refused_before_it_is_decoded_where_it_is_too_large() -> None:
    assert parse("data:;base64,AAAA", local=False, max_bytes=3).data == bytes(3)
    with pytest.raises(UnreadableError, match="holds more than"):
        parse(f"data:;base64,{'A' * 12}", local=False, max_bytes=3)


def test_a_callback_is_a_url_that_runapi_could_reach_or_none() -> None:
    assert callback_problems(None, local=False) == []
    assert callback_problems("https://example.com/hook", local=False) == []
    assert callback_problems("http://127.0.0.1:9/hook", local=True) == []
    for url in ("", "http://127.0.0.1:9/hook", "example.com"):
        assert callback_problems(url, local=False) == [
            Problem("callback_url", "is not an https URL that RunAPI could reach.")
        ]


@given(st.text(max_size=30).map(lambda rest: f"https://{rest}") | st.text(max_size=30))
def test_no_text_makes_it_raise_and_what_leaves_is_https_in_plain_sight(text: str) -> None:
    if is_url(text, local=False):
        assert text.lower().startswith("https://")
        assert text.isprintable()
        assert " " not in text


@given(st.text(max_size=40) | st.text(max_size=30).map(lambda rest: f"data:image/png;base64,{rest}"))
def test_no_text_makes_reading_a_source_raise_anything_but_its_own_error(text: str) -> None:
    try:
        given = parse(text, local=True)
    except UnreadableError:
        return
    assert given.kind in {"url", "task", "file", "data"}
