"""The contract's suite: personal tokens, kept as digests."""

from __future__ import annotations

from datetime import timedelta

import pytest

from flux2_mcp.domain import personal_tokens
from flux2_mcp.domain.audit import AuditFilter
from flux2_mcp.domain.personal_tokens import TokenRecord
from flux2_mcp.errors import JournalError
from tests.support.journals import AT, Home

pytestmark = pytest.mark.anyio


def record(name: str, *, minutes: int = 0, days: int | None = None) -> TokenRecord:
    made = AT + timedelta(minutes=minutes)
    ends = None if days is None else made + timedelta(days=days)
    return TokenRecord(
        digest=personal_tokens.digest(personal_tokens.new()), name=name, created_at=made, expires_at=ends
    )


async def test_a_token_is_known_to_every_process_until_it_ends_or_is_taken_back(home: Home) -> None:
    journal = home.journal()
    assert await journal.tokens.live(at=AT) == ()
    old, short, new = record("build"), record("build", minutes=1, days=1), record("docs", minutes=2)
    for each in (old, short, new):
        await journal.tokens.add(each)
    other = home.journal("b", account="runapi.ai:ba9876543210")
    assert await other.tokens.all() == (new, short, old)
    assert set(await other.tokens.live(at=AT)) == {new, short, old}
    assert set(await other.tokens.live(at=AT + timedelta(days=1, minutes=1))) == {new, old}
    assert await other.tokens.revoke(old.digest, at=AT + timedelta(hours=1))
    assert not await journal.tokens.revoke(old.digest, at=AT + timedelta(hours=2))
    assert not await journal.tokens.revoke("0" * 64, at=AT)
    assert set(await journal.tokens.live(at=AT)) == {new, short}
    (*_, last) = await journal.tokens.all()
    assert (last.digest, last.revoked_at) == (old.digest, AT + timedelta(hours=1))
    assert last.state(AT) == personal_tokens.REVOKED
    assert [each.state(AT + timedelta(days=3)) for each in (short, new)] == ["expired", "live"]


async def test_the_audit_says_whose_tokens_were_made_and_taken_back(home: Home) -> None:
    journal, token = home.journal(), record("build")
    await journal.tokens.add(token)
    await journal.tokens.revoke(token.digest, at=AT + timedelta(hours=1))
    await journal.tokens.revoke(token.digest, at=AT + timedelta(hours=2))
    entries = await journal.audit.entries(AuditFilter(person=token.person.key), limit=9)
    assert [(each.what, each.person, each.at) for each in entries] == [
        ("revoke", None, AT + timedelta(hours=1)),
        ("token", None, AT),
    ]


async def test_no_token_is_kept_twice(home: Home) -> None:
    journal, token = home.journal(), record("build")
    await journal.tokens.add(token)
    with pytest.raises(JournalError):
        await journal.tokens.add(token)
    assert await journal.tokens.all() == (token,)
