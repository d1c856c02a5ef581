"""Exchanges a browser's code for a key, saves it and tests it (`api/runapi.md`, browser login, steps 3 and 4)."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

from msgspec import Struct

from flux2_mcp import __version__
from flux2_mcp.domain.hidden_fields import repr_without
from flux2_mcp.domain.models import Balance
from flux2_mcp.errors import LoginError, NotFoundError, RejectedError
from flux2_mcp.runapi import key_file
from flux2_mcp.runapi.login.pkce import LoginAttempt


class LoginResult(Struct, frozen=True, kw_only=True):
    """A key that works, its owner, and the account's money."""

    key: str
    name: str
    email: str
    balance: Balance

    __repr__ = repr_without("key")


async def redeem(attempt: LoginAttempt, code: str, *, base_url: str, hostname: str, path: Path) -> LoginResult:
    """Exchange the code, save the key, test it.

    The key is saved before the test: a code can be exchanged only once, so a lost key could not be got again.

    Raises:
        LoginError: RunAPI does not accept the code.
        ApiError: RunAPI answered with another error.
        TransportError: RunAPI gave no answer.
        SettingsError: The key can't be written to the file.
    """
    from flux2_mcp.runapi.client import RunApi

    async with aclosing(RunApi(base_url, None, version=__version__)) as api:
        try:
            issued = await api.exchange(code, attempt.verifier, attempt.port, hostname)
        except (RejectedError, NotFoundError) as exc:
            raise LoginError(exc.message) from exc
    key_file.save(path, issued.key)
    balance = await prove(base_url, issued.key)
    return LoginResult(key=issued.key, name=issued.name, email=issued.email, balance=balance)


async def prove(base_url: str, key: str) -> Balance:
    """The balance of a key's account: the cheapest proof that the key works.

    Raises:
        AuthenticationError: RunAPI does not know the key.
        TransportError: RunAPI gave no answer.
    """
    from flux2_mcp.runapi.client import RunApi

    async with aclosing(RunApi(base_url, key, version=__version__)) as api:
        return await api.balance()
