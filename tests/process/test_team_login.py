"""`flux2-mcp login --team` with a provider: who signs in gets a token of the server's, and works through it as the same person.

The provider is the tests' own, over loopback HTTP; `tests/team` does the same with a real one in a real browser.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.provider import MEMBERS, Provider
from tests.support.stdio import DEADLINE, MODERN
from tests.support.team import Team, team_environment, until
from tests.support.terminal import Terminal, flux2_mcp, on_terminal


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        provider.signs_in = True
        yield provider


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return team_environment(
        tmp_path_factory.mktemp("team"),
        FLUX2_OIDC_GROUP=MEMBERS,
        FLUX2_LOGIN_DAYS="7",
        FLUX2_PERSON_DAILY_BUDGET_USD="1",
    )


@pytest.fixture(scope="module")
def team(server: dict[str, str], provider: Provider) -> Iterator[Team]:
    with Team(server, provider) as team:
        yield team


@pytest.fixture(autouse=True)
def _usual(provider: Provider) -> Iterator[None]:
    yield
    provider.registers, provider.claims_of_sign_in = True, {}


@pytest.fixture
def laptop(clean_env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in clean_env.items() if name not in {"FLUX2_MODE", "RUNAPI_API_KEY"}}


def page(terminal: Terminal) -> str:
    """Where the terminal sends its person."""
    terminal.until("Ctrl-C stops.")
    found = re.search(r"http://\S+/authorize\?\S+", terminal.seen)
    assert found
    return found[0]


def browsed(url: str) -> str:
    """What a browser shows in the end."""
    return httpx2.get(url, follow_redirects=True, timeout=DEADLINE, verify=False).text  # loopback, no TLS


def kept(env: dict[str, str]) -> dict[str, Any]:
    config = Path(env["HOME"]) / ".config" / "runapi" / "config.json"
    found: dict[str, Any] = json.loads(config.read_text("utf-8")) if config.exists() else {}
    return found


def test_who_signs_in_works_through_the_team_as_the_same_person(
    team: Team, server: dict[str, str], laptop: dict[str, str], tmp_path: Path
) -> None:
    with on_terminal(laptop, "login", "--team", f"{team.base}/mcp", "--no-browser") as terminal:
        assert "You are logged in" in browsed(page(terminal))
        code, shown = terminal.end()
    assert code == 0
    assert "Logged in as Ada Lovelace: " in shown
    assert "balance $1.00" in shown
    token = kept(laptop)["api_key"]
    assert (token in shown + terminal.seen, kept(laptop)["base_url"]) == (False, team.base)
    made = flux2_mcp(laptop, "generate", "a lighthouse", "--save-to", "hero.png", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "hero.png").exists()
    task = team.tool(MODERN, "check_task", limit=1)  # by a sign-in, not by the token
    assert len(task["structuredContent"]["tasks"]) == 1
    (person,) = json.loads(flux2_mcp(server, "team", "people", "--json").stdout)["people"]
    assert (person["subject"], person["name"], person["day_usd"] > 0) == ("ada", "Ada Lovelace", True)
    (listed,) = json.loads(flux2_mcp(server, "team", "token", "list", "--json").stdout)["tokens"]
    assert (listed["name"], listed["state"]) == ("Ada Lovelace", "live")
    entries = json.loads(flux2_mcp(server, "team", "audit", "--json").stdout)["entries"]
    (entry,) = (each for each in entries if each["what"] == "token")
    assert (entry["person"], entry["whose"], entry["address"]) == (person["person"], person["person"], "127.0.0.1")
    again = team.http.post("/tokens", headers={"Authorization": f"Bearer {token}"})
    assert (again.status_code, "makes no other one" in again.json()["error"]) == (409, True)
    flux2_mcp(server, "team", "token", "revoke", listed["id"])
    until(lambda: team.http.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).status_code == 401)
    assert flux2_mcp(laptop, "balance").returncode == 2


def test_of_too_many_tokens_of_one_person_the_oldest_ends_and_in_an_hour_there_are_not_more(
    team: Team, server: dict[str, str], provider: Provider
) -> None:
    signed_in = {"Authorization": f"Bearer {provider.token(team.audience, sub='max', name='Max')}"}
    made = [team.http.post("/tokens", headers=signed_in).json() for _ in range(20)]
    refused = team.http.post("/tokens", headers=signed_in)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3600")
    with closing(sqlite3.connect(Path(server["FLUX2_HOME"]) / "journal.sqlite3")) as journal, journal:
        journal.execute("UPDATE token SET created_at = created_at - 4000 WHERE name LIKE 'Max%'")
    made += [team.http.post("/tokens", headers=signed_in).json() for _ in range(2)]
    listed = json.loads(flux2_mcp(server, "team", "token", "list", "--json").stdout)["tokens"]
    states = {each["id"]: each["state"] for each in listed if each["name"] == "Max"}
    assert [states[each["id"]] for each in made] == [*["revoked"] * 2, *["live"] * 20]


def test_a_token_from_a_sign_in_counts_as_long_as_its_provider_does(
    team: Team, server: dict[str, str], provider: Provider
) -> None:
    signed_in = {"Authorization": f"Bearer {provider.token(team.audience, sub='eve', name='nightly-build')}"}
    token = team.http.post("/tokens", headers=signed_in).json()["token"]
    as_eve = {"Authorization": f"Bearer {token}"}
    assert team.http.get("/api/v1/me", headers=as_eve).status_code == 200
    with closing(sqlite3.connect(Path(server["FLUX2_HOME"]) / "journal.sqlite3")) as journal:
        names = [name for (name,) in journal.execute("SELECT name FROM token WHERE subject = 'eve'")]
    assert names == ["nightly-build "]  # no program's name: a server of before sign-ins would take her for it
    for issuer, more in (("https://other.example.com", {}), (provider.issuer, {"FLUX2_LOGIN_DAYS": "0"})):
        with Team(server | more, issuer) as changed:
            assert changed.http.get("/api/v1/me", headers=as_eve).status_code == 401


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("error=access_denied&state={state}", "team&#x27;s provider did not give leave: access_denied"),
        ("code={code}&state={state}&iss=https://elsewhere.example.com", "The sign-in failed"),
        ("code={code}&state={state}", "The sign-in failed"),  # it does not say who gave it
        ("code=made-up&state={state}&iss={issuer}", "The sign-in failed"),
    ],
)
def test_an_answer_that_is_no_sign_in_ends_it_and_keeps_nothing(
    team: Team, laptop: dict[str, str], provider: Provider, query: str, text: str
) -> None:
    with on_terminal(laptop, "login", "--team", team.base, "--no-browser") as terminal:
        url = httpx2.URL(page(terminal))
        asked, back = url.params, url.params["redirect_uri"]
        code = httpx2.URL(httpx2.get(url).headers["location"]).params["code"]
        assert "not the login that is waited for" in browsed(f"{back}?code=x&state=another&iss={provider.issuer}")
        assert text in browsed(f"{back}?{query.format(code=code, state=asked['state'], issuer=provider.issuer)}")
        assert terminal.end()[0] == 2
    assert kept(laptop) == {}


def test_who_may_not_use_the_server_is_told_so(team: Team, laptop: dict[str, str], provider: Provider) -> None:
    provider.claims_of_sign_in = {"groups": []}
    with on_terminal(laptop, "login", "--team", team.base, "--no-browser") as terminal:
        assert "does not let you in" in browsed(page(terminal))
        assert terminal.end()[0] == 2
    assert kept(laptop) == {}


def test_a_provider_that_lets_nobody_register_is_told_with_the_client_id_that_it_knows(
    team: Team, laptop: dict[str, str], provider: Provider
) -> None:
    provider.registers = False
    refused = flux2_mcp(laptop, "login", "--team", team.base, "--no-browser")
    assert (refused.returncode, "--client-id ID" in refused.stderr) == (2, True)
    provider.known.add("flux2-cli")
    with on_terminal(laptop, "login", "--team", team.base, "--client-id", "flux2-cli", "--no-browser") as terminal:
        assert "You are logged in" in browsed(page(terminal))
        assert terminal.end()[0] == 0
    assert kept(laptop)["base_url"] == team.base


def test_a_page_at_no_https_address_is_not_opened(team: Team, laptop: dict[str, str], provider: Provider) -> None:
    provider.about = {"authorization_endpoint": "http://provider.example.com/authorize"}
    try:
        refused = flux2_mcp(laptop, "login", "--team", team.base, "--no-browser")
    finally:
        provider.about = {}
    assert (refused.returncode, "at no https address" in refused.stderr) == (2, True)


def test_a_server_that_gives_no_tokens_says_who_does(
    tmp_path: Path, laptop: dict[str, str], provider: Provider
) -> None:
    (elsewhere := tmp_path / "other").mkdir()
    with Team(team_environment(elsewhere, FLUX2_LOGIN_DAYS="0"), provider) as team:
        with on_terminal(laptop, "login", "--team", team.base, "--no-browser") as terminal:
            assert "flux2-mcp team token create" in browsed(page(terminal))
            assert terminal.end()[0] == 2
        assert team.http.post("/tokens", headers={"Authorization": f"Bearer {team.token()}"}).status_code == 409


def test_a_server_that_can_not_answer_now_is_not_taken_for_one_without_a_provider(
    laptop: dict[str, str], provider: Provider
) -> None:
    provider.down = True
    try:
        refused = flux2_mcp(laptop, "login", "--team", provider.issuer.removesuffix("/realms/team"))
    finally:
        provider.down = False
    assert (refused.returncode, "can't answer now (503)" in refused.stderr) == (5, True)
