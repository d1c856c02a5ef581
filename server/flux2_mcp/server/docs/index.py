"""The documents for developers on the API: an index of URIs, with the functions that write the documents.

A document is written when it is read, from the catalogue, so that it can't become outdated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Final

from mcp_types import Resource, ResourceTemplate
from msgspec import Struct

from flux2_mcp.domain import catalog
from flux2_mcp.domain.catalog import Model
from flux2_mcp.domain.manifest import schema as manifest_schema
from flux2_mcp.server.docs import examples, prompting, reference, schemas, uris

MARKDOWN: Final = "text/markdown"
SCHEMA: Final = "application/schema+json"


class Document(Struct, frozen=True):
    """One document. `name` is for programs, `title` for people; `text()` writes it. `listed`: resources/list has it."""

    uri: str
    name: str
    title: str
    description: str
    text: Callable[[], str]
    mime_type: str = MARKDOWN
    listed: bool = True

    def resource(self) -> Resource:
        """Return its entry for resources/list."""
        return Resource(
            uri=self.uri, name=self.name, title=self.title, description=self.description, mime_type=self.mime_type
        )


TEMPLATES: Final = (
    ResourceTemplate(
        name="request-schema",
        title="JSON Schema of a request",
        uri_template=uris.request_schema("{model}"),
        description="The body of a create call for one model.",
        mime_type=SCHEMA,
    ),
    ResourceTemplate(
        name="quickstart",
        title="Quickstart",
        uri_template=uris.quickstart("{language}", "{model}"),
        description="A program that makes one image with one model: idempotent, patient, saved before the URL dies.",
        mime_type=MARKDOWN,
    ),
)


@cache
def documents() -> dict[str, Document]:
    """Return all documents by URI, in the best order for a reader."""
    return documents_of(catalog.models())


def documents_of(models: Mapping[str, Model]) -> dict[str, Document]:
    """Return the documents of other models than the catalogue's, which are given by their ids."""
    default = examples.default_model(models)
    first = (
        Document(
            uris.API,
            "api",
            "FLUX.2 API reference",
            "Read first: calls, fields of each model, answers, idempotency, uploads.",
            partial(reference.api, models),
        ),
        *(_quickstart(language, default) for language in examples.LANGUAGES),
        *map(_request_schema, models.values()),
        Document(
            uris.TASK_SCHEMA,
            "task-schema",
            "JSON Schema of a task",
            "What create, poll and callback answer.",
            lambda: _json(schemas.task()),
            SCHEMA,
        ),
        Document(
            uris.PRICES,
            "prices",
            "Prices",
            "Published prices, and how to ask for those of now.",
            partial(reference.prices, models),
        ),
        Document(uris.POLLING, "polling", "Polling loop", "Waiting for many tasks, or earlier ones.", examples.polling),
        Document(uris.WEBHOOK, "webhook", "Webhook receiver", "Being told instead of asking.", examples.webhook),
        Document(
            uris.ERRORS, "errors", "Error table", "Each status: try again or not, what to do.", reference.error_table
        ),
        Document(
            uris.SANDBOX,
            "sandbox",
            "Sandbox",
            "The same API without key or money, and markers that script its faults.",
            reference.sandbox,
        ),
        Document(
            uris.MANIFEST_SCHEMA,
            "manifest-schema",
            "JSON Schema of flux2.toml",
            "The pictures of a project in one file: a prompt each, a style for all, sizes, formats and icons.",
            lambda: _json(manifest_schema.schema()),
            SCHEMA,
        ),
        Document(
            uris.PROMPTING,
            "prompting",
            "Prompts for FLUX.2",
            "Before you write a prompt: order, lettering, hex colours, JSON, ratios by use, no negatives, transparent grounds.",
            prompting.guide,
        ),
    )
    rest = [_quickstart(language, model, own=True) for language in examples.LANGUAGES for model in models.values()]
    return {document.uri: document for document in (*first, *rest)}


def _quickstart(language: str, model: Model, *, own: bool = False) -> Document:
    """Make the quickstart of a language for the default model, or with `own` for a particular model."""
    title = examples.LANGUAGES[language].title
    return Document(
        uris.quickstart(language, model.id if own else None),
        f"quickstart-{language}" + (f"-{model.id}" if own else ""),
        f"{title} quickstart",
        f"{title} program that makes one image with {model.id} and saves it.",
        lambda: examples.quickstart(language, model),
        listed=not own,
    )


def _request_schema(model: Model) -> Document:
    return Document(
        uris.request_schema(model.id),
        f"request-schema-{model.id}",
        f"JSON Schema of {model.id} requests",
        f"The body of POST /api/v1/flux_2/{model.action}.",
        lambda: _json(schemas.request(model)),
        SCHEMA,
    )


def _json(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
