"""People sign in to a team's server with a real OpenID provider, in a real browser, through the OAuth clients of the SDKs.

`make test-team`; not part of `make test`, for it needs npm and Chromium. The provider is node-oidc-provider, which is certified.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx2
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from jwt import get_unverified_header
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from playwright.async_api import async_playwright
from pydantic import AnyUrl

from flux2_mcp.server.tools import REGISTRY
from tests.browser.host import chromium, launch_options
from tests.support import npm
from tests.support.stdio import DEADLINE, ERAS, LEGACY
from tests.support.team import Team, team_environment, until
from tests.support.terminal import flux2_mcp, on_terminal

PACKAGES = {"oidc-provider": "9.13.3"}
TYPESCRIPT = {"@modelcontextprotocol/sdk": "1.32.2", "@modelcontextprotocol/client": "2.4.0"}
"""Both generations of the SDK for TypeScript: the first speaks no protocol of 2026-07-28."""
MEMBERS = "designers"
pytestmark = pytest.mark.anyio


def _program(name: str, packages: Mapping[str, str]) -> list[str]:
    """The command that runs one of the programs beside this file, up to the folder of its packages; skips where npm is missing."""
    node, modules = npm.fetched(npm.NODE, scripts=True), npm.fetched(packages)
    if isinstance(node, str) or isinstance(modules, str):
        pytest.skip(node if isinstance(node, str) else str(modules))
    return [str(node / npm.NODE_BINARY), str(Path(__file__).with_name(name)), str(modules)]


class RealProvider:
    """The provider as a process. A new one on the same port has another key, as after a rotation."""

    def __init__(self, people: Path, *, key: str = "first", port: int = 0) -> None:
        self._process = subprocess.Popen(
            [*_program("provider.mjs", PACKAGES), str(port), key, str(people)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        self.issuer = self._process.stdout.readline().decode().strip()
        assert self.issuer
        self.port = int(self.issuer.rpartition(":")[2])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=DEADLINE)


class Store:
    """What an agent host keeps of a sign-in."""

    tokens: OAuthToken | None = None
    info: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.info

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.info = client_info


class AgentHost:
    """A host on a person's machine: it opens the browser, in which the person types a name, and waits for its callback."""

    def __init__(self, person: str) -> None:
        self.store = Store()
        self.opened: list[str] = []
        self._person = person
        self.query = ""
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/callback?"):
                    host.query = urlsplit(self.path).query
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"You can close this page.")

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.callback = f"http://127.0.0.1:{self._server.server_port}/callback"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    async def browse(self, url: str) -> None:
        self.opened.append(url)
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(**launch_options())
            page = await browser.new_page()
            await page.goto(url)
            await page.fill("input[name=login]", self._person)
            await page.fill("input[name=password]", "anything")
            await page.click("button[type=submit]")
            await page.click("button[type=submit]")  # the consent
            await page.wait_for_url("**/callback?*")
            await browser.close()

    async def _called_back(self) -> AuthorizationCodeResult:
        found = {name: values[0] for name, values in parse_qs(self.query).items()}
        return AuthorizationCodeResult(code=found["code"], state=found.get("state"), iss=found.get("iss"))

    @asynccontextmanager
    async def connected(self, url: str, era: str) -> AsyncIterator[Client]:
        auth = OAuthClientProvider(
            url,
            OAuthClientMetadata(
                client_name="agent host",
                redirect_uris=[AnyUrl(self.callback)],
                token_endpoint_auth_method="none",
            ),
            self.store,
            self.browse,
            self._called_back,
        )
        with anyio.fail_after(2 * DEADLINE):
            async with httpx2.AsyncClient(auth=auth, timeout=DEADLINE) as http:
                transport = streamable_http_client(url, http_client=http)
                async with Client(transport, mode="legacy" if era == LEGACY else "auto") as client:
                    yield client


@pytest.fixture
def people(tmp_path: Path) -> Path:
    file = tmp_path / "people.json"
    file.write_text(json.dumps({"ada": [MEMBERS], "eve": []}))
    return file


@pytest.fixture
def provider(people: Path) -> Iterator[RealProvider]:
    if chromium() is None:
        pytest.skip("chromium is not installed")
    with RealProvider(people) as provider:
        yield provider


@pytest.fixture
def team(tmp_path: Path, provider: RealProvider) -> Iterator[Team]:
    env = team_environment(tmp_path, FLUX2_OIDC_SCOPES="flux2", FLUX2_OIDC_GROUP=MEMBERS)
    with Team(env, provider.issuer) as team:
        yield team


def facts(result: Any) -> dict[str, Any]:  # noqa: ANN401  # what the SDK gives
    assert not result.is_error, result
    found: dict[str, Any] = result.structured_content
    return found


@pytest.mark.parametrize("era", ERAS)
async def test_a_person_signs_in_once_and_makes_a_picture(team: Team, era: str) -> None:
    with AgentHost("ada") as host:
        async with host.connected(team.audience, era) as client:
            made = facts(await client.call_tool("generate", {"prompt": "a red fox"}))
        assert made["status"] == "completed"
        async with host.connected(team.audience, era) as client:  # the next session has the token
            assert len(facts(await client.call_tool("check_task", {}))["tasks"]) == 1
        assert len(host.opened) == 1
        assert parse_qs(urlsplit(host.opened[0]).query)["resource"] == [team.audience]


@pytest.mark.parametrize("registered", [False, True])
async def test_flux2_mcp_on_a_laptop_signs_in_and_works_as_the_same_person(
    team: Team, provider: RealProvider, clean_env: dict[str, str], tmp_path: Path, *, registered: bool
) -> None:
    laptop = {name: value for name, value in clean_env.items() if name not in {"FLUX2_MODE", "RUNAPI_API_KEY"}}
    with AgentHost("ada") as host, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        known = _known_to(provider, f"http://127.0.0.1:{port}/callback") if registered else None
        free.close()
        options = () if known is None else ("--client-id", known["client_id"], "--port", str(port))
        with on_terminal(laptop, "login", "--team", team.base, "--no-browser", *options) as terminal:
            terminal.until("Ctrl-C stops.")
            found = re.search(r"http://\S+/auth\?\S+", terminal.seen)
            assert found
            await host.browse(found[0])
            assert terminal.end()[0] == 0
        made = flux2_mcp(laptop, "generate", "a lighthouse", "--save-to", "hero.png", cwd=tmp_path)
        assert (made.returncode, (tmp_path / "hero.png").exists()) == (0, True), made.stderr
        async with host.connected(team.audience, LEGACY) as client:
            assert len(facts(await client.call_tool("check_task", {}))["tasks"]) == 1


def _known_to(provider: RealProvider, callback: str) -> dict[str, Any]:
    """What a host has of a client that was registered beforehand: with its issuer, or the SDK says that it can't tell issuers apart."""
    wanted = {"redirect_uris": [callback], "token_endpoint_auth_method": "none", "client_name": "agent host"}
    answer = httpx2.post(f"{provider.issuer}/reg", json=wanted, timeout=DEADLINE)
    assert answer.status_code == 201
    known: dict[str, Any] = answer.json()
    return known | {"issuer": provider.issuer}


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("sdk", ["sdk", "client"])
async def test_a_host_in_typescript_signs_in_once_and_makes_a_picture(
    team: Team, provider: RealProvider, sdk: str, *, registered: bool
) -> None:
    told = dict[str, Any]()
    with AgentHost("ada") as host, anyio.fail_after(3 * DEADLINE):
        known = _known_to(provider, host.callback) if registered else None
        command = [*_program("typescript_host.mjs", TYPESCRIPT), sdk, team.audience, host.callback, json.dumps(known)]
        async with await anyio.open_process(command, stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            said = BufferedByteReceiveStream(process.stdout)
            with suppress(anyio.IncompleteRead):
                while line := (await said.receive_until(b"\n", 1024 * 1024)).decode():
                    assert line.startswith("{"), line
                    told |= json.loads(line)
                    if line.startswith('{"browse"'):
                        await host.browse(told["browse"])
                        await process.stdin.send(f"{host.query}\n".encode())
        assert process.returncode == 0
    assert told["tools"] == [entry.function.__name__ for entry in REGISTRY]
    assert (told["made"]["status"], told["tasks"]) == ("completed", 1)
    assert set(told["streams"]) == ({405} if sdk == "sdk" else set())
    assert len(host.opened) == 1
    asked = parse_qs(urlsplit(host.opened[0]).query)
    assert asked["resource"] == [team.audience]
    assert "flux2" in asked["scope"][0].split()  # the second generation asks for offline_access, too
    assert ("registered" in told) is not registered


async def test_a_provider_that_is_away_shuts_nobody_out_and_after_a_rotation_the_new_key_counts_and_the_old_one_does_not(
    team: Team, provider: RealProvider, people: Path
) -> None:
    with AgentHost("ada") as host:
        async with host.connected(team.audience, LEGACY) as client:
            facts(await client.call_tool("list_variants", {}))
        provider.stop()
        async with host.connected(team.audience, LEGACY) as client:  # the provider is away: the known key stays in use
            facts(await client.call_tool("list_variants", {}))
        assert len(host.opened) == 1
    with RealProvider(people, key="second", port=provider.port), AgentHost("ada") as again:
        with suppress(Exception):  # an unknown key is looked for at most once in ten seconds
            async with again.connected(team.audience, LEGACY) as client:
                facts(await client.call_tool("list_variants", {}))
        assert again.store.tokens is not None
        assert get_unverified_header(again.store.tokens.access_token)["kid"] == "second"
        new = again.store.tokens.access_token
        until(lambda: team.call(LEGACY, "tools/list", {}, token=new).status_code == 200)
        assert host.store.tokens is not None
        old = team.call(LEGACY, "tools/list", {}, token=host.store.tokens.access_token)
        assert (old.status_code, old.json()["error"]) == (401, "invalid_token")


async def test_who_is_in_no_group_is_refused_and_so_is_who_was_taken_out_of_it(team: Team, people: Path) -> None:
    for name, groups in (("eve", []), ("ada", [MEMBERS]), ("ada", [])):
        people.write_text(json.dumps({name: groups}))
        with AgentHost(name) as host:
            try:
                async with host.connected(team.audience, LEGACY) as client:
                    facts(await client.call_tool("list_variants", {}))
                admitted = True
            except Exception:  # noqa: BLE001  # of several kinds, in groups: what counts is the server's own answer
                admitted = False
            assert admitted is bool(groups)
            assert host.store.tokens is not None
            answer = team.call(LEGACY, "tools/list", {}, token=host.store.tokens.access_token)
            assert answer.status_code == (200 if groups else 403)
            if not groups:
                assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
