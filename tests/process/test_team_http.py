"""RunAPI's own HTTP, spoken by a team's server: curl, the vendor's SDK and flux2-mcp on a person's machine work through it."""

from __future__ import annotations

import json
import re
import sqlite3
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping
from contextlib import closing
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from PIL import Image
from runapi.core import NotFoundError, PollingOptions
from runapi.flux_2 import Flux2Client

from flux2_mcp.sandbox.server import Sandbox
from tests.conftest import environment
from tests.support.provider import Provider
from tests.support.rows import rows
from tests.support.sandboxed import TLS
from tests.support.stdio import DEADLINE, ERAS, MODERN
from tests.support.team import Team, team_environment, until
from tests.support.terminal import flux2_mcp
from tests.support.web import messages

PRO, FLEX = "flux-2-pro-text-to-image", "flux-2-flex-text-to-image"
TEXT, REMIX = "/api/v1/flux_2/text_to_image", "/api/v1/flux_2/remix_image"
POLLING = PollingOptions(poll_interval=0.05, max_wait=60)  # type: ignore[arg-type]  # seconds; it sleeps floats too


class Caller:
    """A program with a personal token."""

    def __init__(self, base: str, token: str) -> None:
        self.token = token
        self.http = httpx2.Client(
            base_url=base, verify=TLS, timeout=DEADLINE, headers={"Authorization": f"Bearer {token}"}
        )

    def create(self, prompt: str, *, model: str = PRO, key: str | None = None, **more: Any) -> httpx2.Response:  # noqa: ANN401  # any JSON
        body = {"model": model, "prompt": prompt} | more
        return self.http.post(TEXT, json=body, headers={} if key is None else {"Idempotency-Key": key})

    def ended(self, ident: str, path: str = TEXT) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def over() -> bool:
            found[:] = [self.http.get(f"{path}/{ident}").json()]
            return found[0]["status"] in {"completed", "failed"}

        until(over)
        return found[0]


class People:
    """Two programs of one team: Ada's may spend 60 cents a day, Ben's what it wants."""

    def __init__(self, team: Team, env: Mapping[str, str]) -> None:
        self.team, self.env = team, env
        self.ada = Caller(team.base, self.token("ada", "--daily", "0.60"))
        self.ben = Caller(team.base, self.token("ben"))

    def token(self, *arguments: str) -> str:
        done = flux2_mcp(self.env, "team", "token", "create", *arguments, "--json")
        return str(json.loads(done.stdout)["token"])


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    env = team_environment(tmp_path_factory.mktemp("team"))
    with Provider() as provider, Team(env, provider) as team:
        yield People(team, env)


@pytest.fixture
def laptop(people: People, tmp_path: Path) -> dict[str, str]:
    """A person's own machine, where their token stands in the place of RunAPI's key."""
    (tmp_path / "user").mkdir()
    return environment(tmp_path) | {"RUNAPI_BASE_URL": people.team.base, "RUNAPI_API_KEY": people.ben.token}


def test_a_task_is_made_told_and_its_image_fetched_without_a_token(people: People) -> None:
    made = people.ben.create("a red fox")
    assert (made.status_code, made.json()["status"]) == (200, "pending")
    ident = made.json()["id"]
    assert made.headers["X-RunAPI-Task-Id"] == ident
    task = people.ben.ended(ident)
    assert (task["id"], task["usage"]) == (ident, {"cost": 0.05, "generated_images": 1})
    (image,) = task["images"]
    assert image["url"].startswith(f"{people.team.base}/images/")
    got = httpx2.get(image["url"], verify=TLS, timeout=DEADLINE)
    assert Image.open(BytesIO(got.content)).size == (1024, 1024)
    assert got.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert got.headers["Cache-Control"].startswith("private")
    (entry, *_) = json.loads(flux2_mcp(people.env, "team", "audit", "--task", ident, "--json").stdout)["entries"]
    assert (entry["what"], entry["person"]) == ("image", None)


def test_a_link_opens_one_image_for_an_hour_and_nothing_else(people: People) -> None:
    url = people.ben.ended(people.ben.create("a blue fox").json()["id"])["images"][0]["url"]
    other = people.ben.ended(people.ben.create("a green fox").json()["id"])["images"][0]["url"]
    parts, query = urlsplit(url), parse_qs(urlsplit(url).query)
    signature, key = query["signature"][0], parts.path.split("/")[2]
    flipped = f"{'0' if signature[0] != '0' else '1'}{signature[1:]}"
    unlike = {
        "another signature": url.replace(signature, flipped),
        "none": url.replace(f"&signature={signature}", ""),
        "no time": url.replace(query["expires"][0], ""),
        "a later time": url.replace(query["expires"][0], str(int(query["expires"][0]) + 1)),
        "another number": url.replace("/0?", "/1?"),
        "another task": url.replace(key, urlsplit(other).path.split("/")[2]),
        "another script's digits": url.replace(query["expires"][0], "\u0661" * 10),
        "a huge number": url.replace(query["expires"][0], "9" * 400),
        "a way out": url.replace(key, "..%2f..%2fjournal.sqlite3"),
    }
    said = {what: httpx2.get(each, verify=TLS, timeout=DEADLINE) for what, each in unlike.items()}
    assert {what: answer.status_code for what, answer in said.items()} == dict.fromkeys(unlike, 404)
    assert {answer.text for what, answer in said.items() if what != "a way out"} == {
        "This is no link of this server.\n"
    }
    assert httpx2.post(url, verify=TLS, timeout=DEADLINE).status_code == 405


def test_an_image_that_a_caller_has_is_not_sent_again(people: People) -> None:
    url = people.ben.ended(people.ben.create("a copper fox").json()["id"])["images"][0]["url"]

    def got(tag: str) -> httpx2.Response:
        return httpx2.get(url, headers={"If-None-Match": tag}, verify=TLS, timeout=DEADLINE)

    first = got('"another"')
    assert (first.status_code, first.headers["ETag"]) == (200, f'"{sha256(first.content).hexdigest()}"')
    for tag in (first.headers["ETag"], f"W/{first.headers['ETag']}", f'"a", {first.headers["ETag"]}', "*"):
        again = got(tag)
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", first.headers["ETag"]), tag
        assert again.headers["Cache-Control"] == first.headers["Cache-Control"]
    for tag in ("", "a", first.headers["ETag"].strip('"'), '""'):
        assert got(tag).content == first.content, tag
    flipped = httpx2.get(url[:-1] + ("0" if url[-1] != "0" else "1"), headers={"If-None-Match": "*"}, verify=TLS)
    assert flipped.status_code == 404


def test_a_task_of_somebody_else_is_answered_like_one_that_nobody_has(people: People) -> None:
    ident = people.ben.create("a secret fox", key="secret").json()["id"]
    for name in (ident, "secret"):
        theirs, nobodys = people.ada.http.get(f"{TEXT}/{name}"), people.ada.http.get(f"{TEXT}/nobody")
        assert (theirs.status_code, theirs.text) == (nobodys.status_code, nobodys.text) == (404, nobodys.text)
    assert people.ben.http.get(f"{REMIX}/{ident}").status_code == 404
    assert people.ben.http.get(f"{TEXT}/{ident}").status_code == 200
    same = people.ada.create("a secret fox", key="secret").json()
    assert same["id"] != ident
    assert "task_replayed" not in same


def test_a_key_is_one_task_paid_once(people: People) -> None:
    first = people.ben.create("a grey fox", key="grey").json()
    again = people.ben.create("a grey fox", key="grey").json()
    assert (again["id"], again["task_replayed"]) == (first["id"], True)
    other = people.ben.create("a pale fox", key="grey")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
    without = {people.ben.create("a grey fox").json()["id"] for _ in range(2)}
    assert len(without | {first["id"]}) == 3  # without a key each call is a task, as at RunAPI


def test_a_cap_refuses_with_402_and_the_balance_is_what_it_leaves(people: People, laptop: dict[str, str]) -> None:
    ada = people.ada
    before = ada.http.get("/api/v1/me/balance").json()["balance_cents"]
    assert before <= 60
    assert ada.create("a fox", model=FLEX, output_resolution="2k").status_code == 200
    after = ada.http.get("/api/v1/me/balance").json()
    assert after == {"balance_cents": before - 24, "paid_balance_cents": before - 24, "bonus_balance_cents": 0}
    ada.create("another fox", model=FLEX, output_resolution="2k")
    over = ada.create("a third fox", model=FLEX, output_resolution="2k")
    assert over.status_code == 402
    assert "FLUX2_PERSON_DAILY_BUDGET_USD is $0.60" in over.json()["error"]["message"]
    # On a laptop, the cap is told as the team's: RunAPI was not asked.
    env = laptop | {"RUNAPI_API_KEY": ada.token}
    told = flux2_mcp(env, "generate", "a fox", "--variant", "flex", "--output-resolution", "2k", "--max-cost", "1")
    assert told.returncode == 3
    words = "The team's server refused it: The call would cost $0.24; FLUX2_PERSON_DAILY_BUDGET_USD is $0.60 and "
    assert "RunAPI" not in told.stderr
    assert "Top up" not in told.stderr
    assert words in told.stderr, told.stderr
    assert "spent_cents_today" not in people.ben.http.get("/api/v1/me/balance").json()
    me = ada.http.get("/api/v1/me").json()
    assert (me["name"], me["account"]["id"]) == ("ada", me["id"])


@rows(
    ("path", "body", "status", "says"),
    [
        (TEXT, {"model": PRO}, 422, "prompt"),
        (TEXT, {"model": "flux-3", "prompt": "a fox"}, 422, "must be one of"),
        (TEXT, {"model": PRO, "prompt": "a fox", "seed": 3}, 422, "seed"),
        (TEXT, {"model": PRO, "prompt": "a fox", "output_resolution": "9k"}, 422, "allowed: 1k, 2k"),
        (TEXT, {"model": PRO, "prompt": "a fox", "callback_url": "file:///etc/passwd"}, 422, "callback_url"),
        (REMIX, {"model": "flux-2-pro-remix-image", "prompt": "a fox", "source_image_urls": ["file:///etc/passwd"]}, 422, "source_image_urls"),
        ("/api/v1/flux_2/video", {"model": PRO}, 404, "Not found"),
        ("/api/v1/recraft/remove_background", {"source_image_url": "https://u:p@example.com/a.png"}, 422, "source_image_url"),
        (TEXT, [], 400, "must be a JSON object"),
        ("/api/v1/price_quotes", {"service": "flux-9"}, 422, "service"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_name(people: People, path: str, body: object, status: int, says: str) -> None:
    answer = people.ben.http.post(path, json=body)
    assert (answer.status_code, says in answer.text) == (status, True), answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("price_quotes", {"service": "flux-9"}),
        ("files/prepare", {"filename": "a.png", "byte_size": "many", "checksum": 1}),
    ],
)
def test_a_refusal_of_runapis_names_each_field_as_runapi_does(
    people: People, tmp_path: Path, path: str, body: object
) -> None:
    answer = people.ben.http.post(f"/api/v1/{path}", json=body)
    with Sandbox(tmp_path / "elsewhere") as runapi:
        headers = {"Authorization": f"Bearer {runapi.api_key}"}
        own = httpx2.post(f"{runapi.base_url}/api/v1/{path}", json=body, headers=headers, verify=TLS)
    assert (answer.status_code, answer.json()) == (own.status_code, own.json())
    assert answer.json()["errors"]


@rows(
    ("path", "more", "status"),
    [
        (TEXT, '"\\ud800": 1', 422),
        (TEXT, '"idempotency_key": "mine"', 422),
        (TEXT, '"seed": 1e400', 400),
        ("/api/v1/price_quotes", '"seed": 1e400', 400),
        (TEXT, '"source_image_urls": null, "source_image_url": null, "seed": null', 200),
    ],
)
def test_json_that_few_write_is_understood_or_refused_by_name(
    people: People, path: str, more: str, status: int
) -> None:
    content = f'{{"model": "{PRO}", "prompt": "a fox", {more}}}'
    answer = people.ben.http.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    if status == 422:
        assert list(answer.json()["errors"]) == [next(iter(json.loads(f"{{{more}}}")))]


@pytest.mark.parametrize("key", ["k" * 513, "a\tb"])
def test_a_key_that_can_be_none_is_no_conflict(people: People, key: str) -> None:
    answer = people.ben.create("a fox", key=key)
    assert (answer.status_code, list(answer.json()["errors"])) == (422, ["idempotency_key"])


def test_a_body_is_json_of_a_bounded_size_and_the_gate_stands_before_it(people: People) -> None:
    post = people.ben.http.post
    assert post(TEXT, content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415
    assert post(TEXT, content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert post(TEXT, json={"prompt": "x" * 1_100_000}).status_code == 413
    assert post("/api/v1/files", json={"source": [0] * 20_000}).status_code == 413
    assert post(TEXT, json={"prompt": "x,[{" * 25_000}).status_code == 422
    assert people.ben.create("a fox, " * 700, model=FLEX).status_code == 200
    for path in (TEXT, "/api/v1/me", "/api/v1/price_schedules", f"{TEXT}/x"):
        assert httpx2.post(f"{people.team.base}{path}", verify=TLS, timeout=DEADLINE).status_code == 401


def test_a_failed_task_says_why_and_costs_nothing(people: People) -> None:
    task = people.ben.ended(people.ben.create("a fox [sandbox:moderation]").json()["id"])
    assert task["status"] == "failed"
    assert "moderation" in task["error"]
    assert {"usage", "images"}.isdisjoint(task)


@pytest.mark.parametrize("era", ERAS)
def test_tools_answer_with_links_and_no_path_of_the_server(people: People, era: str) -> None:
    params = {"name": "generate", "arguments": {"prompt": f"a fox of {era}"}}
    *_, answer = messages(people.team.call(era, "tools/call", params, token=people.ben.token))
    far = {"name": "check_pricing", "arguments": {"manifest": "flux2.toml"}}
    *_, refused = messages(people.team.call(era, "tools/call", far, token=people.ben.token))
    assert "flux2-mcp login --team URL" in refused["result"]["content"][0]["text"]
    (image,) = answer["result"]["structuredContent"]["tasks"][0]["images"]
    assert "path" not in image
    assert httpx2.get(image["url"], verify=TLS, timeout=DEADLINE).status_code == 200
    text = json.dumps(answer)
    assert image["url"] in answer["result"]["content"][0]["text"]
    assert people.env["FLUX2_HOME"] not in text
    assert "file://" not in text
    key = urlsafe_b64decode(urlsplit(image["url"]).path.split("/")[2] + "==").decode()
    read = {"uri": f"flux2://images/{key}"}
    *_, whole = messages(people.team.call(era, "resources/read", read, token=people.ben.token))
    (content,) = whole["result"]["contents"]
    assert len(content["blob"]) > image["size_bytes"]
    with closing(sqlite3.connect(Path(people.env["FLUX2_HOME"]) / "journal.sqlite3")) as journal, journal:
        size = "json_set(images, '$[0].size_bytes', 70 * 1048576)"
        assert journal.execute(f"UPDATE task SET images = {size} WHERE key = ?", (key,)).rowcount == 1  # noqa: S608
    *_, large = messages(people.team.call(era, "resources/read", read, token=people.ben.token))
    said = large["error"]["message"]
    assert "The image has 70 MB" in said
    assert people.env["FLUX2_HOME"] not in json.dumps(large)
    (url,) = re.findall(r"http\S+(?=;)", said)
    assert httpx2.get(url, verify=TLS, timeout=DEADLINE).status_code == 200


def picture(colour: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (640, 480), colour).save(file, "PNG")
    return file.getvalue()


def call(people: People, who: Caller, name: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401  # any JSON
    answer = people.team.call(MODERN, "tools/call", {"name": name, "arguments": arguments}, token=who.token)
    *_, message = messages(answer)
    result: dict[str, Any] = message["result"]
    return result


def test_a_file_of_a_laptop_is_uploaded_and_named_as_a_source_by_its_person_alone(people: People) -> None:
    sent = people.ben.http.post("/uploads", content=picture("teal"))
    assert sent.status_code == 201, sent.text
    source = sent.json()["source"]
    assert re.fullmatch(r"upload:[\w-]{22}", source)
    made = call(people, people.ben, "generate", prompt="in snow", source_images=[source])
    (task,) = made["structuredContent"]["tasks"]
    assert (task["status"], task["action"], task["sources"][0]["source"]) == ("completed", "remix_image", source)
    texts = [
        call(people, people.ada, "generate", prompt="in snow", source_images=[name])["content"][0]["text"]
        for name in (source, "upload:nobody")
    ]
    assert texts[0].replace(source, "upload:nobody") == texts[1]
    assert "is no upload of yours" in texts[1]
    again = people.ben.http.post("/uploads", content=picture("teal")).json()["source"]
    assert again != source


@rows(
    ("content", "status", "says"),
    [
        (b"", 422, "is empty"),
        (b"no picture at all", 422, "The file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), 422, "The file"),
        (bytes(32 * 2**20 + 1), 413, "larger than 32 MB"),
    ],
    ids=["nothing", "text", "broken", "huge"],
)
def test_what_is_no_source_is_refused_before_it_is_uploaded(
    people: People, content: bytes, status: int, says: str
) -> None:
    answer = people.ben.http.post("/uploads", content=content)
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text
    assert httpx2.post(f"{people.team.base}/uploads", content=b"x", verify=TLS, timeout=DEADLINE).status_code == 401


def test_the_vendors_sdk_works_through_it(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runapi.core.resource.PollingOptions", lambda: POLLING)
    client = Flux2Client(api_key=people.ben.token, base_url=people.team.base)
    with closing(client._http):
        done = client.text_to_image.run(model=PRO, prompt="a fox of the SDK")
        assert httpx2.get(done.images[0].url, verify=TLS, timeout=DEADLINE).status_code == 200
        with pytest.raises(NotFoundError):
            client.text_to_image.get("nobody")


def test_flux2_mcp_on_a_laptop_keeps_everything_there_and_pays_through_the_team(
    laptop: dict[str, str], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    made = flux2_mcp(laptop, "generate", "a lighthouse", "--save-to", "hero.png", cwd=work)
    assert made.returncode == 0, made.stderr
    remixed = flux2_mcp(laptop, "remix", "in snow", "hero.png", "--save-to", "snow.png", cwd=work)
    assert remixed.returncode == 0, remixed.stderr
    assert sorted(each.name for each in work.iterdir()) == ["hero.png", "snow.png"]
    finished = flux2_mcp(laptop, "generate", "a bell", "--background", "transparent", "--save-to", "bell.png", cwd=work)
    assert finished.returncode == 0, finished.stderr
    with Image.open(work / "bell.png") as bell:
        assert bell.mode == "RGBA"


def test_a_token_is_kept_with_its_teams_address_and_leaves_with_it(people: People, laptop: dict[str, str]) -> None:
    env = {name: value for name, value in laptop.items() if not name.startswith("RUNAPI_")}
    config = Path(env["HOME"]) / ".config" / "runapi" / "config.json"
    refused = flux2_mcp(env, "login", "--team", people.team.base, "--stdin", given="flux2_wrong")
    assert (refused.returncode, config.exists()) == (2, False)
    assert "flux2-mcp team token create" in refused.stderr
    with Provider() as site:  # any other server
        address = site.issuer.removesuffix(urlsplit(site.issuer).path)
        elsewhere = flux2_mcp(env, "login", "--team", address, "--stdin", given=people.ben.token)
    assert (elsewhere.returncode, config.exists()) == (5, False)
    assert "no server for a team" in elsewhere.stderr
    assert "--public-url" in elsewhere.stderr
    for url in ("ftp://x", "http://flux2.example.com", "https://u:p@x", "https://x?y", "https://x/api"):
        assert flux2_mcp(env, "login", "--team", url, "--stdin", given=people.ben.token).returncode == 4
    done = flux2_mcp(env, "login", "--team", f"{people.team.base}/mcp", "--stdin", given=people.ben.token)
    assert done.returncode == 0, done.stderr
    assert people.ben.token not in done.stdout + done.stderr
    kept = json.loads(config.read_text("utf-8"))
    assert (kept["api_key"], kept["base_url"]) == (people.ben.token, people.team.base)
    said = json.loads(flux2_mcp(env, "whoami", "--json").stdout)
    assert said["base_url"] == people.team.base
    assert f"ok    base URL        {people.team.base} answers" in flux2_mcp(env, "doctor").stdout
    elsewhere = flux2_mcp(
        env | {"RUNAPI_BASE_URL": "http://127.0.0.1:9"},
        "login",
        "--team",
        people.team.base,
        "--stdin",
        given=people.ben.token,
    )
    assert f"goes before {people.team.base}: unset it" in elsewhere.stderr
    assert flux2_mcp(env, "logout").returncode == 0
    assert json.loads(config.read_text("utf-8")) == {}
    config.write_text(json.dumps({"base_url": "https://own.example.com"}), "utf-8")
    other = flux2_mcp(env, "login", "--team", people.team.base, "--stdin", given=people.ben.token)
    assert (other.returncode, "base_url of its own" in other.stderr) == (4, True)
    assert re.fullmatch(r'\{"base_url": "https://own.example.com"\}', config.read_text("utf-8"))
