"""Tokens of a team's provider, its discovery and keys over real HTTP on loopback: which count, and what becomes of the rest."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from typing import Any, cast

import anyio
import anyio.lowlevel
import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from starlette.responses import Response as HttpResponse
from starlette.types import Receive, Scope, Send

from flux2_mcp.domain.people import Caller, Person
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import AuthenticationError
from flux2_mcp.runapi.exchange import Transport
from flux2_mcp.runapi.responses import Response
from flux2_mcp.runapi.transport import HttpTransport
from flux2_mcp.server.app import build
from flux2_mcp.server.session import ServerSession
from flux2_mcp.server.team import origin
from flux2_mcp.server.team.personal import Bearers, PersonalTokens
from flux2_mcp.server.team.provider import FRESH_SECONDS, MAX_BYTES, PAUSE_SECONDS, SigningKeys
from flux2_mcp.server.team.sign_in import SignedInOnly, caller
from flux2_mcp.server.team.tokens import LEEWAY_SECONDS, MAX_TOKEN_CHARS, PersonToken, Refusal, Tokens
from flux2_mcp.settings import Settings, SignIn
from flux2_mcp.system.http_server import listen, served
from tests.support.provider import ADMINS, MEMBERS, Provider, jwk, rsa_key
from tests.support.sandboxed import TLS
from tests.support.stdio import DEADLINE, ERAS, dressed
from tests.support.web import ACCEPT

HERE = "https://flux2.example.com/mcp"
pytestmark = pytest.mark.anyio


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
async def keys(provider: Provider, clock: Clock) -> AsyncIterator[SigningKeys]:
    transport = HttpTransport(provider.issuer)
    async with anyio.create_task_group() as background:
        yield SigningKeys(provider.issuer, transport, lambda: background, monotonic=clock)
    await transport.aclose()


@pytest.fixture
def tokens(provider: Provider, keys: SigningKeys) -> Tokens:
    return Tokens(keys, SignIn(issuer=provider.issuer, admin_group=ADMINS), audience=HERE)


def refusal(status: HTTPStatus, error: str | None, text: str) -> Refusal:
    return Refusal(status, error, text)


def no_token(text: str) -> Refusal:
    return refusal(HTTPStatus.UNAUTHORIZED, "invalid_token", text)


async def test_a_token_names_its_person(provider: Provider, tokens: Tokens) -> None:
    found = await tokens.check(provider.token(HERE, groups=[MEMBERS, ADMINS]))
    assert isinstance(found, PersonToken)
    assert found.person == Person(
        issuer=provider.issuer,
        subject="ada",
        name="Ada Lovelace",
        groups=frozenset({MEMBERS, ADMINS}),
        admin=True,
    )
    assert (found.subject, found.client_id, found.claims) == ("ada", "agent", {"iss": provider.issuer})


UNKNOWN_KEY = "The token is signed with a key that the provider does not have."
WRONG = "The signature of the token is wrong."


@pytest.mark.parametrize(
    ("claims", "text"),
    [
        ({"aud": "https://other.example.com/mcp"}, "The token was issued for another server."),
        ({"aud": [HERE + "/", "x"]}, "The token was issued for another server."),
        ({"iss": "https://elsewhere.example.com"}, "The token is another issuer's."),
        ({"exp": int(time.time()) - 2 * LEEWAY_SECONDS}, "The token has expired."),
        ({"nbf": int(time.time()) + 3600}, "The token is not valid yet."),
        ({"iat": int(time.time()) + 3600}, "The token is not valid yet."),
        ({"exp": None}, "The token lacks one of iss, aud, exp and sub."),
        ({"aud": None}, "The token lacks one of iss, aud, exp and sub."),
        ({"iss": None}, "The token lacks one of iss, aud, exp and sub."),
        ({"sub": None}, "The token lacks one of iss, aud, exp and sub."),
        ({"sub": ""}, "The token names nobody."),
        ({"sub": "a" * 256}, "The token names nobody."),
        ({"exp": "soon"}, "The token can't be checked."),
        ({"cnf": {"jkt": "x"}}, "The token is bound to a key of its holder, so it is no bearer token."),
    ],
)
async def test_what_a_token_says_must_hold(
    provider: Provider, tokens: Tokens, claims: dict[str, Any], text: str
) -> None:
    assert await tokens.check(provider.token(HERE, **claims)) == no_token(text)


async def test_a_clock_that_is_a_little_off_shuts_nobody_out(provider: Provider, tokens: Tokens) -> None:
    now = int(time.time())
    for claims in ({"exp": now - LEEWAY_SECONDS // 3}, {"nbf": now + LEEWAY_SECONDS // 3}, {"aud": ["x", HERE]}):
        assert isinstance(await tokens.check(provider.token(HERE, **claims)), PersonToken)


async def test_an_unsigned_token_and_one_whose_secret_is_the_public_key_are_refused(
    provider: Provider, tokens: Tokens
) -> None:
    public = rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for algorithm, digest in (("none", None), ("None", None), ("HS256", hashlib.sha256), ("HS512", hashlib.sha512)):
        signed = b".".join(
            base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
            for part in ({"alg": algorithm, "kid": "first"}, provider.claims(HERE))
        )
        proof = b"" if digest is None else hmac.new(public, signed, digest).digest()
        token = signed + b"." + base64.urlsafe_b64encode(proof).rstrip(b"=")
        assert await tokens.check(token.decode()) == no_token(
            "The token is not signed with an algorithm that counts here."
        )
    assert provider.asked == []


async def test_a_secret_among_the_keys_is_never_used(provider: Provider, tokens: Tokens) -> None:
    secret = "a secret that a provider has published by mistake"
    provider.keys = [{"kty": "oct", "kid": "first", "k": base64.urlsafe_b64encode(secret.encode()).decode()}]
    token = provider.token(HERE, key=secret, algorithm="HS256")
    assert isinstance(await tokens.check(token), Refusal)


@pytest.mark.parametrize(
    "head",
    [{"typ": "logout+jwt"}, {"typ": "dpop+jwt"}, {"typ": ["JWT"]}],
)
async def test_a_token_of_another_kind_is_refused(provider: Provider, tokens: Tokens, head: dict[str, Any]) -> None:
    assert await tokens.check(provider.token(HERE, head=head)) == no_token("The token is no access token.")
    assert isinstance(await tokens.check(provider.token(HERE, head={"typ": "at+jwt"})), PersonToken)
    demanding = provider.token(HERE, head={"crit": ["urn:new"], "urn:new": True})
    assert await tokens.check(demanding) == no_token("The token is no signed JWT.")


async def test_a_key_counts_for_the_algorithms_of_its_own_type_alone(provider: Provider, tokens: Tokens) -> None:
    curve, other, edwards = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
    )
    provider.keys = [
        jwk(rsa_key(), kid="first"),
        jwk(rsa_key(1), kid="only RS256", alg="RS256"),
        jwk(rsa_key(2, 1024), kid="short"),
        jwk(curve, kid="curve"),
        jwk(other, kid="other"),
        jwk(edwards, kid="edwards"),
        jwk(rsa_key(), kid="encryption", use="enc"),
    ]
    wanted = {
        ("first", "RS256"): True,
        ("first", "PS512"): True,
        ("only RS256", "RS256"): True,
        ("only RS256", "PS256"): False,
        ("curve", "ES256"): True,
        ("other", "ES384"): True,
        ("edwards", "EdDSA"): True,
        ("encryption", "RS256"): False,
        ("short", "RS256"): False,
    }
    keys = {
        "first": rsa_key(), "only RS256": rsa_key(1), "short": rsa_key(2, 1024), "curve": curve, "other": other,
        "edwards": edwards, "encryption": rsa_key(),
    }  # fmt: skip
    with pytest.warns(Warning, match="below the minimum"):
        found = {
            (kid, algorithm): isinstance(
                await tokens.check(provider.token(HERE, key=keys[kid], algorithm=algorithm, head={"kid": kid})),
                PersonToken,
            )
            for kid, algorithm in wanted
        }
    assert found == wanted
    mixed = provider.token(HERE, key=curve, algorithm="ES256", head={"kid": "first"})
    assert await tokens.check(mixed) == no_token(UNKNOWN_KEY)


async def test_two_keys_count_side_by_side_and_a_token_without_an_id_needs_a_single_one(
    provider: Provider, tokens: Tokens, clock: Clock
) -> None:
    anonymous = provider.token(HERE, head={"kid": None})
    assert isinstance(await tokens.check(anonymous), PersonToken)
    provider.keys.append(jwk(rsa_key(1), kid="second"))
    clock.now += FRESH_SECONDS + 1
    assert await tokens.check(anonymous) == no_token(UNKNOWN_KEY)
    for key, kid in ((rsa_key(), "first"), (rsa_key(1), "second")):
        assert isinstance(await tokens.check(provider.token(HERE, key=key, head={"kid": kid})), PersonToken)
    crossed = provider.token(HERE, key=rsa_key(), head={"kid": "second"})
    assert await tokens.check(crossed) == no_token(WRONG)


async def test_a_rotated_key_is_looked_for_at_once_and_unknown_ids_ask_the_provider_once_in_some_seconds(
    provider: Provider, tokens: Tokens, clock: Clock
) -> None:
    assert isinstance(await tokens.check(provider.token(HERE)), PersonToken)
    assert len(provider.asked) == 2
    clock.now += PAUSE_SECONDS + 1
    provider.keys = [jwk(rsa_key(1), kid="second")]
    fresh = provider.token(HERE, key=rsa_key(1), head={"kid": "second"})
    assert isinstance(await tokens.check(fresh), PersonToken)
    assert len(provider.asked) == 4
    assert await tokens.check(provider.token(HERE)) == no_token(UNKNOWN_KEY)  # it was withdrawn
    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(tokens.check, provider.token(HERE, head={"kid": f"made up {number}"}))
    assert len(provider.asked) == 4
    clock.now += PAUSE_SECONDS + 1
    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(tokens.check, provider.token(HERE, head={"kid": f"made up {number}"}))
    assert len(provider.asked) == 6


async def test_a_withdrawn_key_is_refused_when_the_kept_ones_are_no_longer_fresh(
    provider: Provider, tokens: Tokens, clock: Clock
) -> None:
    old = provider.token(HERE)
    assert isinstance(await tokens.check(old), PersonToken)
    provider.keys = [jwk(rsa_key(1), kid="second")]
    clock.now += FRESH_SECONDS + 1
    assert await tokens.check(old) == no_token(UNKNOWN_KEY)


async def test_a_lost_provider_leaves_the_known_keys_in_use(provider: Provider, tokens: Tokens, clock: Clock) -> None:
    assert isinstance(await tokens.check(provider.token(HERE)), PersonToken)
    provider.down = True
    unknown = provider.token(HERE, key=rsa_key(1), head={"kid": "second"})
    for number in range(3):
        clock.now += FRESH_SECONDS + 1
        assert isinstance(await tokens.check(provider.token(HERE)), PersonToken)
        assert await tokens.check(unknown) == no_token(UNKNOWN_KEY)  # it has waited for the same question
        assert len(provider.asked) == 3 + number


@pytest.mark.parametrize(
    "spoil",
    [
        {"about": {"issuer": "https://elsewhere.example.com"}},
        {"about": {"jwks_uri": "http://keys.example.com/keys"}},
        {"about": {"jwks_uri": None}},
        {"about": {"jwks_uri": "file:///etc/passwd"}},
        {"bodies": {"/realms/team/keys": b"[" * 100_000}},
        {"bodies": {"/realms/team/keys": b'{"keys": [' + b" " * MAX_BYTES + b"]}"}},
        {"bodies": {"/realms/team/keys": b'{"keys": {}}'}},
        {"bodies": {"/realms/team/.well-known/openid-configuration": b"[]"}},
        {"keys": []},
        {"down": True},
    ],
    ids=str,
)
async def test_while_no_keys_are_known_the_answer_is_to_come_again_and_the_provider_is_not_asked_each_time(
    provider: Provider, tokens: Tokens, clock: Clock, spoil: dict[str, Any]
) -> None:
    before = {name: getattr(provider, name) for name in spoil}
    for name, value in spoil.items():
        setattr(provider, name, value)
    late = Refusal(
        HTTPStatus.SERVICE_UNAVAILABLE,
        None,
        "The sign-in provider's keys are not known: it gave no usable answer.",
        int(PAUSE_SECONDS),
    )
    assert await tokens.check(provider.token(HERE)) == late
    asked = len(provider.asked)
    assert await tokens.check(provider.token(HERE)) == late
    assert len(provider.asked) == asked
    for name, value in before.items():
        setattr(provider, name, value)
    clock.now += PAUSE_SECONDS + 1
    assert isinstance(await tokens.check(provider.token(HERE)), PersonToken)


@pytest.mark.parametrize("place", ["http://127.0.0.1:9/keys", "https://sso.example.com/keys"])
async def test_a_provider_that_is_reached_over_https_names_no_keys_over_http(place: str) -> None:
    issuer = "https://sso.example.com"
    found = {
        f"{issuer}/.well-known/openid-configuration": {"issuer": issuer, "jwks_uri": place},
        place: {"keys": [jwk(rsa_key(), kid="first")]},
    }

    class Wire:
        async def send(self, method: str, url: str, **_: object) -> Response:
            assert method == "GET"
            return Response(200, {}, json.dumps(found[url]).encode())

    async with anyio.create_task_group() as background:
        keys = SigningKeys(issuer, cast("Transport", Wire()), lambda: background)
        assert await keys.known() is place.startswith("https:")


@pytest.mark.parametrize("claim", [{"scope": "openid flux2"}, {"scope": None, "scp": ["openid", "flux2"]}])
async def test_a_token_without_a_wanted_scope_is_not_enough(
    provider: Provider, keys: SigningKeys, claim: dict[str, Any]
) -> None:
    wanted = SignIn(issuer=provider.issuer, scopes=("flux2",))
    assert isinstance(await Tokens(keys, wanted, audience=HERE).check(provider.token(HERE, **claim)), PersonToken)
    more = SignIn(issuer=provider.issuer, scopes=("flux2", "flux2:spend"))
    assert await Tokens(keys, more, audience=HERE).check(provider.token(HERE, **claim)) == refusal(
        HTTPStatus.FORBIDDEN, "insufficient_scope", "The token lacks a scope: flux2:spend."
    )


def roles(provider: Provider, groups: object) -> str:
    claims: dict[str, Any] = {"urn:roles": groups}
    return provider.token(HERE, **claims)


async def test_a_revoked_group_takes_away_what_it_gave(provider: Provider, keys: SigningKeys) -> None:
    members = SignIn(issuer=provider.issuer, group=MEMBERS, admin_group=ADMINS, groups_claim="urn:roles")
    tokens = Tokens(keys, members, audience=HERE)
    both = await tokens.check(roles(provider, [MEMBERS, ADMINS]))
    one = await tokens.check(roles(provider, MEMBERS))
    assert isinstance(both, PersonToken)
    assert isinstance(one, PersonToken)
    assert (both.person.admin, one.person.admin) == (True, False)
    outside = refusal(
        HTTPStatus.FORBIDDEN, "insufficient_scope", "The token does not name a group that may use this server."
    )
    for groups in ([ADMINS], [], None, 7, {MEMBERS: True}, [[MEMBERS]]):
        assert await tokens.check(roles(provider, groups)) == outside


async def test_a_huge_token_is_not_read(provider: Provider, tokens: Tokens) -> None:
    token = provider.token(HERE, filler="x" * MAX_TOKEN_CHARS)
    assert await tokens.check(token) == no_token(f"The token is longer than {MAX_TOKEN_CHARS} characters.")
    assert provider.asked == []


@given(
    st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda raw: base64.b64encode(raw).decode() + ".e30.x"))
)
def test_nothing_that_is_written_by_hand_is_a_token(text: str) -> None:
    async def checked() -> object:
        transport = HttpTransport("http://127.0.0.1:9")
        # For none of them a key is asked for: a group that was not entered begins nothing.
        keys = SigningKeys("http://127.0.0.1:9", transport, anyio.create_task_group)
        return await Tokens(keys, SignIn(issuer="http://127.0.0.1:9"), audience=HERE).check(text)

    found = anyio.run(checked)
    assert isinstance(found, Refusal)
    assert found.error == "invalid_token"


@pytest.mark.parametrize("era", ERAS)
async def test_the_person_whose_call_is_served_is_known_where_it_is_served(
    provider: Provider, tokens: Tokens, sandbox_settings: Settings, era: str
) -> None:
    found: list[tuple[str, str | None]] = []

    async def note(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        await anyio.lowlevel.checkpoint()  # the others' calls come between
        found.append((str(ctx.method), None if (person := caller()) is None else person.subject))
        return await call_next(ctx)

    met: list[Person] = []

    server = build(sandbox_settings, remote=HERE)
    nobody = PersonalTokens(lambda: server.session.whole.callers, monotonic=time.monotonic)
    server.middleware.append(note)
    application = server.streamable_http_app(stateless_http=True)
    application.add_middleware(
        SignedInOnly,
        tokens=Bearers(nobody, tokens),
        metadata_url=f"{HERE}/x",
        scopes=(),
        open_paths=(),
        open_folder="/images/",
        meet=met.append,
        most_of_one=9,
    )
    names = [f"person {number}" for number in range(10)]
    with listen(0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        async with (
            application.router.lifespan_context(application),
            served(application, listener, grace_seconds=DEADLINE),
            httpx2.AsyncClient(headers=ACCEPT | {"MCP-Protocol-Version": era}, verify=TLS, timeout=DEADLINE) as http,
            anyio.create_task_group() as group,
        ):

            async def call(name: str) -> None:
                told = {"Authorization": f"Bearer {provider.token(HERE, sub=name)}", "Mcp-Method": "tools/list"}
                message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": dressed(era, {}, {})}
                assert (await http.post(url, json=message, headers=told)).status_code == 200

            for name in names:
                group.start_soon(call, name)
    assert sorted(person.subject for person in met) == sorted(names)
    assert sorted(found) == [("tools/list", name) for name in sorted(names)]
    assert caller() is None


async def test_one_person_takes_not_the_places_of_all(provider: Provider, tokens: Tokens) -> None:
    waiting, go_on = list[str](), anyio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        person = caller()
        assert person is not None
        waiting.append(person.subject)
        await go_on.wait()
        await HttpResponse("well")(scope, receive, send)

    guard = SignedInOnly(
        slow,
        tokens=cast("Bearers", tokens),
        metadata_url=f"{HERE}/x",
        scopes=(),
        open_paths=(),
        open_folder="/images/",
        meet=lambda _: None,
        most_of_one=2,
    )
    with listen(0) as listener, anyio.fail_after(DEADLINE):
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        async with (
            served(guard, listener, grace_seconds=DEADLINE),
            httpx2.AsyncClient(verify=TLS, timeout=DEADLINE) as http,
        ):

            async def call(name: str) -> httpx2.Response:
                return await http.post(url, headers={"Authorization": f"Bearer {provider.token(HERE, sub=name)}"})

            async with anyio.create_task_group() as group:
                for each in ("ada", "ada", "ben"):
                    group.start_soon(call, each)
                while len(waiting) < 3:
                    await anyio.lowlevel.checkpoint()
                refused = await call("ada")
                go_on.set()
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert "www-authenticate" not in refused.headers
            assert [(await call("ada")).status_code for _ in range(3)] == [200] * 3
    assert sorted(waiting) == ["ada"] * 5 + ["ben"]


async def test_a_call_of_nobody_has_no_service_where_people_are_known_and_the_whole_one_elsewhere(
    sandbox_settings: Settings,
) -> None:
    async with Service.opened(sandbox_settings, keep=False) as service:
        assert ServerSession(service).service is service
        team = ServerSession(service, caller=origin.caller)
        assert team.whole is service
        with pytest.raises(AuthenticationError, match="Nobody has signed in"):
            _ = team.service
        ada = Caller(person=Person(issuer="https://sso.example.com", subject="ada"))
        views = [ServerSession(service, caller=lambda: ada).service for _ in range(2)]
        assert all(view is not service and view.prices is service.prices for view in views)
        service.stop_waiting()  # what waits for a person is answered, too: see the drain in test_team_server
