"""The URIs of the documents. Pure."""

from __future__ import annotations

from typing import Final

from flux2_mcp.domain.manifest import schema

DOCS: Final = "flux2://docs"
API: Final = f"{DOCS}/api"
TASK_SCHEMA: Final = f"{DOCS}/task.schema.json"
PRICES: Final = f"{DOCS}/prices"
POLLING: Final = f"{DOCS}/polling"
WEBHOOK: Final = f"{DOCS}/webhook"
ERRORS: Final = f"{DOCS}/errors"
SANDBOX: Final = f"{DOCS}/sandbox"
PROMPTING: Final = f"{DOCS}/prompting"
MANIFEST_SCHEMA: Final = schema.URI


def request_schema(model: str) -> str:
    """Return the URI of the JSON Schema of a model's request; the model "{model}" gives the URI template."""
    return f"{DOCS}/models/{model}/request.schema.json"


def quickstart(language: str, model: str | None = None) -> str:
    """Return the URI of the quickstart in a language, for the default model or for another."""
    return f"{DOCS}/quickstart/{language}" + (f"/{model}" if model else "")
