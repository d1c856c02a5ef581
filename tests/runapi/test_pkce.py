"""One login's secrets and what comes back for them."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from flux2_mcp import __version__
from flux2_mcp.errors import LoginError
from flux2_mcp.runapi.login.pkce import MAX_CODE_CHARS, LoginAttempt
from tests.support.rows import rows

ATTEMPT = LoginAttempt(port=49_321, state="St4te-_" * 6)
RIGHT = {"code": "c0de", "state": ATTEMPT.state}


def query(**fields: str) -> str:
    return urlencode(fields)


def test_the_challenge_is_that_of_the_rfcs_own_example() -> None:
    example = replace(ATTEMPT, verifier="dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
    assert example.challenge == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"  # RFC 7636, appendix B


def test_every_attempt_has_secrets_of_its_own_and_shows_none() -> None:
    many = [LoginAttempt(port=1) for _ in range(50)]
    for name in ("state", "verifier", "display_code", "challenge"):
        assert len({getattr(attempt, name) for attempt in many}) == 50
    for attempt in many:
        assert re.fullmatch(r"[A-Za-z0-9._~-]{43,128}", attempt.verifier)
        assert re.fullmatch(r"[A-HJ-NP-Z2-9]{4}-[A-HJ-NP-Z2-9]{4}", attempt.display_code)
        assert attempt.state not in repr(attempt)
        assert attempt.verifier not in repr(attempt)


def test_the_address_holds_what_the_contract_names_and_not_the_verifier() -> None:
    parts = urlsplit(ATTEMPT.address("https://runapi.ai/v", "my desk\x1b[31m\n"))
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "runapi.ai", "/v/cli/authorize")
    assert {name: values[0] for name, values in parse_qs(parts.query).items()} == {
        "state": ATTEMPT.state,
        "code_challenge": ATTEMPT.challenge,
        "code_challenge_method": "S256",
        "redirect_port": "49321",
        "display_code": ATTEMPT.display_code,
        "hostname": "my desk[31m",
        "version": __version__,
    }
    assert ATTEMPT.verifier not in parts.geturl()


def test_the_code_comes_back_under_the_right_state_alone() -> None:
    assert ATTEMPT.answer(query(**RIGHT)) == "c0de"
    assert ATTEMPT.answer(query(**RIGHT, session="x")) == "c0de"


@rows(
    "text",
    [
        "",
        "code=c0de",
        "code=c0de&state=",
        "code=c0de&state=wrong",
        f"code=c0de&state={ATTEMPT.state}x",
        f"code=c0de&state={ATTEMPT.state[:-1]}",
        f"code=c0de&state={ATTEMPT.state}&state={ATTEMPT.state}",
        f"code=c0de&code=other&state={ATTEMPT.state}",
        f"code=&state={ATTEMPT.state}",
        f"code=a%20b&state={ATTEMPT.state}",
        f"code=%C3%A9&state={ATTEMPT.state}",
        f"code=%00&state={ATTEMPT.state}",
        f"code={'c' * (MAX_CODE_CHARS + 1)}&state={ATTEMPT.state}",
        "code=c0de&state=%ff%fe",
        "code=c0de&state=%C3%A9",
        "error=access_denied",
        "error=access_denied&state=wrong",
        f"state={ATTEMPT.state}",
        "&".join(f"x{number}=1" for number in range(20)) + f"&code=c0de&state={ATTEMPT.state}",
    ],
)
def test_what_is_not_for_this_login_is_nothing(text: str) -> None:
    assert ATTEMPT.answer(text) is None


@rows(
    ("error", "why", "told"),
    [
        ("access_denied", "The login was denied.", "The login was denied."),
        ("access_denied", "", "access_denied"),
        ("x", "\x1b]0;owned\x07<b>\u202eno\nway", "]0;owned<b>no way"),
        ("x", "y" * 10_000, "y" * 299 + "…"),
    ],
)
def test_a_refusal_is_told_as_one_line_of_plain_text(error: str, why: str, told: str) -> None:
    found = ATTEMPT.answer(query(error=error, error_description=why, state=ATTEMPT.state, code="c0de"))
    assert isinstance(found, LoginError)
    assert found.message == f"RunAPI did not give leave: {told}"


BACK = f"http://127.0.0.1:49321/callback?{query(**RIGHT)}"


@rows(
    "text",
    [
        BACK,
        f"  {BACK}\r\n",
        f'"{BACK}"',
        f"<{BACK}>",
        f"{BACK}#",
        f"?{query(**RIGHT)}",
        query(**RIGHT),
        "c0de",
        " c0de\n",
    ],
)
def test_the_address_its_query_or_the_code_alone_may_be_pasted(text: str) -> None:
    assert ATTEMPT.pasted(text) == "c0de"


def test_a_code_of_base64_may_be_pasted() -> None:
    assert ATTEMPT.pasted("abc_-+==") == "abc_-+=="


@rows(
    "text",
    [
        "",
        " \n",
        "two words",
        "http://127.0.0.1:49321/callback",
        BACK.replace(ATTEMPT.state, "x"),
        "caf\u00e9",
        "\x1b[A",
    ],
)
def test_what_else_is_pasted_is_no_code(text: str) -> None:
    assert ATTEMPT.pasted(text) is None


def test_a_refusal_may_be_pasted_too() -> None:
    found = ATTEMPT.pasted(f"http://127.0.0.1:1/callback?error=access_denied&state={quote(ATTEMPT.state)}")
    assert isinstance(found, LoginError)


@given(st.text())
def test_whatever_comes_is_judged_and_breaks_nothing(text: str) -> None:
    assert ATTEMPT.answer(text) is None
    assert not isinstance(ATTEMPT.pasted(text), LoginError)
