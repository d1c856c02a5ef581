"""The calls of `/api/v1`: tasks, prices, account, files. Sync functions from a `SandboxCall` to a response."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, Response

from flux2_mcp.domain import catalog
from flux2_mcp.domain.models import SERVICE, Action, Status
from flux2_mcp.sandbox import pictures, scenarios, tasks, uploads, webhooks
from flux2_mcp.sandbox.http import CutConnection, HttpError, SandboxCall, invalid, token
from flux2_mcp.sandbox.scenarios import Fault
from flux2_mcp.sandbox.state import SandboxState, stamp, whole
from flux2_mcp.sandbox.tasks import SandboxTask, TaskOrder

CENTS_PER_USD = 100
SOURCE = "source_image_url"
"""The field of a task that finishes a picture."""
EMAIL = "sandbox@example.invalid"
OTHER_WORDS = {Status.PENDING: "queued", Status.COMPLETED: "finished", Status.FAILED: "timeout"}
"""RunAPI's newer words for these statuses (`api/runapi.md`)."""


def create_task(state: SandboxState, call: SandboxCall, *, service: str = SERVICE) -> Response:
    """`POST /api/v1/{line}/{action}`: the task that this call made, or that its key made before."""
    state.count("creates")
    action = _action(call, service)
    body = call.json()
    key = token(call.headers, "Idempotency-Key")
    model = _valid(service, action, body)
    finishes = SOURCE in model.fields
    sources, failure = _source(state, model, body) if finishes else _sources(state, body.get("source_image_urls") or [])
    order = TaskOrder(
        action=action,
        model=model,
        body=body,
        idempotency_key=key,
        client_request_id=call.headers.get("X-Client-Request-Id"),
        sources=sources,
        failure=failure,
        callback=webhooks.deliverable(body.get("callback_url")),
        markers=_markers(state, sources, body[SOURCE]) if finishes else "",
    )
    now = state.clock()
    task, fault = tasks.create(state, order, now)
    if fault is Fault.LOST:
        return CutConnection()
    told = {"task_replayed": True} if task.creates > 1 and task.script.replayed else {}
    if not task.hybrid:
        return _answer(task, task_json(state, task, call.base_url, now) | told)
    response = _answer(task, envelope(state, task, call.base_url, now) | told, status=202)
    response.headers["Location"] = f"/api/v1/tasks/{task.id}"
    response.headers["Retry-After"] = _wait(task, now)
    return response


def get_task(state: SandboxState, call: SandboxCall, *, service: str = SERVICE) -> Response:
    """`GET /api/v1/{line}/{action}/{id}`: the task in its present state."""
    now = state.clock()
    task = tasks.poll(state, (service, _action(call, service)), call.path["id"], now)
    response = _answer(task, task_json(state, task, call.base_url, now))
    if task.script.hint and not task.status(now).ended:
        response.headers["Retry-After"] = _wait(task, now)
    return response


def get_result(state: SandboxState, call: SandboxCall) -> Response:
    """`GET /api/v1/tasks/{id}`: a hybrid task's envelope; once it has ended, with what its endpoint would have said."""
    now = state.clock()
    task = tasks.poll(state, None, call.path["id"], now)
    response = _answer(task, envelope(state, task, call.base_url, now))
    if not task.status(now).ended:
        response.headers["Retry-After"] = _wait(task, now)
    return response


def _wait(task: SandboxTask, now: float) -> str:
    return whole(1.0 if task.ends_at is None else max(0.0, task.ends_at - now))


def result(state: SandboxState, call: SandboxCall) -> Response:
    """`GET /results/{name}`: a completed task's image. The signed address is enough: no key is needed."""
    name = call.path["name"].partition(".")[0]
    task = pictures.find(state, name, call.query.get("expires", ""), call.query.get("signature", ""))
    content = pictures.delivered(state, task)
    return Response(content, media_type=uploads.kind(content, "result.png"))


def _action(call: SandboxCall, service: str) -> Action:
    action = call.path["action"]
    if action not in {model.action for model in catalog.all_models().values() if model.service == service}:
        raise HttpError(404, "not_found", "Not found")
    return Action(action)


def _valid(service: str, action: Action, body: dict[str, Any]) -> catalog.Model:
    """The model that `body` names, after a check of the whole of `body` against its constraints."""
    known = catalog.all_models().values()
    there = {model.id: model for model in known if (model.service, model.action) == (service, action)}
    name = body.get("model")
    if name is None and not any(model.fields["model"].required for model in there.values()):
        name = next(iter(there))
    model = there.get(name) if isinstance(name, str) else None
    if model is None:
        raise invalid({"model": [f"must be one of {', '.join(there)}"]})
    wrong: dict[str, list[str]] = {}
    for problem in catalog.problems(model, body):
        wrong.setdefault(_own_name(problem.field, body), []).append(problem.text)
    wrong = wrong or _strange(body)
    if wrong:
        raise invalid(wrong)
    return model


def _own_name(field: str, body: dict[str, Any]) -> str:
    """The body's name for a field. The catalogue names the sources as the tool does, which callers here don't know."""
    return "source_image_urls" if field == "source_images" and field not in body else field


def _strange(body: dict[str, Any]) -> dict[str, list[str]]:
    """Problems that the catalogue does not check: addresses, and the sandbox's own markers."""
    wrong: dict[str, list[str]] = {}
    if not all(_is_web(url) for url in body.get("source_image_urls") or []):
        wrong["source_image_urls"] = ["must be http or https URLs"]
    if SOURCE in body and not _is_web(body[SOURCE]):
        wrong[SOURCE] = ["must be an http or https URL"]
    if body.get("callback_url") is not None and not _is_web(body["callback_url"]):
        wrong["callback_url"] = ["must be an http or https URL"]
    finishing = {model.action for model in catalog.finishers().values()}
    for field, text in (("prompt", body.get("prompt", "")), (SOURCE, body.get(SOURCE, "").partition("#")[2])):
        if strangers := scenarios.unknown(text, finishing if field == "prompt" else ()):
            known = ", ".join(scenario.marker for scenario in scenarios.SCENARIOS)
            wrong[field] = [f"unknown marker [sandbox:{name}]; known: {known}" for name in strangers]
    return wrong


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and port != 0 and url.isprintable()


def _sources(state: SandboxState, urls: list[str]) -> tuple[tuple[str, ...], str | None]:
    """References to the sources; or, if one can't be read, the error with which the task will fail."""
    found = []
    for number, url in enumerate(urls, 1):
        try:
            found.append(pictures.refer(state, url))
        except pictures.SourceError as exc:
            return (), f"Source image {number} can't be used: {exc}."
    return tuple(found), None


def _source(state: SandboxState, model: catalog.Model, body: dict[str, Any]) -> tuple[tuple[str, ...], str | None]:
    """A reference to the one source of a task that finishes a picture; or the error with which the task will fail.

    Where a remix is drawn without a source that is not on this machine, here is nothing left to work on.
    """
    try:
        reference = pictures.refer(state, body[SOURCE].partition("#")[0])
    except pictures.SourceError as exc:
        return (), f"The source image can't be used: {exc}."
    if reference == pictures.FOREIGN:
        return (), "The source image can't be used: it can't be fetched from its URL."
    trouble = pictures.too_large(state, reference, pictures.factor(model, body))
    return (reference,), None if trouble is None else f"The source image can't be used: {trouble}."


def _markers(state: SandboxState, sources: tuple[str, ...], url: str) -> str:
    return "".join(pictures.origin(state, each) for each in sources) + tasks.OWN_MARKERS + url.partition("#")[2]


def task_json(state: SandboxState, task: SandboxTask, base_url: str, now: float) -> dict[str, Any]:
    """The task as RunAPI shows it at that time."""
    status, script = task.status(now), task.script
    shown: dict[str, Any] = {"id": task.id, "status": OTHER_WORDS.get(status, status) if script.words else status}
    if status is Status.FAILED:
        shown["error"] = task.failure
    if status is Status.COMPLETED:
        shown["images"] = [{"url": pictures.address(state, task, base_url)}]
        if script.usage and not script.billing:
            shown["usage"] = {"cost": task.cents / CENTS_PER_USD, "generated_images": 1}
    if script.billing:
        shown["billing"] = _billing(task, now)
    return shown


def envelope(state: SandboxState, task: SandboxTask, base_url: str, now: float) -> dict[str, Any]:
    """A hybrid task as RunAPI shows it at that time."""
    status = task.status(now)
    body = task_json(state, task, base_url, now)
    stored = {
        "status": 422 if status is Status.FAILED else 200,
        "content_type": "application/json",
        "headers": {"X-RunAPI-Task-Id": task.id},
        "body": body,
    }
    return {
        "id": task.id,
        "status": status,
        "error": task.failure if status is Status.FAILED else None,
        "response": stored if status.ended else None,
    }


def _billing(task: SandboxTask, now: float) -> dict[str, Any]:
    price = tasks.cents(task.about, task.resolution)
    money: dict[str, Any] = {"reservation": {"amount_cents": price}}
    if task.status(now) is Status.COMPLETED:
        money["settlement"] = {"charged_amount_cents": price, "amount_micro_cents": price * 1_000_000}
        if task.script.refunded:
            money["refund"] = {"refunded_at": stamp(task.ends_at or now)}
    return money


def _answer(task: SandboxTask, shown: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(shown, status, {"X-RunAPI-Task-Id": task.id})


def price_schedules(state: SandboxState, call: SandboxCall) -> Response:
    """`GET /api/v1/price_schedules`: one row a model, filtered by service, action and model; no key needed."""
    rows = [
        row
        for row in map(_schedule, catalog.all_models().values())
        if all(call.query.get(name, row[name]) == row[name] for name in ("service", "action", "model"))
    ]
    # The tag depends on the prices alone: `as_of` changes with each request.
    tag = f'W/"{hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]}"'
    known = {part.strip() for part in call.headers.get("if-none-match", "").split(",")}
    headers = {"ETag": tag, "Cache-Control": "public, max-age=300"}
    if known & {tag, tag.removeprefix("W/"), "*"}:
        return Response(status_code=304, headers=headers)
    return JSONResponse({"as_of": stamp(state.clock()), "price_schedules": rows}, headers=headers)


def _schedule(model: catalog.Model) -> dict[str, Any]:
    overrides = {name: tasks.cents(model, name) for name in model.resolutions}
    return {
        "service": model.service,
        "action": model.action,
        "model": model.id,
        "pricing_status": "priced",
        "catalog_status": "active",
        "currency": "USD",
        "billing_unit": "image",
        "billing_strategy": "per_unit",
        "unit_price_cents": overrides[model.resolutions[0]],
        # A model with one resolution needs no table.
        "billing_config": {"key": model.size_field, "overrides": overrides} if len(overrides) > 1 else None,
    }


def price_quote(state: SandboxState, call: SandboxCall) -> Response:
    """`POST /api/v1/price_quotes`: what one task with these parameters would reserve."""
    body = call.json()
    model, service = catalog.all_models().get(str(body.get("model"))), body.get("service")
    params = body.get("params") or {}
    wrong = {name: ["is not a known field"] for name in body if name not in {"service", "action", "model", "params"}}
    if service not in catalog.services():
        wrong["service"] = [f"must be one of {', '.join(catalog.services())}"]
    elif model is None or (model.service, model.action) != (service, body.get("action")):
        wrong["model"] = ["must be a model of the service's action"]
    elif not isinstance(params, dict):
        wrong["params"] = ["must be an object"]
    else:
        # Only fields in the request are checked: a quote needs no prompt.
        broken = {_own_name(problem.field, params): problem.text for problem in catalog.problems(model, params)}
        wrong |= {f"params.{name}": [text] for name, text in broken.items() if name in params}
    if wrong or model is None:
        raise invalid(wrong)
    quote = {
        "service": model.service,
        "action": model.action,
        "model": model.id,
        "pricing_status": "priced",
        "currency": "USD",
        "reservation_amount_cents": tasks.cents(model, tasks.size_of(model, params)),
        "estimate_basis": "exact",
        "as_of": stamp(state.clock()),
    }
    return JSONResponse({"price_quote": quote})


def me(state: SandboxState, call: SandboxCall) -> Response:
    """`GET /api/v1/me`: the owner of the key, an invented one."""
    del state, call
    account = {"id": 1, "name": "Sandbox"}
    return JSONResponse({"id": 1, "name": "Sandbox", "email": EMAIL, "account": account})


def balance(state: SandboxState, call: SandboxCall) -> Response:
    """`GET /api/v1/me/balance`: the account's money in cents."""
    del call
    money = state.money()
    shown = {
        "balance_cents": money.balance,
        "paid_balance_cents": money.balance,
        "bonus_balance_cents": 0,
        "spent_cents_today": money.spent_today,
        "spent_cents_total": money.spent,
    }
    return JSONResponse(shown)


def prepare_file(state: SandboxState, call: SandboxCall) -> Response:
    """`POST /api/v1/files/prepare`: where to put a file's bytes, and with which headers."""
    upload = uploads.prepare(state, call.json())
    url = f"{call.base_url}/uploads/{upload.target}"
    return JSONResponse({"upload_url": url, "headers": upload.headers, "signed_id": upload.signed_id})


def put_file(state: SandboxState, call: SandboxCall) -> Response:
    """`PUT /uploads/{target}`: the bytes. It plays another host, so a request with a key is refused."""
    if "authorization" in call.headers:
        raise HttpError(400, "bad_request", "Send no Authorization header here: this stands for another host.")
    uploads.put(state, call.path["target"], dict(call.headers), call.body)
    return Response()


def confirm_file(state: SandboxState, call: SandboxCall) -> Response:
    """`POST /api/v1/files/confirm`: opens the file's URL for one hour."""
    return JSONResponse(uploads.answer(uploads.confirm(state, call.json()), call.base_url))


def create_file(state: SandboxState, call: SandboxCall) -> Response:
    """`POST /api/v1/files`: a file by address or as base64. Files of this sandbox are copied, other addresses noted."""
    name, source = uploads.parse_source(call.json())
    content = _fetched(state, source) if isinstance(source, str) else source
    return JSONResponse(uploads.answer(uploads.keep(state, name, content), call.base_url))


def _fetched(state: SandboxState, url: str) -> bytes | None:
    if not _is_web(url):
        raise invalid({"source": ["url must be an http or https URL"]})
    try:
        return pictures.source(state, pictures.refer(state, url))
    except pictures.SourceError as exc:
        raise invalid({"source": [str(exc)]}) from exc


def get_file(state: SandboxState, call: SandboxCall) -> Response:
    """`GET /files/{id}`: the bytes of a confirmed file. The address is enough: no key is needed."""
    upload = uploads.find(state, call.path["id"])
    if upload is not None and not upload.alive(state.clock()):
        raise HttpError(410, "gone", "This address has expired, or was never confirmed.")
    content = None if upload is None else uploads.content(state, upload)
    if upload is None or content is None:
        raise HttpError(404, "not_found", "Not found")
    # A browser must not run an uploaded file.
    headers = {"Content-Disposition": "attachment", "Content-Security-Policy": "sandbox; default-src 'none'"}
    return Response(content, media_type=upload.mime_type, headers=headers)
