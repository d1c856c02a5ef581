"""Two people and an admin on one server of a team: each sees their own tasks, and those of others are as if they were not there.

`FORMS` has every way to name a task, `ASKS` every call that takes such a name, and `LOOKS` those that take none. What is asked as
somebody else has to answer letter by letter what it answers for a name that nobody has. `test_nothing_is_left_out` fails
where the server has a tool, an argument, a resource, a prompt or a method that is in none of them.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import httpx2
import mcp_types
import pytest
from mcp_types import METHOD_NOT_FOUND

from flux2_mcp.domain.lifecycle import STATUSES
from flux2_mcp.domain.people import Person
from flux2_mcp.engine.submission import own
from flux2_mcp.errors import shortened
from flux2_mcp.sandbox.server import Sandbox
from flux2_mcp.server import gallery
from flux2_mcp.server.tasks_extension import ID, TasksExtension
from tests.support import forked
from tests.support.provider import ADMINS, MEMBERS, Provider
from tests.support.rows import each_row, rows
from tests.support.stdio import ERAS, LEGACY, MODERN, hello
from tests.support.team import Team, team_environment, until
from tests.support.web import messages

ADA, BEN, ADMIN = {"sub": "ada"}, {"sub": "ben"}, {"sub": "root", "groups": [MEMBERS, ADMINS]}
TASKS: dict[str, Any] = {"extensions": {ID: {}}}
DEADLINE = 60.0
OPEN, DONE, REFUSED = "a quiet harbour [sandbox:stuck]", "a violet fox", "a grey owl [sandbox:insufficient_credits]"
CHOSEN = "harbour-of-ada"
MONTHLY = "FLUX2_PERSON_MONTHLY_BUDGET_USD"
Params = dict[str, Any]


class People:
    """Who calls, and what came of it."""

    def __init__(self, team: Team, runapi: Sandbox, env: Mapping[str, str]) -> None:
        self.team, self.runapi, self.env, self.home = team, runapi, env, Path(env["FLUX2_HOME"])
        self.walked: set[str] = set()
        """Every method, tool, argument, template and prompt that was asked with."""
        self.done, self.open, self.refused = (
            self.made(ADA, DONE),
            self.made(ADA, OPEN, idempotency_key=CHOSEN, wait_seconds=0),
            self.made(ADA, REFUSED),
        )
        self.bens = self.made(BEN, "a red kite")["task_id"]

    def answer(self, era: str, who: Mapping[str, Any], method: str, params: Params) -> dict[str, Any]:
        """The result of a call, or its error."""
        self.walked.add(method)
        if "ref" in params:
            ref = params["ref"]
            self.walked.add(f"completion of {ref.get('uri') or ref.get('name')}: {params['argument']['name']}")
        elif method == "tools/call":
            self.walked |= {f"{params['name']}: {name}" for name in params["arguments"]}
        elif method == "prompts/get":
            self.walked |= {f"prompt {params['name']}: {name}" for name in params["arguments"]}
        named = params.get("taskId") or params.get("uri") or params.get("name")
        headers = {"Mcp-Name": quote(named, safe="+:/?=&-._~")} if era == MODERN and isinstance(named, str) else {}
        found = self.team.call(
            era, method, params, token=self.team.token(**who), capabilities=TASKS if "/" in method and "taskId" in params else None,
            headers=headers,
        )  # fmt: skip
        *_, answer = messages(found)
        result: dict[str, Any] = answer.get("result") or answer["error"]
        return result

    def tool(self, who: Mapping[str, Any], name: str, era: str = MODERN, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401  # any JSON
        return self.answer(era, who, "tools/call", {"name": name, "arguments": arguments})

    def made(self, who: Mapping[str, Any], prompt: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401  # as above
        """What became of a picture: the first task of the answer; without one, its text."""
        result = self.tool(who, "generate", prompt=prompt, preview=False, **more)
        tasks = result.get("structuredContent", {}).get("tasks")
        return dict(tasks[0]) if tasks else {"text": result["content"][0]["text"]}

    def listed(self, who: Mapping[str, Any], **arguments: Any) -> set[str]:  # noqa: ANN401  # as above
        tasks = self.tool(who, "check_task", limit=100, **arguments)["structuredContent"].get("tasks", [])
        return {task["task_id"] for task in tasks}

    def rows(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"{(self.home / 'journal.sqlite3').as_uri()}?mode=ro", uri=True)) as journal:
            return journal.execute(sql, values).fetchall()

    def person(self, who: Mapping[str, Any]) -> str:
        assert isinstance(self.team.provider, Provider)
        return Person(issuer=self.team.provider.issuer, subject=who["sub"]).key

    def secrets(self) -> set[str]:
        """What no answer to another person may hold: of Ada's tasks, whatever names them or shows what is in them."""
        found = {"violet", "harbour", "grey owl", CHOSEN, self.person(ADA)}
        for key, task_id, images, urls in self.rows(
            "SELECT key, task_id, images, urls FROM task WHERE person = ?", self.person(ADA)
        ):
            found |= {key, task_id or key, *json.loads(urls)}
            for image in json.loads(images):
                found |= {image["path"], Path(image["path"]).name, image["sha256"]}
        return found


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    folder = tmp_path_factory.mktemp("people")
    with Sandbox(folder / "elsewhere", speed=1000, rate=None) as runapi, Provider() as provider:
        env = team_environment(
            folder, RUNAPI_API_KEY=runapi.api_key, RUNAPI_BASE_URL=runapi.base_url, FLUX2_OIDC_ADMIN_GROUP=ADMINS,
            **{MONTHLY: "1000"},
        )  # fmt: skip
        with Team(env, provider) as team:
            yield People(team, runapi, env)


# --- how a task can be named ------------------------------------------------------------------------------------------

FORMS: dict[str, Callable[[People], str]] = {
    "the id": lambda people: people.done["task_id"],
    "the id of an open one": lambda people: people.open["task_id"],
    "the beginning of the id": lambda people: people.done["task_id"][:8],
    "the id in capitals": lambda people: people.done["task_id"].upper(),
    "the id with a blank": lambda people: f" {people.done['task_id']}",
    "the key as it is recorded": lambda people: str(
        people.rows("SELECT key FROM task WHERE task_id = ?", people.open["task_id"])[0][0]
    ),
    "a key that was made here": lambda people: str(
        people.rows("SELECT key FROM task WHERE task_id = ?", people.done["task_id"])[0][0]
    ),
    "the key of one that has no id": lambda people: str(
        people.rows("SELECT key FROM task WHERE task_id IS NULL AND person = ?", people.person(ADA))[0][0]
    ),
    "the key as it was chosen": lambda _: CHOSEN,
    "the key of a second picture": lambda people: f"{own(CHOSEN, people.person(ADA))}-2",
    "the key of a step": lambda people: f"{own(CHOSEN, people.person(ADA))}.1",
    "adopted-": lambda people: f"adopted-{people.done['task_id']}",
    "the file": lambda people: _image(people)["path"],
    "the file's address": lambda people: Path(_image(people)["path"]).as_uri(),
    "the SHA-256 of the file": lambda people: str(_image(people)["sha256"]),
}


def _image(people: People) -> dict[str, Any]:
    ((images,),) = people.rows("SELECT images FROM task WHERE task_id = ?", people.done["task_id"])
    found: dict[str, Any] = json.loads(images)[0]
    return found


IN_BOTH_ERAS = {"the id", "the key as it is recorded", "the key as it was chosen", "the file"}
"""What comes of a name is the same code in both eras: so one of each kind does for the older one."""
TURNED = str.maketrans("0123456789abcdef", "123456789abcdef0")


def nobodys(name: str, people: People) -> str:
    """A name of the same form that no task has."""
    if name.startswith(("/", "file:")):
        head, _, last = name.rpartition("/")
        return f"{head}/{last.translate(TURNED)}"
    turned = name.translate(TURNED)
    assert not people.rows("SELECT 1 FROM task WHERE ? IN (key, task_id)", turned)
    return turned


# --- the calls that take the name of a task ---------------------------------------------------------------------------


def check(**arguments: object) -> tuple[str, Params]:
    return "tools/call", {"name": "check_task", "arguments": arguments}


def generate(**arguments: object) -> tuple[str, Params]:
    return "tools/call", {"name": "generate", "arguments": {"max_cost_usd": 1, "wait_seconds": 0} | arguments}


def completion(of: str, name: str, value: str) -> tuple[str, Params]:
    ref = {"type": "ref/resource", "uri": of} if "://" in of else {"type": "ref/prompt", "name": of}
    return "completion/complete", {"ref": ref, "argument": {"name": name, "value": value}}


TASK, IMAGE = "flux2://tasks/{id}", "flux2://images/{id}{?max}"
ASKS: dict[str, Callable[[People, str], tuple[str, Params]]] = {
    "check_task": lambda _, name: check(task_ids=[name]),
    "check_task that waits": lambda _, name: check(task_ids=[name], wait_seconds=0.1),
    "check_task beside an own one": lambda people, name: check(task_ids=[people.bens, name]),
    "check_task before": lambda _, name: check(before=name),
    "check_task of a file": lambda _, name: check(file=name),
    "a source": lambda _, name: generate(prompt="a fox in snow", source_images=[f"task:{name}"]),
    "a source by its path": lambda _, name: generate(prompt="a fox in snow", source_images=[name]),
    "a picture to cut out": lambda _, name: generate(background="transparent", source_images=[f"task:{name}"]),
    "a manifest": lambda _, name: generate(manifest=name),
    "the price of a manifest": lambda _, name: (
        "tools/call", {"name": "check_pricing", "arguments": {"manifest": name}},
    ),
    "the resource": lambda _, name: ("resources/read", {"uri": f"flux2://tasks/{quote(name, safe='')}"}),
    "the image": lambda _, name: ("resources/read", {"uri": f"flux2://images/{quote(name, safe='')}"}),
    "the image, small": lambda _, name: ("resources/read", {"uri": f"flux2://images/{quote(name, safe='')}?max=64"}),
    "a page of resources": lambda _, name: (
        "resources/list", {"cursor": urlsafe_b64encode(name.encode()).decode()},
    ),
    "the completion of an id": lambda _, name: completion(TASK, "id", name),
    "the completion of an image's id": lambda _, name: completion(IMAGE, "id", name),
    "the completion of a source": lambda _, name: completion("remix", "source_images", f"task:{name}"),
    "a prompt": lambda _, name: (
        "prompts/get", {"name": "remix", "arguments": {"prompt": "in snow", "source_images": f"task:{name}"}},
    ),
    **{
        method: lambda _, name, method=method: (method, {"taskId": quote(name, safe="")})  # type: ignore[misc]
        for method in ("tasks/get", "tasks/cancel", "tasks/update")
    },
    "tasks/get beside an own one": lambda people, name: (
        "tasks/get", {"taskId": f"{people.bens}+{quote(name, safe='')}"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("era", ERAS)
def test_a_task_of_somebody_else_is_answered_like_one_that_nobody_has(people: People, era: str) -> None:
    secrets, polls = (
        people.secrets(),
        {task.id: task.polls for task in people.runapi.tasks() if task.ends_at is not None},
    )
    creates = people.runapi.creates()
    with each_row() as row:
        for form, named in FORMS.items():
            if era == LEGACY and form not in IN_BOTH_ERAS:
                continue
            name = named(people)
            unknown = nobodys(name, people)
            for what, ask in ASKS.items():
                if era == LEGACY and what.startswith("tasks/"):
                    continue
                with row(f"{form}: {what}"):
                    theirs, nobody = (
                        nameless(json.dumps(people.answer(era, BEN, *ask(people, each)), ensure_ascii=False), each)
                        for each in (name, unknown)
                    )
                    assert theirs == nobody
                    assert not {each for each in secrets if each in theirs}
    # RunAPI was not asked about any of them, and nothing was made.
    assert people.runapi.creates() == creates
    assert {task.id: task.polls for task in people.runapi.tasks() if task.ends_at is not None} == polls


def nameless(said: str, name: str) -> str:
    """An answer without the name that was asked with, however it is written."""
    for form in (name, f"task:{name}", name.removeprefix("file://")):
        for text in (quote(form, safe=""), form, shortened(form)):
            said = said.replace(text, "NAME")
    return said


# --- the calls that take none -----------------------------------------------------------------------------------------


def looks(people: People, era: str) -> Iterator[tuple[str, Params]]:
    """Every call without the name of a task: each tool with each argument, each list, resource, completion and prompt."""
    filters: list[dict[str, Any]] = [
        {}, {"limit": 100}, {"since": "7d"}, {"query": "fox"}, {"query": "harbour"}, {"workspace": str(people.home)},
        {"workspace": "."}, {"workspace": "/"}, {"wait_seconds": 0.1}, *({"status": one} for one in dict.fromkeys(STATUSES.values())),
    ]  # fmt: skip
    for each in filters:
        yield check(**each)
    yield "tools/call", {"name": "list_variants", "arguments": {"variant": "pro", "action": "remix_image"}}
    priced: dict[str, object]
    for priced in ({}, {"variant": "pro", "action": "text_to_image", "output_resolution": "1k", "count": 2}):
        yield "tools/call", {"name": "check_pricing", "arguments": priced}
    yield generate(
        prompt="a blue heron", variant="pro", aspect_ratio="1:1", output_resolution="1k", enable_safety_checker=True,
        count=1, preview=True, idempotency_key="of-ben",
    )  # fmt: skip
    yield generate(prompt="a blue heron", upscale=2, callback_url="ftp://nowhere")
    yield generate(prompt="a blue heron", save_to="violet.png", overwrite=True)
    for method in ("tools/list", "prompts/list", "resources/templates/list", "resources/list"):
        yield method, {}
    yield ("initialize", hello({})) if era == LEGACY else ("server/discover", {})
    for resource in people.answer(era, BEN, "resources/list", {})["resources"]:
        yield "resources/read", {"uri": resource["uri"]}
    yield "resources/read", {"uri": gallery.URI}
    for name, argument in arguments_of_completions(people, era):
        for value in ("", "t", "task:"):
            yield completion(name, argument, value)
    for prompt in people.answer(era, BEN, "prompts/list", {})["prompts"]:
        values = {"language": "python", "action": "remix_image", "variant": "pro", "variants": "pro, flex", "aspect_ratio": "1:1",
                  "output_resolution": "1k", "source_images": "https://example.com/a.png"}  # fmt: skip
        given = {one["name"]: values.get(one["name"], "a heron") for one in prompt["arguments"]}
        yield "prompts/get", {"name": prompt["name"], "arguments": given}


def arguments_of_completions(people: People, era: str) -> Iterator[tuple[str, str]]:
    for prompt in people.answer(era, BEN, "prompts/list", {})["prompts"]:
        yield from ((prompt["name"], one["name"]) for one in prompt["arguments"])
    for template in people.answer(era, BEN, "resources/templates/list", {})["resourceTemplates"]:
        uri = template["uriTemplate"]
        names = uri.replace("{?", "{").split("{")[1:]
        yield from ((uri, name.partition("}")[0]) for name in names)


@pytest.mark.parametrize("era", ERAS)
def test_no_list_shows_a_task_of_somebody_else(people: People, era: str) -> None:
    secrets = people.secrets()
    with each_row() as row:
        for method, params in looks(people, era):
            asked = json.dumps(params)
            with row(f"{method} {asked}"):
                said = json.dumps(people.answer(era, BEN, method, params), ensure_ascii=False)
                assert not {each for each in secrets if each in said and each not in asked}
        for words in ("violet fox", "quiet harbour"):
            with row(words):
                found, none = (
                    nameless(json.dumps(people.answer(era, BEN, *check(query=each))), each)
                    for each in (words, words[::-1])
                )
                assert found == none


def test_nothing_is_left_out(people: People) -> None:
    for method, params in (*looks(people, MODERN), *(ask(people, "nothing") for ask in ASKS.values())):
        people.answer(MODERN, BEN, method, params)
    people.answer(LEGACY, BEN, "initialize", hello({}))
    wanted = set()
    for tool in people.answer(MODERN, BEN, "tools/list", {})["tools"]:
        wanted |= {f"{tool['name']}: {argument}" for argument in tool["inputSchema"].get("properties", {})}
    for name, argument in arguments_of_completions(people, MODERN):
        wanted.add(f"completion of {name}: {argument}")
    for prompt in people.answer(MODERN, BEN, "prompts/list", {})["prompts"]:
        wanted |= {f"prompt {prompt['name']}: {one['name']}" for one in prompt["arguments"]}
    own_methods = {method.method for method in TasksExtension().methods()}
    for method in own_methods | {
        get_args(kind.model_fields["method"].annotation)[0] for kind in get_args(mcp_types.ClientRequest)
    }:
        answers = [people.team.call(era, method, {}, headers={"Mcp-Name": "x"}) for era in ERAS]
        if any(_error(answer) != METHOD_NOT_FOUND for answer in answers) and method not in NAMES_NOTHING:
            wanted.add(method)
    templates = people.answer(MODERN, BEN, "resources/templates/list", {})["resourceTemplates"]
    assert {each["uriTemplate"] for each in templates if not each["uriTemplate"].startswith("flux2://docs/")} == {
        TASK,
        IMAGE,
    }
    assert wanted - people.walked == set()


NAMES_NOTHING = {"ping", "logging/setLevel", "subscriptions/listen", "resources/subscribe", "resources/unsubscribe"}
"""Methods whose answers hold nothing of a task. A subscription to a resource is refused, or is never told of anything."""


def _error(answer: httpx2.Response) -> int | None:
    *_, last = messages(answer)
    found = last.get("error", {}).get("code")
    return found if isinstance(found, int) else None


@rows("path", ["/healthz", "/readyz", "/metrics", "/.well-known/oauth-protected-resource/mcp", "/"])
def test_no_route_shows_a_task(people: People, path: str) -> None:
    for token in (None, people.team.token(**BEN)):
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        said = people.team.http.get(path, headers=headers).text
        assert not {each for each in people.secrets() if each in said}


# --- what a person has, and what an admin has -------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_a_person_finds_their_own_tasks_in_every_way(people: People, era: str) -> None:
    for form in (
        "the id",
        "the key as it is recorded",
        "a key that was made here",
        "the key as it was chosen",
        "the key of one that has no id",
    ):
        name = FORMS[form](people)
        found = people.tool(ADA, "check_task", era, task_ids=[name], wait_seconds=0)
        assert not found.get("isError"), (form, found)
        assert "contents" in people.answer(era, ADA, "resources/read", {"uri": f"flux2://tasks/{name}"}), form
    done = people.done["task_id"]
    assert "blob" in people.answer(era, ADA, "resources/read", {"uri": f"flux2://images/{done}"})["contents"][0]
    assert f"task:{done}" in people.answer(era, ADA, *completion("remix", "source_images", ""))["completion"]["values"]
    assert people.listed(ADA, query="harbour") == {people.open["task_id"]}


@pytest.mark.parametrize("era", ERAS)
def test_an_admin_sees_all_and_what_they_make_is_theirs(people: People, era: str) -> None:
    everybodys = {people.done["task_id"], people.open["task_id"], people.bens}
    assert everybodys <= people.listed(ADMIN)
    for form in ("the id", "the id of an open one", "a key that was made here", "the key as it is recorded"):
        name = FORMS[form](people)
        assert not people.tool(ADMIN, "check_task", era, task_ids=[name], wait_seconds=0).get("isError"), form
        assert "contents" in people.answer(era, ADMIN, "resources/read", {"uri": f"flux2://tasks/{name}"})
    image = {"uri": f"flux2://images/{people.done['task_id']}"}
    assert "blob" in people.answer(era, ADMIN, "resources/read", image)["contents"][0]
    uris = {each["uri"] for each in people.answer(era, ADMIN, "resources/list", {})["resources"]}
    assert {f"flux2://tasks/{each}" for each in everybodys} <= uris
    assert everybodys <= {*people.answer(era, ADMIN, *completion(TASK, "id", ""))["completion"]["values"]}
    remixed = people.made(ADMIN, f"in snow, {era}", source_images=[f"task:{people.done['task_id']}"])
    assert remixed["status"] == "completed"
    # The same call as Ada's open one is a task of its own, and neither Ada nor Ben is shown it.
    same = people.made(ADMIN, OPEN, wait_seconds=0)
    assert same["task_id"] not in {*everybodys, *people.listed(ADA), *people.listed(BEN)}


def test_the_same_key_of_two_people_is_two_tasks_each_paid_once(people: People) -> None:
    made = {
        who["sub"]: [people.made(who, "a green finch", idempotency_key="finch")["task_id"] for _ in range(2)]
        for who in (ADA, BEN, ADMIN)
    }
    assert {name: len({*ids}) for name, ids in made.items()} == {"ada": 1, "ben": 1, "root": 1}
    ids = {each for every in made.values() for each in every}
    assert len(ids) == 3
    sent = {task.id: task.idempotency_key for task in people.runapi.tasks() if task.id in ids}
    assert len({*sent.values()}) == 3
    assert "finch" not in sent.values()
    # Another request under a key of one's own is refused as ever; under that of another person it is no reuse.
    assert "was used for another request" in people.made(BEN, "a pale finch", idempotency_key="finch")["text"]
    assert people.made(BEN, "a pale finch", idempotency_key=CHOSEN, wait_seconds=0)["status"]
    assert "printable ASCII" in people.made(BEN, "a pale finch", idempotency_key="fin\u00e9h")["text"]


def test_the_same_call_of_two_people_is_two_tasks(people: People) -> None:
    first = people.made(ADA, "a slow heron [sandbox:stuck]", wait_seconds=0)["task_id"]
    again = people.made(ADA, "a slow heron [sandbox:stuck]", wait_seconds=0)["task_id"]
    bens = people.made(BEN, "a slow heron [sandbox:stuck]", wait_seconds=0)["task_id"]
    assert (again, bens == first) == (first, False)


def test_a_task_made_elsewhere_is_looked_up_for_an_admin_alone(people: People) -> None:
    with httpx2.Client(
        base_url=people.runapi.base_url, headers={"Authorization": f"Bearer {people.runapi.api_key}"}
    ) as http:
        body = {"model": "flux-2-pro-text-to-image", "prompt": "a lost hen"}
        elsewhere = http.post("/api/v1/flux_2/text_to_image", json=body).json()["id"]

    def polls() -> int:
        return next(task.polls for task in people.runapi.tasks() if task.id == elsewhere)

    before = people.tool(BEN, "check_task", task_ids=[elsewhere])
    assert before["isError"]
    assert f"You have no task '{elsewhere}'." in before["content"][0]["text"]
    assert polls() == 0
    assert not people.tool(ADMIN, "check_task", task_ids=[elsewhere], wait_seconds=0).get("isError")
    assert polls() > 0
    for name in (elsewhere, f"adopted-{elsewhere}"):
        said = people.tool(BEN, "check_task", task_ids=[name])["content"][0]["text"]
        assert said == before["content"][0]["text"].replace(elsewhere, name)
    assert elsewhere not in people.listed(BEN)


def test_every_task_is_somebodys(people: People) -> None:
    assert people.rows("SELECT count(*) FROM task WHERE person IS NULL") == [(0,)]
    assert {person for (person,) in people.rows("SELECT person FROM task")} == {
        people.person(each) for each in (ADA, BEN, ADMIN)
    }


# --- who did what -----------------------------------------------------------------------------------------------------


class Entries:
    """What has come into the audit since this was made."""

    def __init__(self, people: People) -> None:
        self._people = people
        ((self._last,),) = people.rows("SELECT coalesce(max(n), 0) FROM audit")

    def new(self) -> list[tuple[Any, ...]]:
        """What, who, the task, whose, the amount, the outcome and the cap of each; people by their subjects."""
        names = {self._people.person(who): who["sub"] for who in (ADA, BEN, ADMIN)} | {None: None}
        columns = "n, what, person, task, whose, usd, outcome, cap"
        rows = self._people.rows(f"SELECT {columns} FROM audit WHERE n > {self._last} ORDER BY n")  # noqa: S608  # a number
        self._last = max([self._last, *(row[0] for row in rows)])
        return [(what, names[person], task, names[whose], *more) for _, what, person, task, whose, *more in rows]


def entry(
    what: str, who: Mapping[str, Any], task: str | None = None, whose: Mapping[str, Any] | None = None
) -> tuple[Any, ...]:
    """What is shown."""
    return (what, who["sub"], task, None if whose is None else whose["sub"], None, "allowed", None)


def pictures(answer: Mapping[str, Any]) -> int:
    """How many images an answer holds."""
    text = json.dumps(answer)
    return text.count('"type": "image"') + text.count('"blob": ')


@pytest.mark.parametrize("era", ERAS)
def test_what_costs_and_what_is_shown_is_written_down_with_who_when_and_from_where(people: People, era: str) -> None:
    entries = Entries(people)
    made = people.tool(ADA, "generate", era, prompt=f"a brown wren, {era}")
    ((task,),) = people.rows("SELECT task_id FROM task WHERE request LIKE ?", f"%a brown wren, {era}%")
    ((key,),) = people.rows("SELECT key FROM task WHERE task_id = ?", task)
    assert (pictures(made), entries.new()) == (
        1,
        [("generate", "ada", key, None, 50_000, "allowed", None), entry("image", ADA, key)],
    )
    ((client, address),) = people.rows("SELECT DISTINCT client, address FROM audit WHERE task = ?", key)
    assert address == "127.0.0.1"
    assert client == "tests 1" if era == MODERN else client.startswith("python-httpx2/")
    seen = entry("image", ADA, key)
    calls: list[tuple[str, Params, Mapping[str, Any], list[tuple[Any, ...]]]] = [
        (*check(task_ids=[task]), ADA, [seen]),
        ("resources/read", {"uri": f"flux2://images/{task}"}, ADA, [seen]),
        ("resources/read", {"uri": f"flux2://images/{task}?max=64"}, ADA, [seen]),
        (*check(limit=2), ADA, [entry("list", ADA)]),
        ("resources/list", {}, BEN, [entry("list", BEN)]),
        ("resources/read", {"uri": "flux2://tasks"}, BEN, [entry("list", BEN)]),
        (*completion(TASK, "id", ""), BEN, [entry("list", BEN)]),
        # One's own task without its image, and what is refused as if it were not there, show nothing.
        ("resources/read", {"uri": f"flux2://tasks/{task}"}, ADA, []),
        ("resources/read", {"uri": f"flux2://images/{task}"}, BEN, []),
        (*check(task_ids=[task]), BEN, []),
        (*check(task_ids=[task]), ADMIN, [entry("task", ADMIN, key, ADA), entry("image", ADMIN, key, ADA)]),
        ("resources/read", {"uri": f"flux2://tasks/{task}"}, ADMIN, [entry("task", ADMIN, key, ADA)]),
        ("resources/read", {"uri": f"flux2://images/{task}"}, ADMIN, [entry("image", ADMIN, key, ADA)]),
    ]  # fmt: skip
    if era == MODERN:
        calls.append(("tasks/get", {"taskId": quote(task, safe="")}, ADA, [seen]))
    with each_row() as row:
        for method, params, who, wanted in calls:
            with row(f"{who['sub']}: {method} {params}"):
                answer = people.answer(era, who, method, params)
                assert entries.new() == wanted
                assert pictures(answer) == len([one for one in wanted if one[0] == "image"])
    for who, wanted in ((ADA, []), (ADMIN, [entry("task", ADMIN, key, ADA)])):
        assert people.made(who, f"a wren in snow, {era}", source_images=[f"task:{task}"], wait_seconds=0)["task_id"]
        *before, costs = entries.new()
        assert (before, costs[:2]) == (wanted, ("generate", who["sub"]))
    origins = people.rows("SELECT DISTINCT address, client IS NULL FROM audit WHERE person IS NOT NULL")
    assert origins == [("127.0.0.1", 0)]


def test_what_can_not_be_written_down_is_not_shown_and_what_was_paid_is_told(people: People) -> None:
    image = {"uri": f"flux2://images/{people.done['task_id']}"}
    with closing(sqlite3.connect(people.home / "journal.sqlite3", isolation_level=None)) as journal:
        journal.execute(
            "CREATE TRIGGER full_disk BEFORE INSERT ON audit WHEN NEW.what <> 'generate'"
            " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
        try:
            made = people.tool(ADA, "generate", prompt="a grey wagtail")
            refused = [
                people.answer(MODERN, ADA, "resources/read", image),
                people.answer(MODERN, ADMIN, "resources/read", {"uri": f"flux2://tasks/{people.done['task_id']}"}),
                people.answer(MODERN, ADA, *check()),
                people.answer(MODERN, ADA, "resources/list", {}),
                people.answer(MODERN, ADMIN, *check(task_ids=[people.done["task_id"]])),
            ]
            own = people.tool(ADA, "check_task", task_ids=[people.open["task_id"]], wait_seconds=0)
        finally:
            journal.execute("DROP TRIGGER full_disk")
    why = "Nothing is shown, because the audit of it could not be written"
    assert (pictures(made), made["structuredContent"]["tasks"][0]["status"]) == (0, "completed")
    assert why in made["content"][-1]["text"]
    for answer in refused:
        assert why in json.dumps(answer)
        assert "violet" not in json.dumps(answer)
        assert pictures(answer) == 0
    assert own["structuredContent"]["tasks"][0]["task_id"] == people.open["task_id"]
    assert pictures(people.answer(MODERN, ADA, "resources/read", image)) == 1


def command(people: People, *arguments: str) -> tuple[int, str, str]:
    """Run in a shell of whoever runs the server, which does not have the server's caps."""
    env = {name: value for name, value in people.env.items() if name != MONTHLY}
    done = forked.run([sys.executable, "-m", "flux2_mcp", "team", *arguments], env, timeout=DEADLINE)
    return done.returncode, done.stdout, done.stderr


def test_who_runs_the_server_sees_who_called_and_gives_caps_that_hold_from_the_next_call(people: People) -> None:
    entries = Entries(people)
    code, out, _ = command(people, "people", "--json")
    listed = {each["subject"]: each for each in json.loads(out)["people"]}
    assert (code, {"ada", "ben"} <= set(listed)) == (0, True)
    ada = listed["ada"]
    assert (ada["person"], ada["admin"], ada["own_caps"]) == (people.person(ADA), False, False)
    assert ada["day_usd"] == ada["month_usd"] > 0
    assert (ada["day_cap_usd"], ada["month_cap_usd"]) == (None, 1000.0)  # those of the server, wherever this is run
    code, out, _ = command(people, "people")
    assert f"Caps are those of the server that started last, at {ada['caps_told_at']}, and each person's own." in out
    code, out, _ = command(people, "caps", "ada", "--daily", "0.01")
    assert (code, "$0.01" in out) == (0, True)
    said = people.made(ADA, "a picture beyond the cap")["text"]
    assert "FLUX2_PERSON_DAILY_BUDGET_USD is $0.01 and $0.00 of it is left" in said
    assert "whoever runs the server raises it" in said
    assert people.made(BEN, "a picture of another person")["task_id"]
    code, out, _ = command(people, "caps", ada["person"][:8], "--daily", "default", "--json")
    assert (code, json.loads(out)["day_cap_usd"]) == (0, None)
    assert people.made(ADA, "a picture beyond the cap")["task_id"]
    rows = [row for row in entries.new() if row[0] != "image"]
    daily = "FLUX2_PERSON_DAILY_BUDGET_USD"
    assert rows[:2] == [
        ("caps", None, None, "ada", 10_000, "allowed", daily),
        ("generate", "ada", None, None, 50_000, "refused", daily),
    ]
    assert [(what, who, outcome) for what, who, _, _, _, outcome, _ in rows[2:]] == [
        ("generate", "ben", "allowed"),
        ("caps", None, "allowed"),
        ("generate", "ada", "allowed"),
    ]
    code, out, _ = command(people, "audit", "--person", "ada", "--refused", "--json")
    (refused,) = json.loads(out)["entries"]
    assert (code, refused["person"], refused["cap"], refused["usd"]) == (0, ada["person"], daily, 0.05)
    code, out, err = command(people, "caps", "nobody", "--daily", "1")
    assert (code, out) == (4, "")
    assert "nobody who has called" in err
    assert "Traceback" not in err


def test_a_call_that_costs_more_than_its_caller_allows_is_refused_in_the_audit(people: People) -> None:
    entries = Entries(people)
    assert "max_cost_usd allows $0.01" in people.made(BEN, "a dear wren", max_cost_usd=0.01)["text"]
    assert entries.new() == [("generate", "ben", None, None, None, "refused", None)]


def test_a_program_with_a_personal_token_is_a_person_of_its_own_with_its_cap_until_the_token_is_revoked(
    people: People,
) -> None:
    code, out, _ = command(people, "token", "create", "nightly-build", "--days", "30", "--daily", "0.09", "--json")
    made = json.loads(out)
    token, ident = made["token"], made["id"]
    assert (code, made["name"], made["state"]) == (0, "nightly-build", "live")

    def call(name: str, token: str = token, **arguments: Any) -> httpx2.Response:  # noqa: ANN401  # any JSON
        return people.team.call(MODERN, "tools/call", {"name": name, "arguments": arguments}, token=token)

    def result(name: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401  # any JSON
        *_, answer = messages(call(name, **arguments))
        found: dict[str, Any] = answer["result"]
        return found

    (task,) = result("generate", prompt="a quiet night", preview=False)["structuredContent"]["tasks"]
    over = result("generate", prompt="a second night, two megapixels", preview=False, count=2)
    assert "FLUX2_PERSON_DAILY_BUDGET_USD is $0.09" in over["content"][0]["text"]
    assert [each["task_id"] for each in result("check_task")["structuredContent"]["tasks"]] == [task["task_id"]]
    assert task["task_id"] not in people.listed(BEN)
    assert people.done["task_id"] not in {
        each["task_id"] for each in result("check_task")["structuredContent"]["tasks"]
    }
    # A second token of the same name is the same person; the first is not kept, and so is not shown.
    again = json.loads(command(people, "token", "create", "nightly-build", "--monthly", "5", "--json")[1])
    *_, answer = messages(call("check_task", again["token"]))
    assert answer["result"]["structuredContent"]["tasks"][0]["task_id"] == task["task_id"]
    listed = command(people, "token", "list")[1]
    assert token not in listed
    assert [line.split()[:3] for line in listed.splitlines()[1:]] == [
        [again["id"], "nightly-build", "live"],
        [ident, "nightly-build", "live"],
    ]
    assert people.rows(
        "SELECT count(*) FROM token WHERE digest LIKE ? OR name LIKE ?", f"%{token[6:]}%", f"%{token[6:]}%"
    ) == [(0,)]
    listed = {each["subject"]: each for each in json.loads(command(people, "people", "--json")[1])["people"]}[
        "nightly-build"
    ]
    assert (listed["day_cap_usd"], listed["month_cap_usd"], listed["issuer"], listed["admin"]) == (
        0.09,
        5.0,
        "token",
        False,
    )
    assert "revoked" in command(people, "token", "revoke", ident)[1]
    until(lambda: call("check_task").status_code == 401)
    assert "was revoked" in call("check_task").headers["WWW-Authenticate"]
    assert call("check_task", again["token"]).status_code == 200
    assert command(people, "token", "revoke", "0" * 8)[0] == 4
    for name, days in ((" x", "1"), ("x" * 101, "1"), ("a\nb", "1"), ("x", "0"), ("x", "99999")):
        code, out, err = command(people, "token", "create", name, "--days", days)
        assert (code, out, "Traceback" in err) == (4, "", False)
