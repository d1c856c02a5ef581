"""The reference: the API, prices, errors and the sandbox, as Markdown. Pure: from the catalogue and the client to text.

Facts that are not in our code come from `api/runapi.md`, and are written only here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from flux2_mcp import errors
from flux2_mcp.domain import catalog, pricing
from flux2_mcp.domain.budget import dollars
from flux2_mcp.domain.catalog import Field, Model
from flux2_mcp.domain.models import MAKING, SERVICE, Action, Status
from flux2_mcp.domain.pricing import PriceBook
from flux2_mcp.errors import ApiError
from flux2_mcp.runapi import retry
from flux2_mcp.server.docs import examples, schemas, uris
from flux2_mcp.settings import BASE_URL

HTTP_STATUSES: Final = (400, 401, 402, 403, 404, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504)
"""The error statuses that RunAPI, or a proxy in front of it, is known to return."""

ADVICE: Final[Mapping[type[ApiError], str]] = {
    errors.RejectedError: "Mend the request; the body names the fields. Check it against the model's schema first.",
    errors.AuthenticationError: "Send `Authorization: Bearer KEY` with a valid key. 403 and 404 in HTML are a proxy's.",
    errors.InsufficientCreditsError: "Top up the account, or choose a cheaper variant or resolution. Tell a person.",
    errors.NotFoundError: "Check path and id: a task answers only to the key, and on the endpoint, that made it.",
    errors.ConflictError: "Use a new key for a new request; send the old key only with the very same body.",
    errors.RateLimitedError: "Wait as long as `Retry-After` says (seconds or an HTTP date), then send the same again.",
    errors.ServiceError: "Wait as long as `Retry-After` says, else 1, 2, 4 ... seconds, then send the same again.",
}
"""The advice to applications for each kind of error."""

_ACTIONS: Final[Mapping[Action, str]] = {
    Action.TEXT_TO_IMAGE: "an image from text",
    Action.REMIX_IMAGE: "an image from text and source images",
}


def api(models: Mapping[str, Model] | None = None) -> str:
    """Write the reference of the HTTP API for applications, for these models or the catalogue's."""
    known = catalog.models() if models is None else models
    days = catalog.document()["result_url_lifetime_days"]
    model = examples.default_model(known)
    calls = "\n".join(
        f"| `POST /api/v1/flux_2/{action}` | create a task: {what} |\n| `GET /api/v1/flux_2/{action}/{{id}}` | that task |"
        for action, what in _ACTIONS.items()
    )
    fields = "\n".join(f"### `{action}`\n\n{_fields(known, action)}" for action in MAKING)
    statuses = ", ".join(f"`{status}`" for status in Status if status is not Status.UNKNOWN)
    services = ", ".join(f"`service={name}`" for name in catalog.services() if name != SERVICE)
    ident = "0b5f6a52-8a3e-4c1e-9f57-2a4f6f4c9d10"
    pending = {"id": ident, "status": Status.PENDING.value}
    completed = {
        "id": ident,
        "status": Status.COMPLETED.value,
        "images": [{"url": "https://example.com/image.png"}],
        "usage": {"cost": float(model.published_cents[model.resolutions[0]] / pricing.CENTS), "generated_images": 1},
    }
    failed = {"id": ident, "status": Status.FAILED.value, "error": "The request was rejected by content moderation."}
    return f"""# FLUX.2 through RunAPI: the HTTP API

Base URL `{BASE_URL}`; read it from `RUNAPI_BASE_URL` so that the sandbox can stand in ({uris.SANDBOX}).
Each call carries `Authorization: Bearer $RUNAPI_API_KEY`, and with a body `Content-Type: application/json`. The key
belongs on a server. Programs that run: {uris.quickstart("LANGUAGE")}, for curl, python, typescript, php, ruby.

| call | |
| --- | --- |
{calls}
| `GET /api/v1/price_schedules?service={SERVICE}` | prices now; needs no key |
| `POST /api/v1/price_quotes` | what one request would cost |
| `GET /api/v1/me/balance` | the account's money |
| `POST /api/v1/files/prepare`, `.../confirm` | upload a source image |

## Models

{models_table(known)}

## Request

One task makes one image. The body of each model has a JSON Schema: {uris.request_schema("{model}")}.

{fields}
There is no seed, size, format, guidance or negative prompt: don't send any. `auto` keeps the source's ratio. A model works
only on the endpoint of its own action.

```json
{_json(schemas.example(model))}
```

Headers of a create call:

- `Idempotency-Key`: 1 to 512 printable ASCII characters, one for each image wanted. The same key with the same body
  brings the same task, paid once; with another body, 409. How long it is remembered is not published: count on 24 hours.
  **Without it a create call must never be repeated.**
- `X-Client-Request-Id` (optional): your own id, at most 512 characters; it is stored and given back.

## Answer

Create, poll and callback all show the task ({uris.TASK_SCHEMA}):

```json
{json.dumps(pending)}
{json.dumps(completed)}
{json.dumps(failed)}
```

- `status` is one of {statuses}; the answer to a create call may leave it out. Anything else is unknown and never success.
- Ask until it is `completed` or `failed`, every 2 seconds or when `Retry-After` says: {uris.POLLING}; or be called:
  {uris.WEBHOOK}.
- Image URLs are temporary: **copy the image within {days} days**, best at once, and send that other host no key. Asking for
  the task again shows its URLs afresh.
- `usage.cost` is what was charged, in USD. It may be absent. A failed task is not charged.
- There is no cancel: what was created runs, and is charged if it completes.

## Source images

`source_image_urls` are public URLs. A local file is uploaded first; its URL lives for 1 hour:

1. `POST /api/v1/files/prepare` with `{{"filename", "byte_size", "checksum"}}`, the checksum being base64 of the MD5. Gives
   `upload_url`, `headers`, `signed_id`.
2. `PUT upload_url` with exactly those headers and the bytes, without the key: it is another host.
3. `POST /api/v1/files/confirm` with `{{"signed_id"}}`. Gives `url`.

A file that stands at a URL, or small ones in base64: `POST /api/v1/files` with
`{{"source": {{"type": "url", "url"}} or {{"type": "base64", "data"}}, "file_name"}}` gives the same.

## Cut out, enlarge

The same key, the same calls and the same task, on other endpoints, for one picture and without a prompt:

{_finishers()}

`source_image_url` is a public URL, such as that of a result, or of an upload. Cut out first, then enlarge. FLUX.2 itself paints no
transparency. Their prices are in the live schedule alone: {services}.

## Errors and prices

Statuses, bodies and what to do: {uris.ERRORS}. Prices: {uris.PRICES}.
"""


def prices(models: Mapping[str, Model] | None = None) -> str:
    """Write the published prices of these models or the catalogue's, and how to get current prices."""
    known = catalog.models() if models is None else models
    found = [pricing.price(PriceBook(), model, size) for model in known.values() for size in model.resolutions]
    rows = [
        (
            f"`{price.model.id}`",
            price.output_resolution,
            "only the live schedule knows" if price.usd is None else dollars(price.usd),
        )
        for price in found
    ]
    model = examples.default_model(known)
    params = {name: value for name, value in schemas.example(model).items() if name != "model"}
    quote = {"service": SERVICE, "action": model.action.value, "model": model.id, "params": params}
    return f"""# Prices

USD for one image, as published {catalog.document()["prices_as_of"]}. A failed task is not charged.

{_table(("model", "resolution", "USD"), rows)}

Where no number is published, don't invent one: ask for it before spending.

- Now, without a key: `GET {BASE_URL}/api/v1/price_schedules?service={SERVICE}&action=ACTION&model=MODEL`. Each entry of
  `price_schedules` has `unit_price_cents` (may be null) and, where the price hangs on the resolution,
  `billing_config.overrides` by resolution, in cents. Send the `ETag` back as `If-None-Match`: 304 means unchanged.
- For one request, with the key: `POST {BASE_URL}/api/v1/price_quotes`; `price_quote.reservation_amount_cents` is the price.

```json
{_json(quote)}
```

- After the fact: `usage.cost` of the completed task. The account: `GET {BASE_URL}/api/v1/me/balance`, in cents.

Commercial use: {catalog.document()["commercial_use"]}.
"""


def error_table() -> str:
    """Write the table of statuses: whether to try again, and what to do."""
    from flux2_mcp.runapi.responses import Response, failure

    grouped: dict[type[ApiError], list[int]] = {}
    for status in HTTP_STATUSES:
        if (error := failure(Response(status, {}, b"{}"), now=datetime.now(UTC))) is not None:
            grouped.setdefault(type(error), []).append(status)
    rows = [
        (
            ", ".join(map(str, statuses)),
            _what(kind),
            "yes" if set(statuses) <= retry.RETRIED_STATUSES else "no",
            ADVICE[kind],
        )
        for kind, statuses in grouped.items()
    ]
    return f"""# Errors

{_table(("status", "means", "again?", "do"), rows)}

"Again" is the same request: a GET always, a create call **only under its `Idempotency-Key`**. Give up after a time of
your own, and keep the key: with it the task is found later.

| what else | do |
| --- | --- |
| no answer: refused, cut, timed out | The task may exist. Send the same body with the same key; never a new key. |
| 2xx with HTML or broken JSON | The same: something between answered. |
| 200, `"status": "failed"` | `error` says why, such as moderation. Not charged. The same key brings the same failure: mend the prompt and use a new key. |
| 200, a status that nobody promised | Ask again; it is neither success nor failure. |
| an image's URL answers 403, 404, 410 | It has expired. `GET` the task again for a fresh one; that costs nothing. |
| the image is no image, or breaks off | Fetch it again. |

Bodies of errors have one of these shapes, and may be a whole HTML page from a proxy. Never show them to users unread:

```json
{{"error": "text"}}
{{"error": {{"code": "rate_limited", "message": "text"}}}}
{{"error": "Validation failed", "errors": {{"prompt": ["text"]}}}}
```

`X-Request-Id` names the request: log it with every error, and never the key. Most of these can be played in the sandbox:
{uris.SANDBOX}.
"""


def sandbox() -> str:
    """Write how to develop without a key, a network or costs."""
    from flux2_mcp.sandbox.scenarios import SCENARIOS

    rows = [(f"`[sandbox:{row.marker}]`", row.does) for row in SCENARIOS]
    return f"""# Sandbox

The same HTTP on loopback, with drawn images in place of FLUX.2's and no money. For development and tests:

```sh
flux2-mcp sandbox --port 8787 --speed 10    # prints export RUNAPI_BASE_URL=... and export RUNAPI_API_KEY=...
```

Set the two in your application's environment; nothing else changes. A body that RunAPI's contract does not allow is
answered 422 with the fields named. Callbacks go to `http://127.0.0.1` and to no address beyond this machine.

A marker in the prompt scripts what happens, so that a test can hold your application to each case; several add up:

{_table(("marker", "what happens"), rows)}

A task that cuts out or enlarges has no prompt: `[sandbox:upscale_image:moderation]` in the prompt of the picture that it works
on is for it, and so is `#[sandbox:moderation]` behind its source's URL.

Test at least: `create_lost` (one task, one charge), `rate_limited`, `poll_503`, `moderation`, `insufficient_credits`,
`expired_url`. What it charges for a model without a published price is its own invention.
"""


def models_table(models: Mapping[str, Model] | None = None) -> str:
    """Write a table of these models or the catalogue's: endpoint, resolutions, sources, price, when to choose which."""
    known = catalog.models() if models is None else models
    rows = []
    for model in known.values():
        cents = model.published_cents.values()
        sources = model.fields.get("source_image_urls")
        rows.append((
            f"`{model.id}`",
            f"`{model.action}`",
            ", ".join(model.resolutions),
            "none" if sources is None else _bounds(sources, "").removesuffix(" items"),
            dollars(min(cents) / pricing.CENTS) if cents else "live only",
            model.choose,
        ))  # fmt: skip
    return _table(("model", "endpoint", "resolutions", "source images", "USD from", "choose"), rows)


def _fields(known: Mapping[str, Model], action: Action) -> str:
    models = [model for model in known.values() if model.action is action]
    names = list(dict.fromkeys(name for model in models for name in model.fields))
    rows = [(f"`{name}`", *(_cell(model, name) for model in models)) for name in names]
    return f"{_table(('field', *(model.variant for model in models)), rows)}\n"


def _finishers() -> str:
    rows = [
        (
            f"`POST /api/v1/{model.line}/{model.action}`",
            f"`{model.id}`",
            ", ".join(
                f"`{field.name}`{_allowed(field)}"
                for field in model.fields.values()
                if field.required and field.name != "model"
            ),
        )
        for model in catalog.finishers().values()
    ]
    return _table(("call", "model", "body, beside `model` and `callback_url`"), rows)


def _allowed(field: Field) -> str:
    return f": {', '.join(f'`{value}`' for value in field.enum)}" if field.enum else ""


def _cell(model: Model, name: str) -> str:
    field = model.fields.get(name)
    if field is None or name in model.forbidden:
        return "not accepted"
    if name == "model":
        return f"`{model.id}`"
    need = "required" if field.required else "optional"
    default = schemas.DEFAULTS.get(name)
    if default is not None and not field.required:
        need = f"default `{default}`"
    return f"{field.kind}, {need}{_allowed(field)}{_bounds(field, ', ')}"


def _bounds(field: Field, before: str) -> str:
    if field.low is None and field.high is None:
        return ""
    span = f"exactly {field.low}" if field.low == field.high else f"{field.low} to {field.high}"
    return f"{before}{span} {'items' if field.kind == 'array' else 'characters'}"


def _what(kind: type[ApiError]) -> str:
    return (kind.__doc__ or "").partition("(")[0].strip().rstrip(".") + "."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
