"""Tokens that anybody can make up: how many calls with such wait, and that nobody who is known waits for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus

import anyio
import anyio.lowlevel
import pytest

from flux2_mcp.domain import personal_tokens
from flux2_mcp.runapi.transport import HttpTransport
from flux2_mcp.server.team.lookups import MOST_WAITING, QUIET_SECONDS, RETRY_SECONDS
from flux2_mcp.server.team.personal import KEPT_SECONDS, Bearers, PersonalTokens
from flux2_mcp.server.team.provider import EARLY_SECONDS, FRESH_SECONDS, PAUSE_SECONDS, SigningKeys
from flux2_mcp.server.team.tokens import PersonToken, Refusal, Tokens
from flux2_mcp.settings import SignIn
from tests.server.test_personal_tokens import Journal
from tests.support.provider import Provider, jwk, rsa_key
from tests.support.stdio import DEADLINE

HERE = "https://flux2.example.com/mcp"
LATER = (HTTPStatus.SERVICE_UNAVAILABLE, None, RETRY_SECONDS)
pytestmark = pytest.mark.anyio


class Calls:
    """Calls that check a token, side by side. `found` has what each that has ended has come to."""

    def __init__(self, tokens: Bearers | Tokens) -> None:
        self._tokens = tokens
        self.found: list[PersonToken | Refusal] = []

    async def one(self, token: str) -> None:
        self.found.append(await self._tokens.check(token))

    def refused(self, *what: object) -> int:
        """How many have come to this refusal: status, error, when to come again."""
        refusals = [each for each in self.found if isinstance(each, Refusal)]
        return sum((each.status, each.error, each.retry_after_seconds) == what for each in refusals)


# --- personal tokens --------------------------------------------------------------------------------------------------


async def test_of_calls_with_made_up_tokens_few_wait_for_the_journal_and_who_is_known_waits_behind_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = Journal()
    bearers = Bearers(PersonalTokens(lambda: journal, monotonic=lambda: journal.now, sleep=journal.sleep), None)
    known = journal.make("build")
    assert isinstance(await bearers.check(known), PersonToken)
    journal.answer_after = anyio.Event()
    calls = Calls(bearers)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            for _ in range(MOST_WAITING + 20):
                group.start_soon(calls.one, personal_tokens.new())
            await anyio.wait_all_tasks_blocked()
            assert (calls.refused(*LATER), len(calls.found)) == (20, 20)
            assert isinstance(await bearers.check(known), PersonToken)
            journal.answer_after.set()
        assert (calls.refused(HTTPStatus.UNAUTHORIZED, "invalid_token", None), journal.looks) == (MOST_WAITING, 2)
        assert [record.getMessage().split(",")[0] for record in caplog.records] == ["too many unknown tokens"]
        new = journal.make("docs")
        assert isinstance(await bearers.check(new), PersonToken)  # there are places again


async def test_a_known_token_that_must_be_looked_up_again_is_never_sent_away() -> None:
    journal = Journal()
    bearers = Bearers(PersonalTokens(lambda: journal, monotonic=lambda: journal.now, sleep=journal.sleep), None)
    known, calls = journal.make("build"), Calls(bearers)
    assert isinstance(await bearers.check(known), PersonToken)
    journal.now += KEPT_SECONDS
    journal.answer_after = anyio.Event()
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            for token in [*(personal_tokens.new() for _ in range(MOST_WAITING)), *[known] * 3]:
                group.start_soon(calls.one, token)
            await anyio.wait_all_tasks_blocked()
            journal.answer_after.set()
    assert sum(isinstance(each, PersonToken) for each in calls.found) == 3


async def test_a_server_that_has_just_started_knows_the_tokens_of_all_who_call_at_once() -> None:
    journal = Journal()
    personal = PersonalTokens(lambda: journal, monotonic=lambda: journal.now, sleep=journal.sleep)
    journal.broken = True
    await personal.learn()  # what fails now is told to whoever calls
    journal.broken = False
    await personal.learn()
    made, calls = [journal.make("early") for _ in range(2 * MOST_WAITING)], Calls(Bearers(personal, None))
    journal.now += KEPT_SECONDS
    await personal.learn()
    async with anyio.create_task_group() as group:
        for token in made:
            group.start_soon(calls.one, token)
    assert (sum(isinstance(each, PersonToken) for each in calls.found), journal.looks) == (len(made), 3)


# --- keys of the provider ---------------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def tokens(provider: Provider, clock: Clock) -> AsyncIterator[Tokens]:
    transport = HttpTransport(provider.issuer)
    async with anyio.create_task_group() as background:
        keys = SigningKeys(provider.issuer, transport, lambda: background, monotonic=clock)
        yield Tokens(keys, SignIn(issuer=provider.issuer), audience=HERE)
    await transport.aclose()


def made_up(provider: Provider, number: int = 0) -> str:
    return provider.token(HERE, head={"kid": f"made up {number}"})


UNKNOWN = (HTTPStatus.UNAUTHORIZED, "invalid_token", None)


async def until_asked(provider: Provider, times: int) -> None:
    while len(provider.asked) < times:
        await anyio.lowlevel.checkpoint()


async def test_while_the_provider_says_nothing_few_wait_for_it_and_share_one_question(
    provider: Provider, tokens: Tokens, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(DEADLINE):
        assert isinstance(await tokens.check(provider.token(HERE)), PersonToken)
        clock.now += PAUSE_SECONDS
        provider.answers.clear()
        provider.down = True
        calls = Calls(tokens)
        async with anyio.create_task_group() as group:
            for number in range(MOST_WAITING + 20):
                group.start_soon(calls.one, made_up(provider, number))
            await until_asked(provider, 3)
            assert (calls.refused(*LATER), len(calls.found)) == (20, 20)
            assert isinstance(await tokens.check(provider.token(HERE)), PersonToken)
            clock.now += 2 * PAUSE_SECONDS  # it takes longer than the pause between two questions
            provider.answers.set()
        assert calls.refused(*UNKNOWN) == MOST_WAITING
        clock.now += PAUSE_SECONDS - 1  # since the end of the question
        await calls.one(made_up(provider))
        assert (calls.refused(*UNKNOWN), len(provider.asked)) == (MOST_WAITING + 1, 3)
        said = [record.getMessage().split(",")[0] for record in caplog.records]
        assert said == ["too many unknown tokens", "the sign-in provider's keys could not be fetched"]
        clock.now += QUIET_SECONDS
        provider.down, provider.keys = False, [*provider.keys, jwk(rsa_key(1), kid="second")]
        fresh = provider.token(HERE, key=rsa_key(1), head={"kid": "second"})
        assert isinstance(await tokens.check(fresh), PersonToken)


async def test_keys_that_grow_old_are_fetched_while_they_are_in_use(
    provider: Provider, tokens: Tokens, clock: Clock
) -> None:
    with anyio.fail_after(DEADLINE):
        assert isinstance(await tokens.check(provider.token(HERE)), PersonToken)
        clock.now += EARLY_SECONDS + 1
        provider.answers.clear()
        assert isinstance(await tokens.check(provider.token(HERE)), PersonToken)
        provider.keys = [jwk(rsa_key(1), kid="second")]
        await until_asked(provider, 3)
        provider.answers.set()
        await until_asked(provider, 4)
        calls = Calls(tokens)
        while not calls.refused(*UNKNOWN):  # the old one was withdrawn
            await calls.one(provider.token(HERE))
            await anyio.lowlevel.checkpoint()
        clock.now += FRESH_SECONDS - 1
        assert len(provider.asked) == 4


async def test_while_the_provider_is_silent_for_long_nobody_with_a_known_key_waits(
    provider: Provider, tokens: Tokens, clock: Clock
) -> None:
    with anyio.fail_after(DEADLINE):
        assert isinstance(await tokens.check(provider.token(HERE)), PersonToken)
        provider.down = True
        clock.now += FRESH_SECONDS + 1
        assert isinstance(await tokens.check(provider.token(HERE)), PersonToken)
        assert len(provider.asked) == 3
        provider.answers.clear()
        for number in range(3):
            clock.now += PAUSE_SECONDS
            assert isinstance(await tokens.check(provider.token(HERE)), PersonToken)
            await until_asked(provider, 4)
            assert len(provider.asked) == 4, number
        provider.answers.set()
