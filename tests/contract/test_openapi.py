"""The sandbox's OpenAPI document says what the sandbox does: by comparison, and by Schemathesis against the running thing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from jsonschema import Draft202012Validator

from flux2_mcp import catalog
from flux2_mcp.context import schemas
from flux2_mcp.sandbox.app import ENDPOINTS
from flux2_mcp.sandbox.uploads import LARGEST, LONGEST_NAME
from tests.contract.sandboxed import Api, running

DOCUMENT: dict[str, Any] = json.loads(files("flux2_mcp.sandbox").joinpath("openapi.json").read_text("utf-8"))
METHODS = {"get", "put", "post"}
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method,ignored_auth,use_after_free"
)
SECONDS = 300


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("home")) as api:
        yield api


def test_the_document_has_each_endpoint_no_other_and_says_which_need_the_key() -> None:
    described = {
        (method.upper(), path, bool(operation["security"]))
        for path, operations in DOCUMENT["paths"].items()
        for method, operation in operations.items()
        if method in METHODS
    }
    assert described == {(each.method, each.path, each.key) for each in ENDPOINTS}


def test_it_is_served_as_it_is_kept_to_anyone(api: Api) -> None:
    answer = api.anyone.get("/openapi.json")
    assert (answer.status_code, answer.json()) == (200, DOCUMENT)


def test_bodies_and_tasks_are_those_that_the_catalogue_has() -> None:
    kept = DOCUMENT["components"]["schemas"]
    built = {model.id: schemas.request(model) for model in catalog.models().values()} | {"Task": schemas.task()}
    # Both name the document that they stand in; here that is this one.
    assert {name: kept[name] for name in built} == {
        name: {key: value for key, value in schema.items() if key not in {"$schema", "$id"}}
        for name, schema in built.items()
    }
    file = DOCUMENT["paths"]["/api/v1/files/prepare"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert file["properties"]["byte_size"]["maximum"] == LARGEST
    assert file["properties"]["filename"]["maxLength"] == LONGEST_NAME
    for schema in kept.values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.hypothesis
def test_whatever_schemathesis_sends_the_answer_is_one_that_the_document_has(api: Api, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{api.sandbox.base_url}/openapi.json",
        "--header", f"Authorization: Bearer {api.sandbox.api_key}",
        "--checks", CHECKS, "--max-examples", str(settings().max_examples // 6), "--seed", "1",
        "--generation-database", "none", "--continue-on-failure", "--warnings", "off", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}".replace(api.sandbox.api_key, "")
    # Where it has the document from, it does not test.
    assert re.search(rf"Tested: +{len(ENDPOINTS) - 1}\b", done.stdout), done.stdout
