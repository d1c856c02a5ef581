"""The browser login over HTTP, as a browser and a command line would do it together."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from flux2_mcp.sandbox.login import CODE_SECONDS, PAGE_SECONDS
from tests.support.rows import rows
from tests.support.sandboxed import Api, outcome, running

VERIFIER = "a-verifier-of-at-least-forty-three-characters.~"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
PORT = 49_321
ASKED = {
    "state": "st&te=1",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
    "redirect_port": str(PORT),
    "display_code": "AB12-CD34",
    "hostname": "desk",
    "version": "1.2.3",
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("home")) as api:
        yield api


def page(api: Api, **change: str) -> httpx2.Response:
    return api.anyone.get("/cli/authorize", params=ASKED | change)


def press(api: Api, shown: httpx2.Response, answer: str = "allow") -> httpx2.Response:
    found = re.search(r'name="id" value="([^"]+)"', shown.text)
    return api.anyone.post("/cli/authorize", data={"id": found[1] if found else "", "answer": answer})


def returned(response: httpx2.Response) -> dict[str, str]:
    """The query of the redirect to the caller's port."""
    parts = urlsplit(response.headers["Location"])
    assert (response.status_code, parts.scheme, parts.netloc, parts.path) == (
        303,
        "http",
        f"127.0.0.1:{PORT}",
        "/callback",
    )
    return {name: values[0] for name, values in parse_qs(parts.query).items()}


def exchange(api: Api, code: str, verifier: str = VERIFIER, port: object = PORT, **headers: str) -> httpx2.Response:
    body = {"code": code, "code_verifier": verifier, "redirect_port": port}
    return api.anyone.post("/api/v1/cli/exchange", json=body, headers=headers)


def code(api: Api) -> str:
    return returned(press(api, page(api)))["code"]


def test_allow_brings_a_code_and_the_code_brings_the_key(api: Api) -> None:
    shown = page(api)
    assert (shown.status_code, "AB12-CD34" in shown.text, "desk" in shown.text) == (200, True, True)
    query = returned(press(api, shown))
    assert sorted(query) == ["code", "state"]
    assert query["state"] == ASKED["state"]
    answer = exchange(api, query["code"], **{"X-CLI-Hostname": "desk-2"})
    assert outcome(answer) == (
        201,
        {
            "key": api.sandbox.api_key,
            "name": "Sandbox key for desk-2",
            "token_type": "Bearer",
            "user": {"email": "sandbox@example.invalid"},
        },
    )
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_port_may_be_text_and_hostname_and_version_may_be_missing(api: Api) -> None:
    found = returned(press(api, page(api, hostname="", version="")))["code"]
    assert exchange(api, found, port=str(PORT)).json()["name"] == "Sandbox key"


def test_deny_brings_an_error_and_no_code(api: Api) -> None:
    assert returned(press(api, page(api), "deny")) == {
        "error": "access_denied",
        "error_description": "The login was denied.",
        "state": ASKED["state"],
    }


def test_a_page_is_answered_once(api: Api) -> None:
    shown = page(api)
    assert [press(api, shown).status_code for _ in range(2)] == [303, 400]


def test_a_page_and_a_code_grow_old(api: Api) -> None:
    shown, found = page(api), code(api)
    state, now = api.sandbox.state, time.time()
    try:
        state.clock = lambda: now + CODE_SECONDS + 5
        assert exchange(api, found).status_code == 400
        state.clock = lambda: now + PAGE_SECONDS + 5
        assert press(api, shown).status_code == 400
    finally:
        state.clock = time.time


def test_a_code_opens_once(api: Api) -> None:
    found = code(api)
    assert [exchange(api, found).status_code for _ in range(2)] == [201, 400]


@pytest.mark.parametrize(
    "wrong", [{"verifier": VERIFIER + "x"}, {"port": PORT + 1}, {"port": None}], ids=["verifier", "port", "no port"]
)
def test_a_wrong_proof_opens_nothing_and_spends_the_code(api: Api, wrong: dict[str, str]) -> None:
    found = code(api)
    refused = exchange(api, found, **wrong)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_grant")
    assert exchange(api, found).status_code == 400


@pytest.mark.parametrize(("found", "verifier"), [("unknown", VERIFIER), ("\u00fc", VERIFIER), ("", "short")])
def test_what_is_no_code_or_verifier_is_refused(api: Api, found: str, verifier: str) -> None:
    assert exchange(api, found, verifier).status_code == 400


@rows(
    "change",
    [
        {"state": ""},
        {"state": "a b"},
        {"code_challenge": "short"},
        {"code_challenge_method": "plain"},
        {"redirect_port": "0"},
        {"redirect_port": "65536"},
        {"redirect_port": "80@evil.example"},
        {"redirect_port": ""},
        {"display_code": "<b>"},
        {"hostname": "a\nb"},
        {"version": "1 2"},
    ],
)
def test_a_login_that_is_none_gets_a_page_that_says_so_and_never_a_redirect(api: Api, change: dict[str, str]) -> None:
    refused = page(api, **change)
    (name,) = change
    assert (refused.status_code, name in refused.text, "<form" in refused.text) == (400, True, False)


def test_the_page_escapes_what_it_shows(api: Api) -> None:
    shown = page(api, hostname="<script>alert(1)</script>\"'&")
    assert "<script" not in shown.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;" in shown.text


def test_the_page_runs_nothing_loads_nothing_and_is_framed_by_nobody(api: Api) -> None:
    first, second = page(api), page(api)
    policy = dict(part.split(" ", 1) for part in first.headers["Content-Security-Policy"].split("; "))
    nonce = policy.pop("style-src")
    assert policy == {
        "default-src": "'none'",
        "form-action": f"'self' http://127.0.0.1:{PORT}",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    assert f'<style nonce="{nonce.removeprefix(chr(39) + "nonce-").removesuffix(chr(39))}">' in first.text
    assert nonce not in second.headers["Content-Security-Policy"]
    assert {name: first.headers[name] for name in ("Cache-Control", "Referrer-Policy", "X-Frame-Options")} == {
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
    }


def test_pressing_the_button_of_no_page_leads_nowhere(api: Api) -> None:
    stray = api.anyone.post("/cli/authorize", data={"id": "unknown", "answer": "allow"})
    assert (stray.status_code, "Location" in stray.headers) == (400, False)
    assert api.anyone.post("/cli/authorize", content=b"\xff=&%").status_code == 400


def test_a_login_survives_a_restart_between_its_steps(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    with running(home) as api:
        found = code(api)
    with running(home) as api:
        assert exchange(api, found).json()["key"] == api.sandbox.api_key
