"""From a code to a key that is saved and proven, against the sandbox and against services that fail between."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from flux2_mcp.errors import AuthenticationError, LoginError, SettingsError, TransportError, WireError
from flux2_mcp.runapi.login.pkce import LoginAttempt
from flux2_mcp.runapi.login.redeem import prove, redeem
from tests.support.sandboxed import TLS
from tests.support.services import GARBAGE, WRONG_KEY, Front, Reply, constantly, fronted

pytestmark = pytest.mark.anyio

EXCHANGE, BALANCE = "POST /api/v1/cli/exchange", "GET /api/v1/me/balance"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "config.json"


async def allowed(front: Front, attempt: LoginAttempt) -> str:
    """The code that a browser brings back."""
    async with httpx2.AsyncClient(base_url=front.sandbox.base_url, verify=TLS, timeout=60) as http:
        page = await http.get(attempt.address(front.sandbox.base_url, "desk"))
        found = re.search(r'name="id" value="([^"]+)"', page.text)
        assert found
        back = await http.post("/cli/authorize", data={"id": found[1], "answer": "allow"})
    return parse_qs(urlsplit(back.headers["Location"]).query)["code"][0]


def saved(path: Path) -> object:
    return json.loads(path.read_text("utf-8")) if path.exists() else None


async def test_a_code_becomes_a_key_that_is_saved_and_opens_the_balance(front: Front, path: Path) -> None:
    attempt = LoginAttempt(port=49_321)
    code = await allowed(front, attempt)
    found = await redeem(attempt, code, base_url=front.base_url, hostname="desk", path=path)
    assert (found.key, found.name, found.email) == (
        front.sandbox.api_key, "Sandbox key for desk", "sandbox@example.invalid",
    )  # fmt: skip
    assert found.balance == await prove(front.base_url, found.key)
    assert found.balance.balance_usd == 100
    assert saved(path) == {"api_key": front.sandbox.api_key}
    assert front.sandbox.api_key not in repr(found)
    with pytest.raises(LoginError) as caught:  # a code opens once
        await redeem(attempt, code, base_url=front.base_url, hostname="desk", path=path)
    assert "or the code is spent or too old" in caught.value.message


async def test_another_attempts_verifier_or_port_opens_nothing(front: Front, path: Path) -> None:
    attempt = LoginAttempt(port=49_321)
    for other in (LoginAttempt(port=49_321), LoginAttempt(port=49_322, verifier=attempt.verifier)):
        code = await allowed(front, attempt)
        with pytest.raises(LoginError):
            await redeem(other, code, base_url=front.base_url, hostname="desk", path=path)
    assert saved(path) is None


@pytest.mark.parametrize(
    ("call", "reply", "error", "kept"),
    [
        (EXCHANGE, None, TransportError, False),
        (EXCHANGE, GARBAGE, WireError, False),
        (EXCHANGE, Reply(200, b'{"name": "no key"}'), WireError, False),
        (EXCHANGE, Reply(404, b"{}"), LoginError, False),
        (BALANCE, WRONG_KEY, AuthenticationError, True),
        (BALANCE, GARBAGE, WireError, True),
    ],
)
async def test_a_key_that_came_is_kept_even_where_its_proof_fails_and_none_is_made_up(
    front: Front, path: Path, call: str, reply: Reply | None, error: type[Exception], kept: bool
) -> None:
    attempt = LoginAttempt(port=49_321)
    code = await allowed(front, attempt)
    front.rule = constantly(call, reply)
    with pytest.raises(error) as caught:
        await redeem(attempt, code, base_url=front.base_url, hostname="desk", path=path)
    assert (saved(path) is not None) == kept
    assert front.sandbox.api_key not in str(caught.value)
    assert attempt.verifier not in str(caught.value)


async def test_a_file_that_can_not_be_read_is_left_alone_and_named(front: Front, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("{")
    attempt = LoginAttempt(port=49_321)
    with pytest.raises(SettingsError, match=re.escape(str(path))):
        await redeem(attempt, await allowed(front, attempt), base_url=front.base_url, hostname="desk", path=path)
    assert path.read_text() == "{"
