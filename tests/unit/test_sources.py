from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux2_mcp.errors import Problem
from flux2_mcp.sources import LONGEST_URL, callback_problems, is_url, source_problems

LONG = "https://example.com/"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/cat.png",
        "https://example.com",
        "HTTPS://EXAMPLE.COM:8443/a%20b?c=d#e",
        "https://münchen.example/ä.png",
        "https://[2001:db8::1]/cat.png",
        "https://example.com/@ada",
        LONG + "x" * (LONGEST_URL - len(LONG)),
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_https_with_a_host_may_leave(url: str, *, local: bool) -> None:
    assert is_url(url, local=local)


@pytest.mark.parametrize(
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
        LONG + "x" * (LONGEST_URL - len(LONG) + 1),
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_anything_else_stays_here(url: str, *, local: bool) -> None:
    assert not is_url(url, local=local)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/a.png", "http://localhost/a.png", "http://[::1]:1/a.png"])
def test_plain_http_on_loopback_may_leave_only_where_runapi_itself_stands_there(url: str) -> None:
    assert is_url(url, local=True)
    assert not is_url(url, local=False)


@pytest.mark.parametrize("url", ["http://127.0.0.1.example.com/", "http://0.0.0.0/", "http://u@127.0.0.1/"])
def test_what_only_looks_like_loopback_stays_here(url: str) -> None:
    assert not is_url(url, local=True)


def test_each_bad_source_is_named_by_its_place_and_never_shown() -> None:
    secret = "/home/ada/secret.png"
    problems = source_problems(["https://example.com/a.png", secret, "https://example.com/b.png", ""], local=False)
    text = "item {} is neither an https URL nor task:ID of an earlier result."
    assert problems == [Problem("source_images", text.format(2)), Problem("source_images", text.format(4))]
    assert source_problems([], local=False) == []


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
