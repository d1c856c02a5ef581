"""The sandbox's OpenAPI document says what the sandbox does: by comparison, and by Schemathesis against the running thing."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import settings
from jsonschema import Draft202012Validator

from flux2_mcp.domain import catalog
from flux2_mcp.domain.models import SERVICE
from flux2_mcp.sandbox import app
from flux2_mcp.sandbox.app import ENDPOINTS
from flux2_mcp.sandbox.uploads import MAX_FILE_BYTES, MAX_NAME_CHARS
from flux2_mcp.server.docs import schemas
from tests.support import described
from tests.support.described import DOCUMENT, METHODS
from tests.support.rows import each_row, rows
from tests.support.sandboxed import Api, running

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method,ignored_auth,use_after_free"
)
SECONDS = 300
FILE = Path(app.__file__).with_name("openapi.json")


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


def body(path: str) -> dict[str, Any]:
    schema: dict[str, Any] = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return schema


def is_of_a_model(name: str) -> bool:
    """Whether a schema is that of a body."""
    return "-" in name


def line(service: str) -> dict[str, Any]:
    """The two paths of a line: as FLUX.2's, with its own actions and bodies."""
    first, found = "/api/v1/flux_2/{action}", dict[str, Any]()
    models = [model for model in catalog.all_models().values() if model.service == service]
    for path in (first, f"{first}/{{id}}"):
        item = copy.deepcopy(DOCUMENT["paths"][path])
        for method, operation in item.items():
            action = next(each for each in operation["parameters"] if each.get("name") == "action")
            action["schema"]["enum"] = list(dict.fromkeys(model.action.value for model in models))
            if service != SERVICE:
                operation["operationId"] = f"{operation['operationId']}Of{service.title()}"
            if method == "post":
                schemas = [{"$ref": f"#/components/schemas/{model.id}"} for model in models]
                operation["requestBody"]["content"]["application/json"]["schema"] = {"oneOf": schemas}
        found[path.replace("flux_2", catalog.line_of(service))] = item
    return found


def test_bodies_and_tasks_are_those_that_the_catalogue_has() -> None:
    """What the models have in it is written anew with FLUX2_SNAPSHOTS=write; the difference is reviewed like code."""
    models = catalog.all_models()
    built = {model.id: schemas.request(model) for model in models.values()} | {"Task": schemas.task()}
    # Both name the document that they stand in; here that is this one.
    built = {
        name: {key: value for key, value in schema.items() if key not in {"$schema", "$id"}}
        for name, schema in built.items()
    }
    kept, quoted = DOCUMENT["components"]["schemas"], body("/api/v1/price_quotes")["properties"]
    answered = {
        "service": {"enum": list(catalog.services())},
        "action": {"enum": list(dict.fromkeys(model.action.value for model in models.values()))},
        "model": {"enum": list(models)},
    }
    paths = {path: item for service in catalog.services() for path, item in line(service).items()}
    if os.environ.get("FLUX2_SNAPSHOTS") == "write":
        others = {name: schema for name, schema in kept.items() if not is_of_a_model(name) and name != "Task"}
        kept.clear()
        kept.update({"Token": others.pop("Token")} | built | others)
        quoted.update(answered)
        rest = {path: item for path, item in DOCUMENT["paths"].items() if "{action}" not in path}
        DOCUMENT["paths"] = paths | rest
        FILE.write_text(json.dumps(DOCUMENT, indent=1, ensure_ascii=False) + "\n", "utf-8")
    assert {name: schema for name, schema in kept.items() if is_of_a_model(name) or name == "Task"} == built
    assert {name: quoted[name] for name in answered} == answered
    assert {path: item for path, item in DOCUMENT["paths"].items() if "{action}" in path} == paths
    file = body("/api/v1/files/prepare")
    assert file["properties"]["byte_size"]["maximum"] == MAX_FILE_BYTES
    assert file["properties"]["filename"]["maxLength"] == MAX_NAME_CHARS
    for schema in kept.values():
        Draft202012Validator.check_schema(schema)


def sent(http: httpx2.Client, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> int:
    """The status of a call, whose answer the client's hook has held to the document."""
    for part, value in (("{action}", "text_to_image"), ("{name}", "x.png"), ("{id}", "x"), ("{target}", "x")):
        path = path.replace(part, value)
    return http.request(method, path, content=body, headers={"Content-Type": kind}).status_code


def test_whatever_comes_to_an_endpoint_the_answer_is_one_that_the_document_has(api: Api) -> None:
    """By hand what Schemathesis does at depth: `make test-deep`. All other tests' answers are held to the document, too."""
    wrong = b'{"model": 1, "prompt": 2, "source": 3, "filename": 4, "signed_id": 5}'
    bodies = [("application/json", body) for body in (b"", b"{", b"[]", b"{}", wrong)]
    bodies += [("text/plain", wrong), ("application/x-www-form-urlencoded", b"null")]
    with each_row() as row:
        for endpoint in ENDPOINTS:
            with row(f"{endpoint.method} {endpoint.path}"):
                for kind, body in bodies:
                    assert sent(api.http, endpoint.method, endpoint.path, body, kind) < 500
                assert (sent(api.anyone, endpoint.method, endpoint.path) == 401) is endpoint.key
                known = {other.method for other in ENDPOINTS if other.path == endpoint.path}
                refused = [sent(api.http, method, endpoint.path) for method in {"GET", "PUT", "POST", "DELETE"} - known]
                assert set(refused) == {405}


@rows(
    ("status", "content", "headers", "why"),
    [
        (418, b"{}", {}, "is not described"),
        (200, b"{}", {"X-Request-Id": "req_0123456789abcdef"}, "is not as described"),
        (200, b"{}", {}, "comes without X-Request-Id"),
        (200, b"{}", {"X-Request-Id": "7"}, "X-Request-Id is wrong"),
        (200, b"{}", {"X-Request-Id": "req_0123456789abcdef", "Content-Type": "text/html"}, "is text/html"),
    ],
)
def test_an_answer_that_the_document_has_not_is_found(
    status: int, content: bytes, headers: dict[str, str], why: str
) -> None:
    request = httpx2.Request("GET", "http://127.0.0.1/api/v1/me")
    answer = httpx2.Response(
        status, content=content, headers={"Content-Type": "application/json"} | headers, request=request
    )
    with pytest.raises(AssertionError, match=why):
        described.check(answer)


@pytest.mark.deep
@pytest.mark.hypothesis
def test_whatever_schemathesis_sends_the_answer_is_one_that_the_document_has(api: Api, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{api.sandbox.base_url}/openapi.json",
        "--header", f"Authorization: Bearer {api.sandbox.api_key}",
        "--checks", CHECKS, "--max-examples", str(settings().max_examples // 3), "--seed", "1",
        "--generation-database", "none", "--continue-on-failure", "--warnings", "off", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}".replace(api.sandbox.api_key, "")
    # Where it has the document from, it does not test.
    assert re.search(rf"Tested: +{len(ENDPOINTS) - 1}\b", done.stdout), done.stdout
