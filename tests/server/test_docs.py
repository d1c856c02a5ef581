"""The documents: found, read, true to the catalogue and to the code that they speak of."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, TextResourceContents
from msgspec.structs import replace

from flux2_mcp import errors
from flux2_mcp.domain import catalog, finishing, lifecycle, pricing
from flux2_mcp.domain.budget import dollars
from flux2_mcp.domain.catalog import Field, Model
from flux2_mcp.domain.models import RequestArgs
from flux2_mcp.domain.pricing import PriceBook
from flux2_mcp.errors import ApiError
from flux2_mcp.runapi import retry
from flux2_mcp.runapi.responses import Response, failure
from flux2_mcp.runapi.wire import MAX_ID_CHARS
from flux2_mcp.sandbox import uploads
from flux2_mcp.sandbox.scenarios import SCENARIOS
from flux2_mcp.server.docs import examples, index, prompting, reference, schemas, uris
from tests.project.test_readme import DOCUMENTS
from tests.server.conftest import BOTH_ERAS
from tests.support.markdown import plain, table
from tests.support.rows import each_row

LISTED = [document for document in index.documents().values() if document.listed]
EVERY = list(index.documents().values())
MODELS = catalog.models()


def another_catalogue() -> dict[str, Model]:
    """pro has learnt a ratio, costs more and takes longer prompts."""

    def changed(model: Model) -> Model:
        if model.variant != "pro":
            return model
        ratio, prompt = model.fields["aspect_ratio"], model.fields["prompt"]
        fields = {"aspect_ratio": replace(ratio, enum=(*ratio.enum, "21:9")), "prompt": replace(prompt, high=6001)}
        cents = {name: value + 36 for name, value in model.published_cents.items()}
        return replace(model, fields={**model.fields, **fields}, published_cents=cents)

    return {name: changed(model) for name, model in MODELS.items()}


# --- found and read ---


@pytest.mark.anyio
async def test_every_document_is_listed_before_the_tasks_and_read_as_it_was_listed(client: Client) -> None:
    listed = (await client.list_resources()).resources
    assert [resource.uri for resource in listed] == [document.uri for document in LISTED] + ["flux2://tasks"]
    for document in EVERY:
        (contents,) = (await client.read_resource(document.uri)).contents
        assert isinstance(contents, TextResourceContents)
        assert (contents.mime_type, contents.text) == (document.mime_type, document.text())


@pytest.mark.anyio
@BOTH_ERAS
async def test_what_is_no_document_is_not_found_in_words_of_ours(client: Client) -> None:
    for uri in (
        "flux2://docs",
        "flux2://docs/",
        "flux2://docs/API",
        "flux2://docs/quickstart/cobol",
        "flux2://docs/models/flux-3/request.schema.json",
        "flux2://docs/../tasks",
        "flux2://[",
        "file:///etc/passwd",
        "flux2://docs/" + "x" * 5000,
    ):
        with pytest.raises(MCPError) as caught:
            await client.read_resource(uri)
        assert caught.value.error.code == INVALID_PARAMS, uri
        assert caught.value.error.message == "No such resource; resources/list and its templates name what there is."


@pytest.mark.anyio
async def test_the_instructions_say_where_the_documents_begin(client: Client) -> None:
    assert client.instructions is not None
    assert uris.API in client.instructions


@pytest.mark.anyio
async def test_listing_writes_no_document(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> str:
        raise AssertionError("written without being read")

    index.documents.cache_clear()
    for module, name in (
        (reference, "api"),
        (reference, "prices"),
        (reference, "error_table"),
        (reference, "sandbox"),
        (examples, "quickstart"),
        (examples, "webhook"),
        (examples, "polling"),
        (schemas, "request"),
        (schemas, "task"),
    ):
        monkeypatch.setattr(module, name, write)
    assert len((await client.list_resources()).resources) == len(LISTED) + 1
    index.documents.cache_clear()


# --- what stands in them ---


def test_every_address_in_a_document_leads_somewhere_and_nothing_is_left_to_fill_in() -> None:
    templates = {template.uri_template for template in index.TEMPLATES} | {uris.quickstart("LANGUAGE")}
    for document in EVERY:
        text = document.text()
        for uri in re.findall(r"flux2://[\w./{}-]*[\w}]", text):
            assert uri in index.documents() or uri in templates, (document.name, uri)
        assert re.findall(r"@[A-Z]+@", text) == [], document.name


def test_the_page_for_builders_names_every_kind_of_document() -> None:
    patterns = [
        re.sub(r"\\{\w+\\}", "[^/]+", re.escape(uri)) for uri in re.findall(r"`(flux2://docs[^`]*)`", DOCUMENTS)
    ]
    assert all(any(re.fullmatch(pattern, document.uri) for pattern in patterns) for document in EVERY)
    assert all(any(re.fullmatch(pattern, document.uri) for document in EVERY) for pattern in patterns)


def test_the_guide_to_prompts_has_a_use_for_each_ratio_a_source_for_its_advice_and_a_prompt_that_fits() -> None:
    assert set(prompting.RATIOS) == set(catalog.allowed_values("aspect_ratio"))
    text = prompting.guide()
    assert all(rule in text for rule in prompting.RULES)
    assert {link for link, _ in prompting.SOURCES} <= set(re.findall(r"https://[\w./-]+", text))
    [block] = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    [model] = [each for each in MODELS.values() if each.variant == "pro" and each.action == "text_to_image"]
    Draft202012Validator(schemas.request(model)).validate({"model": model.id, "prompt": block})


def test_the_documents_say_how_what_is_transparent_or_larger_is_asked_for() -> None:
    calls = [json.loads(call) for call in re.findall(r'`({"[^`]+})`', prompting.guide())]
    asked = [finishing.steps_of(RequestArgs(**{k: v for k, v in call.items() if k != "save_to"})) for call in calls]
    assert [[step.action.value for step in steps] for steps in asked] == [
        ["text_to_image", "remove_background"],
        ["upscale_image"],
    ]
    for model in catalog.finishers().values():
        assert f"| `POST /api/v1/{model.line}/{model.action}` | `{model.id}` |" in reference.api()


def test_json_in_a_document_is_json_and_a_request_in_it_is_one_that_the_catalogue_accepts() -> None:
    with each_row() as row:
        for document in EVERY:
            blocks = re.findall(r"```json\n(.*?)```", document.text(), re.DOTALL)
            for block in blocks if document.mime_type == index.MARKDOWN else []:
                with row(document.name):
                    lines = block.splitlines() if block.startswith('{"') else [block]
                    for value in map(json.loads, lines):
                        if "prompt" in value:
                            Draft202012Validator(schemas.request(MODELS[value["model"]])).validate(value)
                        elif "id" in value:
                            Draft202012Validator(schemas.task()).validate(value)


@pytest.mark.parametrize("action", ["text_to_image", "remix_image"])
def test_the_field_tables_say_of_each_model_what_the_catalogue_holds_it_to(action: str) -> None:
    section = reference.api().partition(f"### `{action}`")[2]
    models = [model for model in MODELS.values() if model.action == action]
    rows = {plain(name): cells for name, *cells in table(section, "field")}
    assert set(rows) == {name for model in models for name in model.fields}
    for name, cells in rows.items():
        for model, cell in zip(models, cells, strict=True):
            assert facts(cell) == expected(model, model.fields.get(name)), (model.id, name, cell)


def facts(cell: str) -> dict[str, object]:
    """What a cell says: whether the field is taken, needed, its values, its bounds."""
    values = re.sub(r"default `[^`]*`", "", cell)
    bounds = re.search(r"(?:(\d+) to|exactly) (\d+)", cell)
    return {
        "taken": cell != "not accepted",
        "needed": "required" in cell or cell.startswith("`"),
        "values": re.findall(r"`([^`]*)`", values),
        "bounds": bounds and (int(bounds[1] or bounds[2]), int(bounds[2])),
    }


def expected(model: Model, field: Field | None) -> dict[str, object]:
    if field is None or field.name in model.forbidden:
        return {"taken": False, "needed": False, "values": [], "bounds": None}
    return {
        "taken": True,
        "needed": field.required,
        "values": [model.id] if field.name == "model" else [str(value) for value in field.enum],
        "bounds": None if field.low is None else (field.low, field.high),
    }


def test_the_prices_are_those_that_a_task_is_quoted_with() -> None:
    found = pricing.prices(PriceBook(), variant=None, action=None, output_resolution=None)
    assert [(plain(model), resolution, usd) for model, resolution, usd in table(reference.prices(), "model")] == [
        (
            price.model.id,
            price.output_resolution,
            "only the live schedule knows" if price.usd is None else dollars(price.usd),
        )
        for price in found
    ]


def test_a_status_is_tried_again_exactly_where_the_client_does() -> None:
    told = {
        int(status): again == "yes"
        for statuses, _, again, _ in table(reference.error_table(), "status")
        for status in statuses.split(", ")
    }
    assert told == {status: status in retry.RETRIED_STATUSES for status in reference.HTTP_STATUSES}
    assert set(told) >= retry.RETRIED_STATUSES


def test_there_is_advice_for_each_kind_of_answer() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ApiError)}
    assert set(reference.ADVICE) == kinds - {ApiError, errors.TeamCapError}  # that is no answer of RunAPI's
    for statuses, _, _, advice in table(reference.error_table(), "status"):
        for status in statuses.split(", "):
            error = failure(Response(int(status), {}, b""), now=datetime.now(UTC))
            assert error is not None
            assert advice == reference.ADVICE[type(error)]


def test_the_markers_are_the_sandboxs_own_and_those_to_test_with_exist() -> None:
    text = reference.sandbox()
    assert table(text, "marker") == [[f"`[sandbox:{row.marker}]`", row.does] for row in SCENARIOS]
    advised = re.findall(r"`(\w+)`", text.partition("Test at least: ")[2])
    assert set(advised) <= {row.marker for row in SCENARIOS}


def test_what_is_told_in_words_is_what_the_code_holds_to() -> None:
    text = reference.api()
    assert f"1 to {MAX_ID_CHARS} printable ASCII" in text
    assert f"within {lifecycle.RESULT_LIFETIME.days} days" in text
    assert f"within {catalog.document()['result_url_lifetime_days']} days" in text
    assert "lives for 1 hour" in text
    assert uploads.URL_SECONDS == 3600


def test_what_the_catalogue_learns_the_documents_say() -> None:
    text = {uri: document.text() for uri, document in index.documents_of(another_catalogue()).items()}
    schema = json.loads(text[uris.request_schema("flux-2-pro-remix-image")])
    assert schema["properties"]["aspect_ratio"]["enum"][-1] == "21:9"
    assert schema["properties"]["prompt"]["maxLength"] == 6001
    assert "`21:9`" in text[uris.API]
    assert "3 to 6001 characters" in text[uris.API]
    assert "| `flux-2-pro-text-to-image` | 1k | $0.41 |" in text[uris.PRICES]


@pytest.mark.parametrize("uri", [uris.quickstart("python"), uris.POLLING, uris.WEBHOOK])
def test_python_that_is_served_is_formatted_and_clean(uri: str, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", index.documents()[uri].text(), re.DOTALL)
    file = tmp_path / "program.py"
    file.write_text(program, "utf-8")
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--line-length=120", "--target-version=py39", str(file)]
    for command in (["format", "--check"], ["check", "--select=E,F,W,I,B,UP,SIM,RET,C4,PL", "--ignore=PLR2004"]):
        done = subprocess.run([*ruff, *command, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
