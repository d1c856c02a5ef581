"""Personal tokens at the gate: whom they name, from when and until when they count, and how often the journal is asked."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import anyio
import pytest

from flux2_mcp.domain import personal_tokens
from flux2_mcp.domain.people import Person
from flux2_mcp.domain.personal_tokens import TokenRecord
from flux2_mcp.errors import JournalError
from flux2_mcp.server.team.personal import KEPT_SECONDS, PAUSE_SECONDS, RETRY_SECONDS, Bearers, PersonalTokens
from flux2_mcp.server.team.tokens import PersonToken, Refusal

pytestmark = pytest.mark.anyio
NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


class Journal:
    """The tokens of a journal, and a clock."""

    def __init__(self) -> None:
        self.now, self.looks, self.broken = 0.0, 0, False
        self.kept: dict[str, TokenRecord] = {}
        self.answer_after: anyio.Event | None = None

    def make(self, name: str, *, seconds: float | None = None) -> str:
        token = personal_tokens.new()
        ends = None if seconds is None else NOON + timedelta(seconds=self.now + seconds)
        digest = personal_tokens.digest(token)
        self.kept[digest] = TokenRecord(digest=digest, name=name, created_at=NOON, expires_at=ends)
        return token

    async def tokens(self) -> Mapping[str, TokenRecord]:
        self.looks += 1
        found = dict(self.kept)
        if self.answer_after is not None:
            await self.answer_after.wait()
        if self.broken:
            raise JournalError("the database is away")
        return found

    def in_force(self, token: TokenRecord) -> bool:
        return token.state(NOON + timedelta(seconds=self.now)) == personal_tokens.LIVE

    async def sleep(self, seconds: float) -> None:
        await anyio.lowlevel.checkpoint()
        self.now += seconds


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def personal(journal: Journal) -> PersonalTokens:
    return PersonalTokens(lambda: journal, monotonic=lambda: journal.now, sleep=journal.sleep)


def test_a_token_is_as_long_and_as_mixed_as_it_is_said_to_be_and_its_digest_does_not_hold_it() -> None:
    made = {personal_tokens.new() for _ in range(50)}
    assert len(made) == 50
    for token in made:
        assert personal_tokens.is_token(token)
        assert len(base64.urlsafe_b64decode(token.removeprefix(personal_tokens.PREFIX) + "=")) == 32
        assert token not in personal_tokens.digest(token)
    assert not any(personal_tokens.is_token(text) for text in ("", "flux2_", "flux2_" + "a" * 42, "flux2_" + "a" * 44, "flux2_" + "a" * 42 + "\n"))  # fmt: skip


async def test_it_names_the_person_of_its_name_who_is_nobody_of_the_provider(
    journal: Journal, personal: PersonalTokens
) -> None:
    one, other, third = journal.make("build"), journal.make("build"), journal.make("docs")
    found = await Bearers(personal, None).check(one)
    assert isinstance(found, PersonToken)
    # With these three the SDK keeps the sessions and questions of people apart.
    assert (found.subject, found.claims, found.client_id) == ("build", {"iss": "token"}, "")
    assert (found.person.admin, found.person.groups) == (False, frozenset())
    keys = [person.key for token in (one, other, third) if (person := await personal.find(token)) is not None]
    assert keys[0] == keys[1] != keys[2]
    assert keys[0] != Person(issuer="https://sso.example.com", subject="build").key
    assert "build" not in json.dumps(keys)


async def test_the_journal_is_asked_once_in_a_while_and_a_revoked_token_is_refused_after_that(
    journal: Journal, personal: PersonalTokens
) -> None:
    token = journal.make("build")
    for _ in range(3):
        assert await personal.find(token)
        journal.now += KEPT_SECONDS / 4
    assert journal.looks == 1
    journal.kept.clear()
    assert await personal.find(token)
    journal.now += KEPT_SECONDS / 4
    assert await personal.find(token) is None
    assert journal.looks == 2


async def test_a_token_that_expires_is_refused_at_once(journal: Journal, personal: PersonalTokens) -> None:
    token = journal.make("build", seconds=2)
    assert await personal.find(token)
    journal.now += 2
    assert await personal.find(token) is None
    assert journal.looks == 1


async def test_a_new_token_counts_within_a_second_and_made_up_ones_cost_the_journal_no_more(
    journal: Journal, personal: PersonalTokens
) -> None:
    assert await personal.find(journal.make("first"))
    new, began = journal.make("second"), journal.now
    found: list[Person | None] = []

    async def call(token: str) -> None:
        found.append(await personal.find(token))

    async with anyio.create_task_group() as group:
        for token in [new, *(personal_tokens.new() for _ in range(30))]:
            group.start_soon(call, token)
    assert sorted(each.subject for each in found if each is not None) == ["second"]
    assert journal.looks == 2
    assert journal.now - began <= PAUSE_SECONDS
    assert await personal.find("flux2_short") is None
    assert journal.looks == 2  # what has not the form is not looked for


async def test_an_answer_counts_from_the_moment_of_the_question(journal: Journal, personal: PersonalTokens) -> None:
    token = journal.make("build")
    journal.answer_after = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(personal.find, token)
        await anyio.wait_all_tasks_blocked()
        journal.kept.clear()
        journal.now += KEPT_SECONDS
        journal.answer_after.set()
    journal.answer_after = None
    assert await personal.find(token) is None


async def test_a_journal_that_can_not_be_read_proves_nothing(journal: Journal, personal: PersonalTokens) -> None:
    token = journal.make("build")
    bearers = Bearers(personal, None)
    assert isinstance(await bearers.check(token), PersonToken)
    journal.now, journal.broken = KEPT_SECONDS, True
    refused = await bearers.check(token)
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.error, refused.retry_after_seconds) == (
        HTTPStatus.SERVICE_UNAVAILABLE,
        None,
        RETRY_SECONDS,
    )
    journal.broken = False
    assert isinstance(await bearers.check(token), PersonToken)


async def test_calls_that_wait_for_a_journal_that_fails_are_refused_together(
    journal: Journal, personal: PersonalTokens
) -> None:
    journal.broken, journal.answer_after = True, anyio.Event()
    bearers, refused = Bearers(personal, None), list[int]()

    async def call(token: str) -> None:
        found = await bearers.check(token)
        assert isinstance(found, Refusal)
        refused.append(found.status)

    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(call, personal_tokens.new())
        await anyio.wait_all_tasks_blocked()
        journal.answer_after.set()
    assert refused == [HTTPStatus.SERVICE_UNAVAILABLE] * 30
    assert journal.looks <= 2  # the first question had begun before the others called
    journal.broken = False
    assert await personal.find(journal.make("build"))


async def test_what_begins_like_a_personal_token_is_never_shown_to_the_providers_check(
    personal: PersonalTokens,
) -> None:
    class Provider:
        vouching = None

        async def check(self, token: str) -> Refusal:
            return Refusal(HTTPStatus.IM_A_TEAPOT, None, token)

    bearers = Bearers(personal, Provider())  # type: ignore[arg-type]  # these alone are used
    for token, status in ((personal_tokens.new(), 401), ("flux2_.e30.x", 401), ("e30.e30.x", 418)):
        found = await bearers.check(token)
        assert isinstance(found, Refusal)
        assert found.status == status
    alone = await Bearers(personal, None).check("e30.e30.x")
    assert isinstance(alone, Refusal)
    assert "personal tokens alone" in alone.text
