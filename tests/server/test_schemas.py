"""The schemas, held to the catalogue from the one side and to what the sandbox answers from the other."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from msgspec.structs import replace

from flux2_mcp.domain import catalog
from flux2_mcp.domain.catalog import Model
from flux2_mcp.domain.models import MAKING
from flux2_mcp.errors import InvalidRequestError
from flux2_mcp.runapi import wire
from flux2_mcp.server.docs import schemas
from tests.support.rows import rows
from tests.support.sandboxed import running

MODELS = list(catalog.models().values())
FIELDS = sorted({name for model in MODELS for name in model.fields} - {"model"})
STRANGE = ["seed", "size", "count", "source_images", "variant", ""]

# Around every bound there is; blank in several ways; beyond the first plane, where lengths are easily miscounted.
TEXTS = ["", "ab", "abc", "x" * 5000, "x" * 5001, "   ", " \t\n ", "\u3000" * 4, "🦊🦊", "🦊🦊🦊", "a b"]
CHOICES = sorted({str(value) for model in MODELS for field in model.fields.values() for value in field.enum})
URLS = st.lists(st.sampled_from(["https://example.com/a.png", "", "no address"]), max_size=10)
# JSON Schema can't tell 1.0 from 1, and JSON text can't carry half a surrogate pair: neither is drawn. None is Python's
# word for "not given", so that a body never holds it.
VALUES = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from(CHOICES),
    st.text(max_size=8),
    URLS,
    st.lists(st.sampled_from([1, True, {}, "https://example.com/a.png"]), max_size=3),
    st.booleans(),
    st.integers(-2, 9),
    st.sampled_from([0.5, -1.5]),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@st.composite
def bodies(draw: st.DrawFn, model: Model, names: list[str]) -> dict[str, Any]:
    """Requests of which about half are right: an example with a few fields changed, added or taken away."""
    body = schemas.example(model)
    for name in draw(st.lists(st.sampled_from(names), max_size=3)):
        if draw(st.booleans()):
            body.pop(name, None)
        else:
            likely = model.fields[name].enum if name in model.fields else ()
            body[name] = draw(st.one_of(st.sampled_from(likely), VALUES) if likely else VALUES)
    return body


def validator(model: Model) -> Draft202012Validator:
    schema = schemas.request(model)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@cache
def known(model_id: str) -> Draft202012Validator:
    return validator(catalog.models()[model_id])


def valid(model: Model, body: dict[str, Any]) -> bool:
    return bool(known(model.id).is_valid(body))


def both_verdicts(verdicts: Counter[bool]) -> bool:
    return min(verdicts[True], verdicts[False]) >= 10


@rows("model", MODELS, ids=lambda model: model.id)
def test_a_body_is_valid_if_and_only_if_the_catalogue_finds_nothing_wrong(model: Model) -> None:
    verdicts: Counter[bool] = Counter()

    @given(bodies(model, FIELDS + STRANGE))
    def holds(body: dict[str, Any]) -> None:
        accepted = not catalog.problems(model, body)
        verdicts[accepted] += 1
        assert valid(model, body) is accepted

    holds()
    assert both_verdicts(verdicts), verdicts


@rows("model", MODELS, ids=lambda model: model.id)
def test_both_agree_on_each_awkward_value_in_each_field(model: Model) -> None:
    urls = [["https://example.com/a.png"] * count for count in (0, 1, 8, 9)]
    values = [*TEXTS, *CHOICES, *urls, [1], True, False, 0, 1, 2, 0.5, {}]
    for name, value in itertools.product(FIELDS + STRANGE, values):
        body = schemas.example(model) | {name: value}
        assert valid(model, body) is (not catalog.problems(model, body)), (name, value)


def test_a_field_that_a_rule_forbids_is_in_no_schema_though_it_be_described() -> None:
    model = replace(catalog.models()["flux-2-pro-text-to-image"], forbidden=frozenset({"callback_url"}))
    body = schemas.example(model) | {"callback_url": "https://example.com/hook"}
    assert (catalog.problems(model, body) == [], validator(model).is_valid(body)) == (False, False)


@rows("model", MODELS, ids=lambda model: model.id)
def test_a_body_is_valid_if_and_only_if_it_becomes_that_very_request(model: Model) -> None:
    verdicts: Counter[bool] = Counter()
    arguments = [name for name in FIELDS if name != "output_count"]  # nobody needs to choose the only count there is

    @given(bodies(model, arguments))
    def holds(body: dict[str, Any]) -> None:
        if body.get("source_image_urls") == []:
            return  # to the tool an empty list is none, to RunAPI it is a list
        given_ = {name: body[name] for name in arguments if name in body}
        try:
            request = catalog.request(**({"prompt": None, "variant": model.id} | given_))
        except InvalidRequestError:
            verdicts[False] += 1
            assert not valid(model, body)
        else:
            verdicts[True] += 1
            assert valid(model, body)
            assert wire.body(request) == body

    holds()
    assert both_verdicts(verdicts), verdicts


@rows("model", MODELS, ids=lambda model: model.id)
def test_the_example_is_valid_for_its_own_model_and_for_no_other(model: Model) -> None:
    assert [other.id for other in MODELS if valid(other, schemas.example(model))] == [model.id]
    assert schemas.request(model)["examples"] == [schemas.example(model)]


def test_defaults_are_told_only_where_a_field_may_be_left_out() -> None:
    told = {
        (model.id, name): schema.get("default")
        for model in MODELS
        for name, schema in schemas.request(model)["properties"].items()
        if name in {"aspect_ratio", "output_resolution"}
    }
    assert told["flux-2-pro-remix-image", "aspect_ratio"] == "1:1"
    assert told["flux-2-max-text-to-image", "aspect_ratio"] is None
    assert told["flux-2-max-text-to-image", "output_resolution"] == "1k"


# --- the task ---

TASK = Draft202012Validator(schemas.task())
COMPLETED = {
    "id": "a",
    "status": "completed",
    "images": [{"url": "https://example.com/a.png"}],
    "usage": {"cost": 0.05},
}


def test_the_tasks_schema_is_one() -> None:
    Draft202012Validator.check_schema(schemas.task())


def test_everything_that_the_sandbox_answers_is_a_task(tmp_path: Path) -> None:
    with running(tmp_path) as api:
        created = api.create("a cat [sandbox:stuck]")
        answers = [created.json(), api.http.get(f"{created.request.url.path}/{created.json()['id']}").json()]
        markers = ("moderation", "no_usage", "instant")
        answers += [api.ended(api.create(f"a cat [sandbox:{marker}]")) for marker in markers]
        answers.append(api.ended(api.create("a cat", source_image_urls=["https://example.com/a.png"])))
    assert {answer["status"] for answer in answers} >= {"completed", "failed"}
    for answer in answers:
        TASK.validate(answer)


@rows(
    "answer",
    [
        {"id": "a"},  # create may leave the status out
        COMPLETED,
        COMPLETED | {"usage": {"cost": 0.05, "cost_cents": 5}, "seen": "lately"},
        {"id": "a", "status": "failed", "error": "moderation"},
    ],
)
def test_what_the_contract_allows_is_a_task(answer: dict[str, Any]) -> None:
    TASK.validate(answer)


@rows(
    "answer",
    [
        {},
        {"id": ""},
        {"id": 7},
        {"id": "a", "status": "succeeded"},
        {"id": "a", "status": "completed"},
        COMPLETED | {"images": []},
        COMPLETED | {"images": [{}]},
        COMPLETED | {"usage": {"cost": -1}},
        {"id": "a", "status": "failed"},
    ],
)
def test_what_says_nothing_or_something_else_is_none(answer: dict[str, Any]) -> None:
    assert not TASK.is_valid(answer)


def test_there_is_a_schema_for_each_action_of_each_variant() -> None:
    assert {(model.variant, model.action) for model in MODELS} == {
        (variant, action) for variant in catalog.variants() for action in MAKING
    }
