"""nginx, with the text that docs/team.md has for it, in front of two servers: what a team's calls need comes through."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme
from PIL import Image

from flux2_mcp.sandbox.server import Sandbox
from tests.conftest import environment
from tests.support import forked, postgres, team_page
from tests.support.stdio import COMMAND, DEADLINE, MODERN, dressed
from tests.support.team import Team, until
from tests.support.web import ACCEPT, messages

pytestmark = [
    pytest.mark.skipif(postgres.binaries() is None, reason="there is no PostgreSQL"),
    pytest.mark.skipif(shutil.which("nginx") is None, reason="there is no nginx"),
]
HEADING = "On many machines"
OF_THE_MACHINE = """
daemon off; master_process off; worker_processes 1; error_log stderr; pid {folder}/pid;
events {{}}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{text}
}}
"""


class Behind:
    """Two servers behind nginx, and a person with a token."""

    def __init__(self, folder: Path, teams: list[Team], env: dict[str, str], public: str, token: str) -> None:
        self.folder, self.teams, self.env, self.public, self.token = folder, teams, env, public, token
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        self.http = httpx2.Client(
            base_url=public, verify=context, timeout=2 * DEADLINE, headers={"Authorization": f"Bearer {token}"}
        )

    def tool(self, name: str, **arguments: object) -> dict[str, Any]:
        told = ACCEPT | {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": name}
        params = dressed(MODERN, {"name": name, "arguments": arguments}, {})
        answer = self.http.post(
            "/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}, headers=told
        )
        assert answer.status_code == 200, answer.text
        *_, message = messages(answer)
        result: dict[str, Any] = message["result"]["structuredContent"]
        return result

    def command(self, *words: str, given: str = "", **env: str) -> str:
        done = forked.run([*COMMAND, *words], self.env | env, timeout=DEADLINE, given=given, cwd=self.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout


def configured(folder: Path, teams: list[Team], port: int) -> Path:
    """The page's text, with this machine's addresses and a certificate of the test's own."""
    (text,) = team_page.blocks(HEADING, "nginx")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "cert.pem"))
    for old, new in (
        ("10.0.0.11:8788", f"127.0.0.1:{teams[0].port}"),
        ("10.0.0.12:8788", f"127.0.0.1:{teams[1].port}"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("server_name flux2.example.com", "server_name localhost"),
        ("/etc/ssl/flux2.example.com.pem", f"{folder}/cert.pem"),
        ("/etc/ssl/flux2.example.com.key", f"{folder}/cert.pem"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "nginx.conf"
    path.write_text(OF_THE_MACHINE.format(folder=folder, text=text))
    return path


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    folder = tmp_path_factory.mktemp("balancer")
    port = team_page.free_port()
    public = f"https://localhost:{port}"
    (folder / "user").mkdir()
    (folder / "images").mkdir()
    with ExitStack() as stack:
        cluster = stack.enter_context(postgres.cluster(postgres.FAST))
        runapi = stack.enter_context(Sandbox(folder / "runapi", speed=1000, rate=None, seed=1))
        env = environment(folder) | {
            "FLUX2_JOURNAL_URL": cluster.url, "FLUX2_IMAGES_URL": str(folder / "images"), "FLUX2_SEAL_KEY": "s" * 32,
            "FLUX2_TRUSTED_PROXIES": "127.0.0.1", "RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url,
        }  # fmt: skip
        made = forked.run([*COMMAND, "team", "token", "create", "ada", "--json"], env, timeout=DEADLINE, cwd=folder)
        teams = [
            stack.enter_context(
                Team(env | {"FLUX2_HOME": str(folder / name)}, None, "--public-url", public, public=public)
            )
            for name in ("first", "second")
        ]
        config = configured(folder, teams, port)
        log = stack.enter_context((folder / "nginx.log").open("w"))
        nginx = subprocess.Popen(
            ["nginx", "-p", str(folder), "-c", str(config)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=log,
        )  # fmt: skip
        stack.callback(nginx.wait, DEADLINE)
        stack.callback(nginx.terminate)
        found = Behind(folder, teams, env, public, json.loads(made.stdout)["token"])
        stack.callback(found.http.close)
        until(lambda: _answers(found.http))
        yield found


def _answers(http: httpx2.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx2.TransportError:
        return False


def test_pictures_links_uploads_and_a_laptop_work_through_it(behind: Behind, tmp_path: Path) -> None:
    task = behind.tool("generate", prompt="a red fox")["tasks"][0]
    link = task["images"][0]["url"]
    assert link.startswith(f"{behind.public}/images/")
    sizes = {len(behind.http.get(link).content) for _ in behind.teams * 2}  # each of the two has it, from the store
    assert sizes == {task["images"][0]["size_bytes"]}

    picture = BytesIO()
    Image.frombytes("RGB", (3200, 3200), os.urandom(3200 * 3200 * 3)).save(picture, "PNG", compress_level=0)
    assert 30_000_000 < picture.tell() < 32 * 2**20
    sent = behind.http.post("/uploads", content=picture.getvalue())
    assert sent.status_code == 201, sent.text
    assert behind.tool("generate", prompt="a blue fox", source_images=[sent.json()["source"]])["status"] == "completed"

    laptop = {
        "HOME": str(tmp_path),
        "FLUX2_HOME": str(tmp_path / "home"),
        "SSL_CERT_FILE": str(behind.folder / "ca.pem"),
    }
    laptop |= dict.fromkeys(("FLUX2_JOURNAL_URL", "FLUX2_IMAGES_URL", "RUNAPI_API_KEY", "RUNAPI_BASE_URL"), "")
    behind.command("login", "--team", behind.public, "--stdin", given=behind.token, **laptop)
    behind.command("generate", "a grey fox", **laptop)
    assert len(list((tmp_path / "home/images").glob("*.png"))) == 1


def test_the_audit_has_the_address_of_the_caller(behind: Behind) -> None:
    context = ssl.create_default_context(cafile=str(behind.folder / "ca.pem"))
    with httpx2.HTTPTransport(local_address="127.0.0.9", verify=context) as caller:
        behind.http, before = (
            httpx2.Client(base_url=behind.public, transport=caller, headers=behind.http.headers),
            behind.http,
        )
        behind.http.headers["X-Forwarded-For"] = "203.0.113.7"  # what a caller says of itself is not believed
        behind.tool("generate", prompt="a fox from elsewhere")
        behind.http = before
    entries = json.loads(behind.command("team", "audit", "--json"))["entries"]
    assert entries[0]["address"] == "127.0.0.9"


def test_a_call_that_waits_is_answered_when_it_ends(behind: Behind) -> None:
    begun = time.monotonic()
    found = behind.tool("generate", prompt="a stuck fox [sandbox:stuck]", wait_seconds=20)
    assert found["status"] == "processing"
    assert time.monotonic() - begun > 15


def test_a_server_that_is_gone_costs_no_call(behind: Behind) -> None:
    behind.teams[0].stop()
    for number in range(6):
        assert behind.tool("generate", prompt=f"fox {number}")["status"] == "completed"
