"""Attacks on a team's server as a process: tokens, headers, connections and questions that somebody has prepared."""

from __future__ import annotations

import base64
import json
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from flux2_mcp.sandbox.server import Sandbox
from tests.support import forked, postgres
from tests.support.pg_proxy import PgProxy
from tests.support.provider import ADMINS, MEMBERS, Provider, jwk, rsa_key
from tests.support.rows import each_row
from tests.support.stdio import COMMAND, DEADLINE, LEGACY, MODERN, dressed
from tests.support.team import Team, team_environment, until
from tests.support.web import messages

PUBLIC = "https://flux2.example.com"
SECRETS = r"eyJ|violet|owl|\bfox\b|Lovelace|\bada\b|\bben\b|\bzoe\b|odd-|-power"
"""What no line of a log may hold: tokens, prompts, subjects and names of these tests."""
HEAD = {"alg": "RS256", "kid": "first"}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": dressed(MODERN, {}, {})}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def runapi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("runapi") / "elsewhere", speed=1000, rate=None) as runapi:
        yield runapi


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory, runapi: Sandbox) -> dict[str, str]:
    return team_environment(
        tmp_path_factory.mktemp("attacked"),
        RUNAPI_API_KEY=runapi.api_key,
        RUNAPI_BASE_URL=runapi.base_url,
        FLUX2_OIDC_ADMIN_GROUP=ADMINS,
        FLUX2_TRUSTED_PROXIES="10.0.0.0/8",
        FLUX2_LOG="info",
        FLUX2_CONFIRM_USD="0.10",
        FLUX2_PERSON_DAILY_BUDGET_USD="0.20",
    )


@pytest.fixture(scope="module")
def team(env: dict[str, str], provider: Provider) -> Iterator[Team]:
    """Nobody on this machine is a trusted proxy. What it has logged in the end holds nothing of anybody."""
    with Team(env, provider, "--public-url", PUBLIC, public=PUBLIC) as team:
        team.http.headers["Host"] = "flux2.example.com"
        yield team
        said = team.stop()
    assert "Traceback" not in said
    assert not re.findall(SECRETS, said)


def signed(head: object, claims: object) -> str:
    """A token with the provider's signature, of any JSON, or of any text in its place."""
    parts = (part if isinstance(part, str) else json.dumps(part) for part in (head, claims))
    said = b".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=") for part in parts)
    proof = rsa_key().sign(said, padding.PKCS1v15(), hashes.SHA256())
    return (said + b"." + base64.urlsafe_b64encode(proof).rstrip(b"=")).decode()


def written(claims: Mapping[str, Any], **raw: str) -> str:
    """Claims as JSON, some of them as they stand here."""
    text = json.dumps({**claims, **{name: f"@{name}@" for name in raw}})
    for name, value in raw.items():
        text = text.replace(f'"@{name}@"', value)
    return text


def refused(team: Team, token: str) -> tuple[int, str]:
    """The status of a call with a token, and what the answer says of it."""
    answer = team.call(MODERN, "tools/list", {}, token=token)
    return answer.status_code, re.sub(r".*error_description=\"([^\"]*)\".*", r"\1", answer.headers["www-authenticate"])


NO_JWT = "The token is no signed JWT."
NO_ALGORITHM = "The token is not signed with an algorithm that counts here."
NO_KEY = "The token is signed with a key that the provider does not have."
NO_CHECK = "The token can't be checked."
ELSEWHERE = "The token was issued for another server."
NOBODY = "The token names nobody."


def test_a_token_that_the_provider_has_signed_counts_only_as_it_should(team: Team, provider: Provider) -> None:
    now = int(time.time())
    usual = provider.claims(team.audience)
    claims: dict[str, tuple[object, str]] = {
        "exp NaN": (written(usual, exp="NaN"), NO_CHECK),
        "exp infinite": (written(usual, exp="1e400"), NO_CHECK),
        "exp of 5,000 digits": (written(usual, exp="1" + "0" * 5000), NO_CHECK),
        "exp true": ({**usual, "exp": True}, "The token has expired."),
        "exp a list": ({**usual, "exp": [now + 100]}, NO_CHECK),
        "exp null": ({**usual, "exp": None}, "The token lacks one of iss, aud, exp and sub."),
        "nbf no number": ({**usual, "nbf": "later"}, NO_CHECK),
        "iat infinite": (written(usual, iat="Infinity"), NO_CHECK),
        "aud an object": ({**usual, "aud": {team.audience: 1}}, ELSEWHERE),
        "aud nested": ({**usual, "aud": [[team.audience]]}, ELSEWHERE),
        "aud with a slash": ({**usual, "aud": f"{team.audience}/"}, ELSEWHERE),
        "iss a list": ({**usual, "iss": [provider.issuer]}, "The token is another issuer's."),
        "iss with a slash": ({**usual, "iss": f"{provider.issuer}/"}, "The token is another issuer's."),
        "sub a number": ({**usual, "sub": 7}, NO_CHECK),
        "sub a list": ({**usual, "sub": ["ada"]}, NO_CHECK),
        "sub with a NUL": ({**usual, "sub": "ada\0"}, NOBODY),
        "sub that steers a terminal": ({**usual, "sub": "ada\x1b[2J"}, NOBODY),
        "sub that turns text round": ({**usual, "sub": "\u202eada"}, NOBODY),
        "sub with half a character": (written(usual, sub='"ada\\ud800"'), NOBODY),
        "claims no object": ("[]", NO_CHECK),
        "claims nested deep": ("[" * 9000, NO_CHECK),
    }
    heads: dict[str, tuple[object, str]] = {
        "kid an object": ({**HEAD, "kid": {}}, NO_JWT),
        "kid a path": ({**HEAD, "kid": "../../../dev/null"}, NO_KEY),
        "kid very long": ({**HEAD, "kid": "k" * 9000}, NO_KEY),
        "alg a list": ({**HEAD, "alg": ["RS256"]}, NO_ALGORITHM),
        "a JWE's alg": ({**HEAD, "alg": "RSA-OAEP", "enc": "A256GCM"}, NO_ALGORITHM),
        "crit empty": ({**HEAD, "crit": []}, NO_JWT),
        "a payload apart": ({**HEAD, "crit": ["b64"], "b64": False}, NO_JWT),
        "head nested deep": ('{"alg":' + "[" * 9000, NO_JWT),
    }
    tokens = {name: (signed(HEAD, said), why) for name, (said, why) in claims.items()}
    tokens |= {name: (signed(said, usual), why) for name, (said, why) in heads.items()}
    tokens["five parts"] = ("a.b.c.d.e", NO_JWT)
    assert team.call(MODERN, "tools/list", {}, token=signed(HEAD, usual)).status_code == 200
    with each_row() as row:
        for name, (token, why) in tokens.items():
            with row(name):
                assert refused(team, token) == (401, why)


def test_a_key_that_a_token_brings_along_is_not_used_and_no_address_in_it_is_asked(
    team: Team, provider: Provider
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/keys"
        for more in ({"jwk": jwk(rsa_key(1), kid="first")}, {"jku": url, "x5u": url}, {"jku": url, "kid": "theirs"}):
            token = provider.token(team.audience, key=rsa_key(1), head=more)
            assert refused(team, token)[0] == 401
        trap.settimeout(0)
        with pytest.raises(BlockingIOError):
            trap.accept()


def test_a_storm_of_unknown_keys_is_one_question_to_the_provider(team: Team, provider: Provider) -> None:
    begun, asked = time.monotonic(), len(provider.asked)
    for number in range(200):
        assert refused(team, provider.token(team.audience, head={"kid": f"made up {number}"}))[0] == 401
    questions = (len(provider.asked) - asked) / 2  # the discovery document, and the keys
    assert questions <= 1 + (time.monotonic() - begun) / 10


def test_a_token_stands_in_one_header_and_nowhere_else(team: Team) -> None:
    token = team.token()
    told = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}
    bearer = f"Bearer {token}"
    form = "application/x-www-form-urlencoded"
    answers = [
        team.http.post(f"/mcp?access_token={token}", json=LIST, headers=told),
        team.http.post("/mcp", content=f"access_token={token}", headers=told | {"Content-Type": form}),
        team.http.post("/mcp", json=LIST, headers=told | {"Cookie": f"access_token={token}"}),
        team.http.post("/mcp", json=LIST, headers=told | {"Authorization": f"{bearer}, {bearer}"}),
        team.http.post(
            "/mcp", json=LIST, headers=[*told.items(), ("Authorization", bearer), ("authorization", "Basic x")]
        ),
    ]
    assert [answer.status_code for answer in answers] == [401] * len(answers)


def test_whatever_a_person_is_called_they_are_served_and_steer_nobodys_terminal(
    team: Team, provider: Provider, env: dict[str, str]
) -> None:
    usual = provider.claims(team.audience)
    names = [
        '"\\ud83d half a character"',
        '"\\u001b[2J\\u0007\\r\\nADMIN"',
        '"\\u202eturned"',
        '"\\u0000"',
        json.dumps("n" * 9000),
    ]
    for number, name in enumerate(names):
        token = signed(HEAD, written({**usual, "sub": f"odd-{number}"}, name=name))
        assert team.call(MODERN, "tools/list", {}, token=token).status_code == 200
    command = [sys.executable, "-m", "flux2_mcp", "team", "people"]
    said = forked.run(command, env, timeout=DEADLINE).stdout
    rows = [line for line in said.splitlines() if "odd-" in line]
    assert len(rows) == len(names)
    assert not re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", said)


def test_claims_that_are_no_groups_make_no_admin(team: Team, provider: Provider) -> None:
    def numbers(groups: object) -> int:
        token = provider.token(team.audience, sub="grace", groups=groups)
        told = {"Authorization": f"Bearer {token}", "X-Forwarded-For": "203.0.113.7"}
        return team.http.get("/metrics", headers=told).status_code

    assert numbers([MEMBERS, ADMINS]) == 200
    for groups in (
        7,
        {ADMINS: True},
        [[ADMINS]],
        [{"name": ADMINS}],
        f"{MEMBERS} {ADMINS}",
        f"{MEMBERS},{ADMINS}",
        [ADMINS.upper()],
    ):
        assert numbers(groups) == 403, groups


# --- where a call comes from ------------------------------------------------------------------------------------------


def test_behind_a_public_address_the_numbers_need_a_token_whatever_a_proxy_on_this_machine_leaves_out(
    team: Team, env: dict[str, str]
) -> None:
    reader = (Path(env["FLUX2_HOME"]) / "metrics-token").read_text("ascii").strip()
    for host in ("flux2.example.com", f"127.0.0.1:{team.port}", f"localhost:{team.port}", "evil.example", ""):
        assert team.http.get("/metrics", headers={"Host": host}).status_code == 401, host
        told = {"Host": host, "Authorization": f"Bearer {reader}"}
        assert team.http.get("/metrics", headers=told).status_code == 200, host


def test_no_other_spelling_of_a_path_leads_anywhere(team: Team) -> None:
    """A redirect would name an address, by `http:` and as the caller's Host has it; a client might bring its token there."""
    told = {"Authorization": f"Bearer {team.token()}", "MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}
    paths = (
        "/mcp/",
        "//mcp",
        "/MCP",
        "/mcp%2f",
        "/mcp;x",
        "/mcp%00",
        "/metrics/",
        "/healthz/",
        "//evil.example/",
    )
    for path in paths:
        assert team.http.post(path, json=LIST).status_code == 401, path
        for host in ("flux2.example.com", "evil.example"):
            answer = team.http.post(path, json=LIST, headers=told | {"Host": host})
            assert (answer.status_code, answer.headers.get("location")) == (404, None), path
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"):
        assert team.http.request(method, "/mcp", headers=told).status_code == 405, method


# --- what holds up others ---------------------------------------------------------------------------------------------


def test_a_message_of_very_many_values_is_refused_by_name_and_long_texts_are_not(team: Team) -> None:
    for era in (LEGACY, MODERN):
        for many in ([0] * 1_300_000, [{"a": ["b"]}] * 10_000):
            answer = team.call(era, "tools/call", {"name": "generate", "arguments": {"prompt": many}})
            assert (answer.status_code, answer.json()) == (
                413,
                {
                    "jsonrpc": "2.0",
                    "id": 1,
                    "error": {"code": -32700, "message": "Parse error: this has too many values."},
                },
            )
        pixels = f"data:image/png;base64,{'A' * 300_000}"
        arguments = {"prompt": "a fox, [{" * 12_000, "source_images": [pixels] * 10}
        answer = team.call(era, "tools/call", {"name": "generate", "arguments": arguments})
        assert answer.status_code == 200
        (told,) = messages(answer)
        assert "prompt" in told["result"]["content"][0]["text"]


# --- what a person pays -----------------------------------------------------------------------------------------------


def generated(team: Team, token: str, arguments: Mapping[str, Any], **more: object) -> dict[str, Any]:
    """The answer to a call of `generate` of a client that can ask its user."""
    params = {"name": "generate", "arguments": {"preview": False, **arguments}, **more}
    capabilities = {"elicitation": {"form": dict[str, Any]()}}
    *_, answer = messages(team.call(MODERN, "tools/call", params, token=token, capabilities=capabilities))
    return answer


def test_the_answer_to_a_question_counts_for_that_person_client_and_call_alone(team: Team, runapi: Sandbox) -> None:
    wish = {"prompt": "a violet fox", "count": 3}
    zoe = team.token(sub="zoe")
    question = generated(team, zoe, wish)["result"]
    ((name, _),) = question["inputRequests"].items()
    state = question["requestState"]
    yes = {"inputResponses": {name: {"action": "accept", "content": {"spend": True}}}, "requestState": state}
    made = runapi.creates()
    turned = state[:-9] + ("A" if state[-9] != "A" else "B") + state[-8:]
    attacks = {
        "another person": (team.token(sub="eve"), wish, yes),
        "an admin": (team.token(sub="root", groups=[ADMINS]), wish, yes),
        "the same person through another client": (team.token(sub="zoe", client_id="other"), wish, yes),
        "more pictures": (zoe, wish | {"count": 4}, yes),
        "another prompt": (zoe, wish | {"prompt": "a grey owl"}, yes),
        "a dearer variant": (zoe, wish | {"variant": "max"}, yes),
        "a changed seal": (zoe, wish, yes | {"requestState": turned}),
        "no text": (zoe, wish, yes | {"requestState": {}}),
    }
    with each_row() as row:
        for who, (token, arguments, more) in attacks.items():
            with row(who):
                assert (
                    generated(team, token, arguments, **more)["error"]["message"] == "Invalid or expired requestState"
                )
    for more in ({"requestState": state}, {"inputResponses": yes["inputResponses"]}):  # half of what came back
        assert generated(team, zoe, wish, **more)["result"]["resultType"] == "input_required"
    assert runapi.creates() == made
    assert len(generated(team, zoe, wish, **yes)["result"]["structuredContent"]["tasks"]) == 3


def test_a_person_stays_below_their_cap_whatever_they_call_and_pays_nothing_of_others(
    team: Team, env: dict[str, str]
) -> None:
    wishes: list[dict[str, object]] = [
        {"count": 3},
        {"upscale": 2},
        {"upscale": 2, "background": "transparent", "count": 2},
        {"idempotency_key": "mine", "count": 2},
        {"prompt": "a fox [sandbox:moderation]"},
        {"prompt": "a fox [sandbox:upscale_image:moderation]", "upscale": 2},
        {"prompt": "a fox [sandbox:create_lost]"},
        {"prompt": "a fox [sandbox:insufficient_credits]", "count": 4},
    ]

    def call(number: int) -> str:
        person = ("max-power", "mia-power")[number % 2]
        arguments = {"prompt": f"fox {number % 5}", "max_cost_usd": 1, **wishes[number // 2 % len(wishes)]}
        answer = generated(team, team.token(sub=person), arguments)["result"]
        return "" if "structuredContent" in answer else str(answer["content"][0]["text"])

    with ThreadPoolExecutor(8) as pool:
        said = [*pool.map(call, range(48))]
    assert any("FLUX2_PERSON_DAILY_BUDGET_USD is $0.20" in text for text in said)
    command = [sys.executable, "-m", "flux2_mcp", "team", "people", "--json"]
    listed = forked.run(command, env, timeout=DEADLINE).stdout
    spent = {each["subject"]: each["day_usd"] for each in json.loads(listed)["people"]}
    for person in ("max-power", "mia-power"):
        assert 0 < spent[person] <= 0.20
    assert spent.get("eve", 0) == spent.get("root", 0) == 0


# --- a database and a provider that are away --------------------------------------------------------------------------


def test_without_its_database_and_its_provider_it_answers_says_what_is_wrong_and_goes_on_by_itself(
    tmp_path: Path, runapi: Sandbox
) -> None:
    with PgProxy(postgres.shared().with_schema()) as database, Provider() as provider:
        env = team_environment(
            tmp_path,
            RUNAPI_API_KEY=runapi.api_key,
            RUNAPI_BASE_URL=runapi.base_url,
            FLUX2_JOURNAL_URL=database.url,
            FLUX2_LOG="info",
        )
        with Team(env, provider) as team:
            assert team.tool(MODERN, "generate", prompt="a violet fox")["structuredContent"]["status"] == "completed"
            made = runapi.creates()
            database.lost = provider.down = True
            database.cut()
            until(lambda: team.http.get("/readyz").status_code == 503)
            assert team.http.get("/readyz").json()["checks"] == {
                "journal": "can't be read", "images": "ok", "runapi": "ok", "sign_in": "ok",
            }  # fmt: skip
            assert team.http.get("/healthz").status_code == 200
            assert "flux2_journal_up 0" in team.http.get("/metrics").text
            for person in ("ada", "ben"):  # one that is known, and one whom nobody can note
                token = team.token(sub=person)
                assert team.call(MODERN, "tools/list", {}, token=token).status_code == 200
                params = {"name": "generate", "arguments": {"prompt": "a grey owl"}}
                *_, answer = messages(team.call(MODERN, "tools/call", params, token=token))
                said = answer["result"]["content"][0]["text"]
                assert answer["result"]["isError"]
                assert "The journal's database" in said
                assert "Nothing was sent and nothing was charged." in said
            assert runapi.creates() == made
            database.lost = provider.down = False
            until(lambda: team.http.get("/readyz").status_code == 200)
            assert team.tool(MODERN, "generate", prompt="a grey owl")["structuredContent"]["status"] == "completed"
            listed = team.tool(MODERN, "check_task")["structuredContent"]["tasks"]
            assert [task["prompt"] for task in listed] == ["a grey owl", "a violet fox"]
            said = team.stop()
    assert "Traceback" not in said
    assert not re.findall(rf"{SECRETS}|{re.escape(runapi.api_key)}", said)


def test_with_personal_tokens_alone_it_does_not_start_without_its_database_and_starts_when_that_is_back(
    tmp_path: Path,
) -> None:
    with PgProxy(postgres.shared().with_schema()) as database:
        env = team_environment(tmp_path, FLUX2_JOURNAL_URL=database.url)

        def run(*argv: str) -> tuple[int, str]:
            done = forked.run([*COMMAND, *argv], env, timeout=DEADLINE, cwd=tmp_path)
            return done.returncode, done.stderr

        assert run("team", "token", "create", "build") == (0, "")
        database.lost = True
        code, said = run("serve", "--http", "--port", "0", "--public-url", PUBLIC)
        assert code == 1
        first, cost, *rest = said.splitlines()
        assert first.startswith(
            "Error: The server did not start: without FLUX2_OIDC_ISSUER, it must first read the personal tokens. The journal's"
            f" database (PostgreSQL at 127.0.0.1:{database.port}, database postgres) can't be used: "
        )
        assert cost == "Nothing was sent and nothing was charged."
        assert rest == [
            "Next: Check that the database of FLUX2_JOURNAL_URL runs and can be reached (flux2-mcp doctor), then run this again."
        ]
        database.lost = False
        with Team(env, None, "--public-url", PUBLIC, public=PUBLIC) as team:
            assert team.http.get("/healthz").status_code == 200
