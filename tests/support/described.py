"""The sandbox's OpenAPI document, held to each answer that a test is given."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

import httpx2
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

DOCUMENT: dict[str, Any] = json.loads(files("flux2_mcp.sandbox").joinpath("openapi.json").read_text("utf-8"))
METHODS = {"get", "put", "post", "delete"}
_WHERE = "urn:sandbox"
_REGISTRY: Registry[Any] = Registry().with_resource(_WHERE, DRAFT202012.create_resource(DOCUMENT))
_PATHS = {
    re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))): operations
    for path, operations in DOCUMENT["paths"].items()
}


def check(answer: httpx2.Response) -> None:
    """Hold an answer to what the document says of its path, method and status. A hook of httpx2's clients."""
    request = answer.request
    about = f"{request.method} {request.url.path}: {answer.status_code}"
    operations = next((found for path, found in _PATHS.items() if path.fullmatch(request.url.path)), None)
    if operations is None:
        assert answer.status_code in {400, 403, 404}, f"{about}, for a path that is not described"
        return
    operation = operations.get(request.method.lower())
    if operation is None:
        assert answer.status_code in {403, 405}, f"{about}, for a method that is not described"
        operation = next(operations[method] for method in METHODS if method in operations)
    status = str(answer.status_code)
    assert status in operation["responses"], f"{about} is not described"
    said = _resolved(operation["responses"][status])
    for name, header in said.get("headers", {}).items():
        known = _resolved(header)
        assert name in answer.headers or not known.get("required"), f"{about} comes without {name}"
        if name in answer.headers:
            assert _validator(json.dumps(known["schema"])).is_valid(answer.headers[name]), f"{about}: {name} is wrong"
    content = said.get("content", {})
    if not content or "*/*" in content:
        return
    kind = answer.headers["Content-Type"].partition(";")[0]
    assert kind in content, f"{about} is {kind}"
    if kind == "application/json":
        answer.read()
        errors = [error.message for error in _validator(json.dumps(content[kind]["schema"])).iter_errors(answer.json())]
        assert errors == [], f"{about} is not as described: {answer.text}"


def _resolved(part: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT
    if "$ref" not in part:
        return part
    for name in part["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


@cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(schema.replace('"#/', f'"{_WHERE}#/')), registry=_REGISTRY)
