"""`flux2-mcp serve --http` for a team, as a process: who gets in and by which name, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import stat
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.server.team.tokens import MAX_TOKEN_CHARS
from tests.process.conftest import Here
from tests.support.provider import ADMINS, MEMBERS, Provider, rsa_key
from tests.support.rows import rows
from tests.support.stdio import DEADLINE, ERAS, LEGACY, MODERN, hello
from tests.support.team import Team, team_environment, until
from tests.support.web import messages

PUBLIC = "https://flux2.example.com"
WELL_KNOWN = "/.well-known/oauth-protected-resource/mcp"
BALANCER = {"X-Forwarded-Host": "flux2.example.com", "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7"}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Team]:
    """Behind a load balancer on this machine, which is trusted."""
    env = team_environment(
        tmp_path_factory.mktemp("team"),
        FLUX2_OIDC_SCOPES="flux2",
        FLUX2_OIDC_GROUP=MEMBERS,
        FLUX2_OIDC_ADMIN_GROUP=ADMINS,
        FLUX2_TRUSTED_PROXIES="127.0.0.1, 10.0.0.0/8",
    )
    with Team(env, provider, "--public-url", PUBLIC, public=PUBLIC) as team:
        yield team


def test_it_listens_beyond_this_machine_where_it_is_told_to(tmp_path: Path, provider: Provider) -> None:
    options = ("--host", "0.0.0.0", "--public-url", PUBLIC)  # noqa: S104  # that is the point
    with Team(team_environment(tmp_path), provider, *options, public=PUBLIC) as team:
        table = Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]
        local = [row.split()[1].split(":") for row in table if row.split()[3] == "0A"]
        assert [address for address, port in local if int(port, 16) == team.port] == ["00000000"]
        assert team.call(MODERN, "tools/list", {}, headers={"Host": "flux2.example.com"}).status_code == 200


def test_it_says_where_it_is_and_who_gets_in(team: Team, provider: Provider) -> None:
    assert team.first == f"Serving MCP at {PUBLIC}/mcp, for people of {provider.issuer}. SIGTERM ends it.\n"
    found = team.http.get(WELL_KNOWN)
    assert found.json() == {
        "resource": f"{PUBLIC}/mcp",
        "authorization_servers": [provider.issuer],
        "scopes_supported": ["flux2"],
        "bearer_methods_supported": ["header"],
        "resource_name": "FLUX.2 images",
    }


@pytest.mark.parametrize("issuer", ["https://sso.example.com", "https://sso.example.com/"])
def test_clients_are_told_the_issuer_letter_by_letter(tmp_path: Path, issuer: str) -> None:
    with Team(team_environment(tmp_path), issuer) as team:
        assert team.http.get(WELL_KNOWN).json()["authorization_servers"] == [issuer]


CHALLENGE = f'resource_metadata="{PUBLIC}{WELL_KNOWN}", scope="flux2"'


def test_without_a_token_a_caller_is_told_where_to_sign_in(team: Team) -> None:
    for headers in ({}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}):
        for answer in (team.http.post("/mcp", json={}, headers=headers), team.http.get("/other", headers=headers)):
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, f"Bearer {CHALLENGE}")
    twice = team.http.post("/mcp", json={}, headers=[("Authorization", f"Bearer {team.token()}")] * 2)
    assert twice.status_code == 401


@rows(
    ("claims", "how", "status", "error", "text"),
    [
        ({"aud": "https://other.example.com/mcp"}, {}, 401, "invalid_token", "The token was issued for another server."),
        ({"iss": "https://elsewhere.example.com"}, {}, 401, "invalid_token", "The token is another issuer's."),
        ({"exp": 1}, {}, 401, "invalid_token", "The token has expired."),
        ({"nbf": 2**40}, {}, 401, "invalid_token", "The token is not valid yet."),
        ({}, {"key": 1}, 401, "invalid_token", "The signature of the token is wrong."),
        (
            {"filler": "x" * MAX_TOKEN_CHARS}, {}, 401, "invalid_token",
            f"The token is longer than {MAX_TOKEN_CHARS} characters.",
        ),
        (
            {}, {"head": {"kid": "made up"}}, 401, "invalid_token",
            "The token is signed with a key that the provider does not have.",
        ),
        ({"scope": "openid"}, {}, 403, "insufficient_scope", "The token lacks a scope: flux2."),
        (
            {"groups": ["others"]}, {}, 403, "insufficient_scope",
            "The token does not name a group that may use this server.",
        ),
    ],
)  # fmt: skip
def test_a_token_that_does_not_count_is_refused_with_the_reason(
    team: Team, provider: Provider, claims: dict[str, Any], how: dict[str, Any], status: int, error: str, text: str
) -> None:
    how = how | ({"key": rsa_key(how["key"])} if "key" in how else {})
    token = provider.token(team.audience, **how, **claims)
    answer = team.call(MODERN, "tools/list", {}, token=token, headers=BALANCER)
    assert (answer.status_code, answer.json()) == (status, {"error": error, "error_description": text})
    assert answer.headers["www-authenticate"] == f'Bearer error="{error}", error_description="{text}", {CHALLENGE}'


@pytest.mark.parametrize("era", ERAS)
def test_with_a_token_every_call_is_answered_without_a_session(team: Team, era: str) -> None:
    found = team.call(era, "tools/list", {}, headers=BALANCER)
    assert found.status_code == 200
    assert "mcp-session-id" not in found.headers
    *_, answer = messages(found)
    assert next(tool["name"] for tool in answer["result"]["tools"]) == "generate"
    if era == LEGACY:
        opened = team.call(era, "initialize", hello({}), headers=BALANCER)
        assert (opened.status_code, "mcp-session-id" in opened.headers) == (200, False)


@rows("era", ERAS)
@rows(
    ("headers", "status"),
    [
        ({"Host": "flux2.example.com"}, 200),
        ({"Host": "FLUX2.example.com.:443"}, 200),
        ({"Host": "flux2.example.com:8443"}, 421),
        ({"Host": "evil.example"}, 421),
        ({"X-Forwarded-Host": "flux2.example.com"}, 200),
        ({"X-Forwarded-Host": "evil.example"}, 421),
        ({"X-Forwarded-Host": "evil.example, flux2.example.com"}, 200),
        ({"Host": "flux2.example.com", "Origin": PUBLIC}, 200),
        ({"Host": "flux2.example.com", "Origin": "https://evil.example"}, 403),
        ({"Host": "flux2.example.com", "Origin": "http://flux2.example.com"}, 403),
    ],
)
def test_it_answers_to_its_public_name_alone(team: Team, era: str, headers: dict[str, str], status: int) -> None:
    assert team.call(era, "tools/list", {}, headers=headers).status_code == status


def test_what_a_stranger_says_of_where_a_call_comes_from_is_not_believed(tmp_path: Path, provider: Provider) -> None:
    env = team_environment(tmp_path, FLUX2_TRUSTED_PROXIES="10.0.0.0/8", FLUX2_LOG="info")
    with Team(env, provider, "--public-url", PUBLIC, public=PUBLIC) as team:
        assert team.call(MODERN, "tools/list", {}, headers={"Host": "evil.example", **BALANCER}).status_code == 421
        assert team.http.post("/mcp", json={}, headers=BALANCER).status_code == 401
        said = team.stop()
    assert "client=127.0.0.1" in said
    assert "203.0.113.7" not in said


def test_the_address_of_a_caller_is_the_last_that_no_trusted_proxy_has(tmp_path: Path, provider: Provider) -> None:
    env = team_environment(tmp_path, FLUX2_TRUSTED_PROXIES="127.0.0.1 10.0.0.0/8 2001:db8::/32", FLUX2_LOG="info")
    with Team(env, provider, "--public-url", PUBLIC, public=PUBLIC) as team:
        for hops in (
            "198.51.100.9, 203.0.113.1, 10.1.2.3",
            "198.51.100.9, 203.0.113.2:5566",
            "198.51.100.9, [2001:db9::3]:80, 2001:db8::1, ::ffff:10.0.0.4",
            "198.51.100.9, not an address, 10.0.0.5",
            "",
        ):
            team.http.post("/mcp", json={}, headers={"X-Forwarded-For": hops})
        said = team.stop()
    assert re.findall(r"client=(\S+)", said) == ["203.0.113.1", "203.0.113.2", "2001:db9::3", "10.0.0.5", "127.0.0.1"]


@pytest.mark.parametrize("era", ERAS)
def test_a_path_of_the_caller_leads_to_no_file_of_the_server(tmp_path: Path, provider: Provider, era: str) -> None:
    env = team_environment(tmp_path, FLUX2_ALLOWED_DIRS=str(tmp_path), FLUX2_WORKSPACE=str(tmp_path))
    (tmp_path / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with Team(env, provider) as team:
        for source in (str(tmp_path / "secret.png"), "secret.png"):
            refused = team.tool(era, "generate", prompt="a red fox", source_images=[source])
            assert refused["isError"]
            said = refused["content"][0]["text"]
            assert f"curl -H 'Authorization: Bearer TOKEN' --data-binary @{source} {team.base}/uploads" in said
        refused = team.tool(era, "generate", prompt="a red fox", save_to="fox.png")
        assert refused["isError"]
        assert "this server is on another machine" in refused["content"][0]["text"]
        assert "curl -o fox.png URL" in refused["content"][0]["text"]
        params = {"name": "generate", "arguments": {"prompt": "a red fox", "source_images": ["secret.png"]}}
        *_, answer = messages(team.call(era, "tools/call", params, capabilities={"roots": {}}))
        assert answer["result"]["isError"]  # no folder of the caller is asked for
    assert sorted(each.name for each in tmp_path.iterdir()) == ["home", "secret.png", "user"]


# --- what is refused before a port opens ------------------------------------------------------------------------------

ISSUER = {"FLUX2_OIDC_ISSUER": "https://sso.example.com"}


@pytest.mark.parametrize(
    ("options", "env", "message"),
    [
        (("--host", "0.0.0.0"), {}, "--host 0.0.0.0 would let others in"),  # noqa: S104  # that is the point
        (("--host", "::"), {}, "--host :: would let others in"),
        (("--public-url", PUBLIC), {}, "--public-url would let others in"),
        (("--host", "0.0.0.0"), ISSUER, "--host 0.0.0.0 needs --public-url"),  # noqa: S104  # the same
        (("--public-url", "http://flux2.example.com"), ISSUER, "--public-url must be https://host"),
        (("--public-url", f"{PUBLIC}/images"), ISSUER, "--public-url must be https://host"),
        (("--public-url", f"{PUBLIC}?a"), ISSUER, "--public-url must be https://host"),
        ((), ISSUER | {"FLUX2_MODE": "live"}, "A server for a team needs the RunAPI key"),
        ((), {"FLUX2_OIDC_ISSUER": "http://sso.example.com"}, "FLUX2_OIDC_ISSUER must be https://"),
        ((), ISSUER | {"FLUX2_TRUSTED_PROXIES": "10.0.0.1/8"}, "FLUX2_TRUSTED_PROXIES must list addresses"),
        ((), ISSUER | {"FLUX2_SEAL_KEY": "short"}, "FLUX2_SEAL_KEY must have at least 32 characters"),
        ((), ISSUER | {"FLUX2_OIDC_SCOPES": 'a"b'}, "FLUX2_OIDC_SCOPES must list scopes"),
    ],
)
def test_what_would_be_open_or_of_no_use_is_refused_by_name(
    here: Here, options: tuple[str, ...], env: dict[str, str], message: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # Were it to listen first, the port that is taken would be the error.
        code, out, err = here("serve", "--http", "--port", str(taken.getsockname()[1]), *options, **env)
    assert (code, out) == (2 if "needs the RunAPI key" in message else 4, "")
    assert message in err
    assert "Next: " in err


def test_without_a_provider_personal_tokens_alone_open_a_team_and_without_one_in_force_nothing_does(
    tmp_path: Path, here: Here
) -> None:
    env = team_environment(tmp_path)

    def command(*arguments: str) -> str:
        code, out, _ = here(*arguments, **env)
        assert code == 0
        return out

    made = json.loads(command("team", "token", "create", "build", "--json"))
    with Team(env, None, "--public-url", PUBLIC, public=PUBLIC) as team:
        assert "for personal tokens" in team.first
        assert "sign_in" not in team.http.get("/readyz").json()["checks"]
        refused = team.call(MODERN, "tools/list", {}, token="e30.e30.x")
        assert (refused.status_code, "personal tokens alone" in refused.headers["WWW-Authenticate"]) == (401, True)
        assert "resource_metadata" not in refused.headers["WWW-Authenticate"]
        nobody = team.http.post("/mcp", json={})
        assert (nobody.status_code, nobody.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert team.http.get(WELL_KNOWN).status_code == 404
        assert team.call(MODERN, "tools/list", {}, token=made["token"]).status_code == 200
        said = team.stop()
    assert made["token"] not in said
    command("team", "token", "revoke", made["id"])
    code, _, err = here("serve", "--http", "--port", "0", "--public-url", PUBLIC, **env)
    assert (code, "flux2-mcp team token create" in err) == (4, True)


def test_a_host_that_is_no_address_is_refused(here: Here) -> None:
    code, _, err = here("serve", "--http", "--host", "flux2.example.com")
    assert code == 4
    assert "must be an IP address of this machine" in err


# --- health -----------------------------------------------------------------------------------------------------------


def test_health_and_readiness_need_no_token_and_say_nothing_of_the_machine(team: Team) -> None:
    until(lambda: team.http.get("/readyz").status_code == 200)
    alive, ready = team.http.get("/healthz", headers={"Host": "10.1.2.3:8788"}), team.http.get("/readyz")
    assert (alive.status_code, alive.text) == (200, "ok\n")
    parts = dict.fromkeys(("journal", "images", "runapi", "sign_in"), "ok")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "checks": parts})


def test_what_is_broken_is_named_and_a_replica_that_can_not_work_is_not_ready(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "elsewhere", speed=1000, rate=None) as runapi:
        key, url = runapi.api_key, runapi.base_url
    env = team_environment(tmp_path, RUNAPI_API_KEY=key, RUNAPI_BASE_URL=url)  # it has ended
    home = Path(env["FLUX2_HOME"])
    home.mkdir(mode=0o700)
    (home / "images").write_text("in the way")
    (home / "journal.sqlite3").mkdir()
    with Provider() as provider, Team(env, provider) as team:
        provider.down = True
        until(lambda: "no answer in time" not in team.http.get("/readyz").text)
        ready = team.http.get("/readyz")
        said = ready.json()
        assert team.http.get("/healthz").status_code == 200
        late = team.call(MODERN, "tools/list", {})
    assert (ready.status_code, ready.headers["retry-after"], said["ready"]) == (503, "1", False)
    assert said["checks"] == {
        "journal": "can't be read", "images": "can't be written", "runapi": "can't be reached",
        "sign_in": "no keys known",
    }  # fmt: skip
    assert (late.status_code, late.headers["retry-after"]) == (503, "10")
    assert not {key, url, str(tmp_path)} & set(re.split(r'"', ready.text))


# --- numbers ----------------------------------------------------------------------------------------------------------


def numbers(text: str) -> dict[str, float]:
    """The samples, by name and labels."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_the_numbers_say_what_was_made_and_spent_and_name_nobody(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "elsewhere", speed=1000, rate=None) as runapi, Provider() as provider:
        env = team_environment(tmp_path, RUNAPI_API_KEY=runapi.api_key, RUNAPI_BASE_URL=runapi.base_url)
        with Team(env, provider) as team:
            for prompt in ("a red fox", "a blue fox", "a sad fox [sandbox:moderation]"):
                team.tool(MODERN, "generate", prompt=prompt)
            answer = team.http.get("/metrics")
        secret = runapi.api_key
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = numbers(answer.text)
    assert {name: value for name, value in found.items() if name.startswith("flux2_tasks") and value} == {
        'flux2_tasks{state="delivered"}': 2, 'flux2_tasks{state="failed"}': 1,
    }  # fmt: skip
    assert found["flux2_charged_usd"] == pytest.approx(found["flux2_day_usd"])
    assert found["flux2_charged_usd"] > 0
    assert found['flux2_runapi_answers_total{status="200"}'] > 3
    assert found["flux2_end_unknown_seconds_count"] == 3
    assert (found["flux2_journal_up"], found["flux2_calls_under_way"]) == (1, 0)
    for word in ("fox", "Ada", "ada", secret, str(tmp_path), MEMBERS):
        assert word not in answer.text


def test_who_may_read_the_numbers(tmp_path: Path, provider: Provider) -> None:
    env = team_environment(tmp_path, FLUX2_TRUSTED_PROXIES="127.0.0.2", FLUX2_OIDC_ADMIN_GROUP=ADMINS)
    with Team(env, provider) as team:
        file = Path(env["FLUX2_HOME"]) / "metrics-token"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

        def status(token: str | None = None, **headers: str) -> int:
            told = {} if token is None else {"Authorization": f"Bearer {token}"}
            return team.http.get(
                "/metrics", headers=told | {n.replace("_", "-"): v for n, v in headers.items()}
            ).status_code

        assert status() == 200  # straight from this machine
        signs = "X_Forwarded_For", "X_Forwarded_Server", "Forwarded", "Via", "X_Real_IP"
        for sign in signs:  # of a proxy that nobody has named
            assert status(**{sign: "127.0.0.1"}) == 401
        for host in ("flux2.example.com", "127.0.0.1.evil.example", "[::1", ""):  # the same, or a page in a browser
            assert status(Host=host) == 401, host
        assert status(Host=f"localhost:{team.port}") == 200
        through = {"X_Forwarded_For": "203.0.113.7"}
        assert status(file.read_text("ascii").strip(), **through) == 200
        assert status("wrong", **through) == 401
        assert status(team.token(exp=1), **through) == 401
        assert status(team.token(), **through) == 403
        assert status(team.token(groups=[MEMBERS, ADMINS]), **through) == 200
        with httpx2.HTTPTransport(local_address="127.0.0.2") as proxy, httpx2.Client(transport=proxy) as http:
            url = f"{team.base}/metrics"
            assert http.get(url).status_code == 401
            assert http.get(url, headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 401


def test_a_replica_that_does_not_reach_runapi_or_the_store_of_images_is_not_ready(
    tmp_path: Path, provider: Provider
) -> None:
    env = team_environment(tmp_path, RUNAPI_API_KEY="sk-run-lost", RUNAPI_BASE_URL="http://127.0.0.1:9")
    env |= {"FLUX2_IMAGES_URL": "s3://pictures/team", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    env |= {"AWS_ACCESS_KEY_ID": "AKIDLOST", "AWS_SECRET_ACCESS_KEY": "lost"}
    with Team(env, provider) as team:
        until(lambda: "no answer in time" not in team.http.get("/readyz").text)
        ready = team.http.get("/readyz")
    parts = {"journal": "ok", "images": "ok", "runapi": "can't be reached", "store": "can't be used", "sign_in": "ok"}
    assert (ready.status_code, ready.json()) == (503, {"ready": False, "checks": parts})


def test_a_journal_that_says_nothing_holds_up_no_question_for_long(tmp_path: Path, provider: Provider) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        env = team_environment(tmp_path, FLUX2_JOURNAL_URL=f"postgresql://ada:secret@127.0.0.1:{port}/flux2")
        with Team(env, provider) as team:
            ready = team.http.get("/readyz")
            assert (ready.status_code, ready.json()["checks"]["journal"]) == (503, "no answer in time")
            assert numbers(team.http.get("/metrics").text)["flux2_journal_up"] == 0
            assert "secret" not in ready.text
            team.process.kill()


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_on_sigterm_who_waits_is_answered_with_the_id_and_who_calls_now_is_sent_elsewhere(
    tmp_path: Path, provider: Provider, era: str
) -> None:
    with Sandbox(tmp_path / "elsewhere", speed=1000, rate=None) as runapi:
        env = team_environment(tmp_path, RUNAPI_API_KEY=runapi.api_key, RUNAPI_BASE_URL=runapi.base_url)
        with Team(env, provider) as team:
            found: list[dict[str, Any]] = []

            def wait() -> None:
                found.append(team.tool(era, "generate", prompt="a red fox [sandbox:stuck]", wait_seconds=900))

            waiting = threading.Thread(target=wait, daemon=True)
            waiting.start()
            deadline = time.monotonic() + DEADLINE
            while not any(task.polls for task in runapi.tasks()):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            team.process.send_signal(signal.SIGTERM)
            waiting.join(DEADLINE)
            assert team.process.wait(DEADLINE) == 0
            assert "Traceback" not in team.stop()
        (task,) = runapi.tasks()
    (result,) = found
    assert (result["structuredContent"]["status"], result.get("isError", False)) == ("processing", False)
    assert task.id in json.dumps(result["structuredContent"])
    with closing(sqlite3.connect(Path(env["FLUX2_HOME"]) / "journal.sqlite3")) as journal:
        assert journal.execute("SELECT task_id, lease_until FROM task").fetchall() == [(task.id, None)]


@contextmanager
def held_up(tmp_path: Path, provider: Provider, drain: str) -> Iterator[tuple[Team, list[dict[str, Any]]]]:
    """A server with a call that is not answered for half a minute: RunAPI takes its source image and says nothing.

    The list has the call's answer, if one has come.
    """
    answers: list[dict[str, Any]] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = team_environment(tmp_path, RUNAPI_API_KEY="sk-run-silent", RUNAPI_BASE_URL=url)
        out = BytesIO()
        Image.new("RGB", (16, 16), "red").save(out, "PNG")
        source = f"data:image/png;base64,{b64encode(out.getvalue()).decode()}"

        def call(team: Team) -> None:
            with suppress(httpx2.TransportError, httpx2.HTTPStatusError, ValueError, KeyError):
                arguments = {"prompt": "a red fox", "source_images": [source], "max_cost_usd": 1}
                answers.append(team.tool(MODERN, "generate", **arguments))

        with Team(env, provider, "--drain", drain) as team:
            waiting = threading.Thread(target=call, args=(team,), daemon=True)
            waiting.start()
            until(lambda: numbers(team.http.get("/metrics").text)["flux2_calls_under_way"] == 1)
            yield team, answers
            waiting.join(DEADLINE)
            assert not waiting.is_alive()


def test_while_it_stops_new_calls_are_sent_elsewhere_and_a_second_signal_ends_it(
    tmp_path: Path, provider: Provider
) -> None:
    with held_up(tmp_path, provider, "900") as (team, _):
        team.process.send_signal(signal.SIGTERM)
        until(lambda: team.http.get("/readyz").status_code == 503)
        ready, refused = team.http.get("/readyz"), team.call(MODERN, "tools/list", {})
        assert ready.json() == {"ready": False, "checks": {"server": "is stopping"}}
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert team.http.get("/healthz").status_code == 200
        assert [team.http.post(path).status_code for path in ("/uploads", "/api/v1/files")] == [503, 503]
        team.process.send_signal(signal.SIGTERM)
        assert team.process.wait(DEADLINE) == 143


def test_a_call_that_takes_longer_than_the_drain_is_cut(tmp_path: Path, provider: Provider) -> None:
    with held_up(tmp_path, provider, "0.2") as (team, answers):
        team.process.send_signal(signal.SIGTERM)
        assert team.process.wait(DEADLINE) == 0
    assert answers == []


# --- several servers behind one address -------------------------------------------------------------------------------


def asked(team: Team, person: str = "ada", **more: Any) -> dict[str, Any]:  # noqa: ANN401  # any JSON
    """The result of a call whose price needs the user's word, of a client that can ask."""
    params = {"name": "generate", "arguments": {"prompt": "a red fox", "count": 3}, **more}
    capabilities = {"elicitation": {"form": dict[str, Any]()}}
    token = team.token(sub=person)
    *_, answer = messages(team.call(MODERN, "tools/call", params, capabilities=capabilities, token=token))
    found: dict[str, Any] = answer
    return found


def test_what_one_server_asks_another_reads_if_both_have_the_same_key(tmp_path: Path, provider: Provider) -> None:
    public, old, new = "http://127.0.0.1:1", "o" * 32, "n" * 32
    env = team_environment(tmp_path, FLUX2_CONFIRM_USD="0.10")
    keys = {"first": f"{old}", "second": f"{new} {old}", "other": new}
    with ExitStack() as stack:
        teams = {
            name: stack.enter_context(
                Team(env | {"FLUX2_SEAL_KEY": key}, provider, "--public-url", public, public=public)
            )
            for name, key in keys.items()
        }
        question = asked(teams["first"])["result"]
        assert question["resultType"] == "input_required"
        ((name, _),) = question["inputRequests"].items()
        yes = {"action": "accept", "content": {"spend": True}}
        again = {"inputResponses": {name: yes}, "requestState": question["requestState"]}
        assert "error" in asked(teams["other"], **again)
        assert "error" in asked(teams["second"], "eve", **again)  # she was not asked
        made = asked(teams["second"], **again)["result"]
    assert made["structuredContent"]["status"] == "completed"
    assert len(made["structuredContent"]["tasks"]) == 3
