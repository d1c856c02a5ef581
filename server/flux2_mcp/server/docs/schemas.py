"""JSON Schemas (2020-12) of requests to RunAPI and of its answers. Pure: from the catalogue to data."""

from __future__ import annotations

from typing import Any, Final

from flux2_mcp.domain import catalog
from flux2_mcp.domain.catalog import Field, Model
from flux2_mcp.domain.models import Status
from flux2_mcp.server.docs import uris

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
PROMPT: Final = "A lighthouse at dusk, long exposure, photorealistic"
EDIT: Final = "The same place at night, under the northern lights"
SOURCE: Final = "https://example.com/photo.png"
RATIO: Final = "16:9"
FACTOR: Final = 4

DEFAULTS: Final = {"aspect_ratio": catalog.DEFAULT_ASPECT_RATIO, "output_resolution": catalog.DEFAULT_RESOLUTION}


def example(model: Model) -> dict[str, Any]:
    """Return a request that the catalogue accepts: all required fields, and the most used optional ones."""
    values: dict[str, Any] = {
        "prompt": EDIT if "source_image_urls" in model.fields else PROMPT,
        "source_image_urls": [SOURCE],
        "source_image_url": SOURCE,
        "aspect_ratio": RATIO,
        "output_resolution": model.resolutions[0],
        "upscale_factor": FACTOR,
    }
    return {"model": model.id} | {name: value for name, value in values.items() if name in model.fields}


def request(model: Model) -> dict[str, Any]:
    """Return the schema of a create call's body. It accepts exactly the requests that the catalogue accepts."""
    fields = {name: field for name, field in model.fields.items() if name not in model.forbidden}
    return {
        "$schema": DIALECT,
        "$id": uris.request_schema(model.id),
        "title": f"{model.id}: body of POST /api/v1/{model.line}/{model.action}",
        "description": model.choose,
        "type": "object",
        "properties": {
            name: {"const": model.id} if name == "model" else _field(field) for name, field in fields.items()
        },
        "required": [name for name, field in fields.items() if field.required],
        "additionalProperties": False,
        "examples": [example(model)],
    }


def _field(field: Field) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": field.kind, "description": field.description}
    if field.enum:
        schema["enum"] = list(field.enum)
    if not field.required and field.name in DEFAULTS:
        schema["default"] = DEFAULTS[field.name]
    low, high = ("minItems", "maxItems") if field.kind == "array" else ("minLength", "maxLength")
    schema |= {name: bound for name, bound in ((low, field.low), (high, field.high)) if bound is not None}
    if field.kind == "array":
        schema["items"] = {"type": "string", "format": "uri"}
    elif field.name.endswith("_url"):
        schema["format"] = "uri"
    elif field.kind == "string" and field.low:
        schema["pattern"] = r"\S"  # a blank text is refused, even a long one
    return schema


def task() -> dict[str, Any]:
    """Return the schema of a task, as in the answers to create and poll and in callbacks. It allows unknown fields."""
    known = [status.value for status in Status if status is not Status.UNKNOWN]

    def needs(status: Status, field: str) -> dict[str, Any]:
        return {
            "if": {"properties": {"status": {"const": status.value}}, "required": ["status"]},
            "then": {"required": [field]},
        }

    return {
        "$schema": DIALECT,
        "$id": uris.TASK_SCHEMA,
        "title": "A task of RunAPI, as create, poll and callback show it",
        "description": "Any other status than these is unknown: never take it for success, ask again.",
        "type": "object",
        "properties": {
            "id": {"type": "string", "minLength": 1, "description": "Answers only on the endpoint that made the task."},
            "status": {
                "type": "string",
                "enum": known,
                "default": Status.PENDING.value,
                "description": "May be absent in the answer to a create call.",
            },
            "images": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {
                        "url": {
                            "type": "string",
                            "format": "uri",
                            "description": f"Dies within {catalog.document()['result_url_lifetime_days']} days."
                            " Fetch it without the key: it is another host.",
                        }
                    },
                    "required": ["url"],
                },
            },
            "usage": {
                "type": "object",
                "description": "May be absent.",
                "properties": {
                    "cost": {"type": "number", "minimum": 0, "description": "USD charged."},
                    "generated_images": {"type": "integer", "minimum": 0},
                },
            },
            "error": {"type": "string", "description": "Why it failed. A failed task is not charged."},
        },
        "required": ["id"],
        "allOf": [needs(Status.COMPLETED, "images"), needs(Status.FAILED, "error")],
    }
