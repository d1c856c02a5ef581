"""Which proxy leads where: the environment's variables as data, and nothing that can't be read stops all traffic."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux2_mcp.errors import SettingsError
from flux2_mcp.runapi.proxies import Proxy, proxy
from tests.support.rows import rows

URL = "https://api.runapi.example/v1/me"
HTTPS = Proxy("http://proxy.example:3128", "HTTPS_PROXY")


def leads(no_proxy: str, url: str = URL) -> bool:
    """Whether the proxy is on the way."""
    return proxy(url, {"HTTPS_PROXY": HTTPS.url, "NO_PROXY": no_proxy}) is not None


def test_the_proxy_of_the_scheme_goes_before_the_one_for_all_and_small_letters_before_large() -> None:
    env = {"ALL_PROXY": "http://all:1"}
    assert proxy(URL, env) == Proxy("http://all:1", "ALL_PROXY")
    env |= {"HTTP_PROXY": "http://plain:1", "HTTPS_PROXY": HTTPS.url}
    assert proxy(URL, env) == HTTPS
    assert proxy("http://runapi.example", env) == Proxy("http://plain:1", "HTTP_PROXY")
    assert proxy(URL, env | {"https_proxy": "http://small:1"}) == Proxy("http://small:1", "https_proxy")
    assert proxy(URL, {}) is None


@rows(
    ("told", "url"),
    [
        (f'"{HTTPS.url}"', HTTPS.url),
        (f"'{HTTPS.url}' ", HTTPS.url),
        ("proxy.example:3128", HTTPS.url),
        ("https://proxy.example", "https://proxy.example"),
        ("http://ada:p%40ss@proxy.example:1", "http://ada:p%40ss@proxy.example:1"),
        ("SOCKS5h://127.0.0.1:1080", "socks5://127.0.0.1:1080"),
        ("socks://127.0.0.1:1080", "socks5://127.0.0.1:1080"),
    ],
)
def test_a_proxy_is_read_as_people_write_it(told: str, url: str) -> None:
    assert proxy(URL, {"HTTPS_PROXY": told}) == Proxy(url, "HTTPS_PROXY")


@rows("told", ["", " ", '""', "${HTTPS_PROXY}", "$HTTPS_PROXY", "{env:HTTPS_PROXY}", "%HTTPS_PROXY%"])
def test_a_placeholder_is_no_proxy_and_hides_none(told: str) -> None:
    assert proxy(URL, {"https_proxy": told, "HTTPS_PROXY": told}) is None
    assert proxy(URL, {"https_proxy": told, "HTTPS_PROXY": HTTPS.url}) == HTTPS


@rows(
    "told", ["gopher://x", "socks4://x:1", "http://", "http://[", "http://x:99999", "http://x:y", "http://a b:1", "://"]
)
def test_a_proxy_that_can_not_be_used_is_refused_by_its_one_name(told: str) -> None:
    with pytest.raises(SettingsError, match=r"^ALL_PROXY must be the address of a proxy") as caught:
        proxy(URL, {"ALL_PROXY": told})
    assert caught.value.next_step == f'It says "{told}". Mend that setting, then start the server again.'


def test_no_password_is_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        proxy(URL, {"ALL_PROXY": "ftp://ada:s3/cr@t@proxy.example"})
    assert 'says "proxy.example"' in caught.value.next_step
    assert "s3" not in caught.value.message + caught.value.next_step
    assert "s3cret" not in repr(proxy(URL, {"ALL_PROXY": "http://ada:s3cret@proxy.example"}))


def test_a_socks_proxy_without_its_library_is_refused_with_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(SettingsError, match=r"^ALL_PROXY names a SOCKS proxy, and the library") as caught:
        proxy(URL, {"ALL_PROXY": "socks5://127.0.0.1:9"})
    assert "pip install 'flux2-mcp[socks]'" in caught.value.next_step
    assert "unset ALL_PROXY" in caught.value.next_step


@rows("host", ["127.0.0.1:8787", "localhost:1", "[::1]:9", "127.9.9.9"])
def test_loopback_asks_nothing_of_the_environment(host: str) -> None:
    for scheme in ("http", "https"):
        assert (
            proxy(f"{scheme}://{host}/", {"ALL_PROXY": "nonsense://", "HTTP_PROXY": "http://[", "NO_PROXY": "["})
            is None
        )


@rows(
    "no_proxy",
    [
        *("*", "a, * ,b", "runapi.example", ".runapi.example", "*.runapi.example", "API.RunAPI.example."),
        *("api.runapi.example:443", "https://api.runapi.example/", "'runapi.example'", "x api.runapi.example"),
    ],
)
def test_no_proxy_names_hosts_and_what_is_below_them(no_proxy: str) -> None:
    assert not leads(no_proxy)


@rows(
    "no_proxy",
    [
        *("", "other.example", "unapi.example", "x.api.runapi.example", "api.runapi.example:80", "10.0.0.0/8"),
        *(
            "localhost,127.0.0.1,[::1]",
            "::1,fd07:b51a:cc66:f0::/64",
            "[",
            "[::",
            "::::",
            "10.0.0.0/99",
            "://",
            "*.",
            ",,",
        ),
        *("${NO_PROXY}", "%NO_PROXY%"),
    ],
)
def test_what_no_proxy_does_not_name_or_can_not_be_read_goes_by_the_proxy(no_proxy: str) -> None:
    assert leads(no_proxy)


@rows(
    ("no_proxy", "host", "named"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3/8", "10.9.9.9", True),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7:443", "192.0.2.7", True),
        ("fd07:b51a:cc66:f0::/64", "[fd07:b51a:cc66:f0::5]", True),
        ("[fd07:b51a:cc66:f0::]/64", "[fd07:b51a:cc66:f0::5]", True),
        ("fd07:b51a:cc66:f1::/64", "[fd07:b51a:cc66:f0::5]", False),
        ("[2001:db8::1]", "[2001:db8::1]", True),
        ("[2001:db8::1]:443", "[2001:db8::1]", True),
        ("[2001:db8::1]:8443", "[2001:db8::1]", False),
        ("2001:db8::1", "[2001:db8::1]", True),
        ("0.0.0.0/0", "[2001:db8::1]", False),
    ],
)
def test_no_proxy_names_addresses_and_ranges_in_both_families(no_proxy: str, host: str, *, named: bool) -> None:
    assert leads(no_proxy, f"https://{host}/") is not named


MANY = "9" * 5_000
"""Digits; Python makes a number of no more than 4,300."""


@rows(
    "text",
    [
        *(f"api.runapi.example:{MANY}", f"[::1]:{MANY}", f"10.0.0.0/{MANY}", f"[::]/{MANY}", f"::/{MANY}", MANY),
        *(f"{MANY}.0.0.0/8", f"10.0.0.0/255.{MANY}.0.0", f"http://api.runapi.example:{MANY}"),
    ],
)
def test_a_number_that_is_too_long_to_be_one_names_no_host(text: str) -> None:
    for host in ("api.runapi.example", "[2001:db8::1]", "192.0.2.7:8443"):
        assert leads(text, f"https://{host}/")
    assert not leads(f"{text},*")
    with pytest.raises(SettingsError):
        proxy(URL, {"ALL_PROXY": f"http://proxy.example:{MANY}"})


@rows(("port", "named"), [("443", True), ("0443", True), ("4430", False), ("0", False), ("", True)])
def test_a_port_is_compared_as_a_number(port: str, named: bool) -> None:
    assert leads(f"api.runapi.example{port and ':'}{port}") is not named


@given(st.text(max_size=40), st.sampled_from(["api.runapi.example", "[2001:db8::1]", "192.0.2.7:8443"]))
def test_whatever_stands_in_no_proxy_it_is_read(no_proxy: str, host: str) -> None:
    assert leads(no_proxy, f"https://{host}/") in {True, False}


@given(st.text(max_size=30))
def test_whatever_stands_for_a_proxy_it_is_one_or_is_refused(told: str) -> None:
    try:
        found = proxy(URL, {"HTTPS_PROXY": told})
    except SettingsError as exc:
        assert exc.setting == "HTTPS_PROXY"  # noqa: PT017  # either end is right
    else:
        assert found is None or found.url.partition("://")[0] in {"http", "https", "socks5"}
