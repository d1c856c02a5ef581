"""RunAPI's own HTTP, spoken by a team's server: for flux2-mcp on a person's machine, for the vendor's SDK, and for curl.

A personal token, or one of the provider, stands in the place of RunAPI's key. What is asked goes the way of every call of the
person: into the journal first, under the caps, one payment for one key. Answers have RunAPI's shapes (`api/runapi.md`).

Rules
- A task belongs to the person who made it. To anybody else its id does not exist, and RunAPI is not asked about it.
- A completed task is told when the server has its image; the image's address is then a link of the server's own.
- The balance is what the caps leave to the person; without a cap, that of the account.
- Prices and uploads are RunAPI's answers, passed on.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode, urlsplit

import anyio.to_thread
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flux2_mcp.domain import catalog
from flux2_mcp.domain.catalog import Model
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.domain.models import MAKING, ImageRequest
from flux2_mcp.domain.people import Caller, Person
from flux2_mcp.domain.urls import callback_problems, is_loopback, is_url
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.submission import CheckedRequest
from flux2_mcp.errors import (
    ApiError,
    BudgetError,
    ConflictError,
    Flux2Error,
    InsufficientCreditsError,
    InvalidRequestError,
    NotFoundError,
    Problem,
    RateLimitedError,
    RejectedError,
    TeamCapError,
)
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.server.team import origin
from flux2_mcp.server.team.links import ImageLinks
from flux2_mcp.server.team.uploads import Arrived, Places
from flux2_mcp.server.transports import messages
from flux2_mcp.settings import Settings

API = "/api/v1"
MAX_JSON_BYTES = 1024 * 1024
MAX_FILE_BYTES = 16 * 1024 * 1024
"""The maximum size of a call that brings a file as base64."""
CLIENT = "RunAPI's HTTP"
WORDS: Mapping[State, str] = {
    State.INTENT: "pending",
    State.SUBMITTED: "pending",
    State.PROCESSING: "processing",
    State.COMPLETED: "processing",  # RunAPI has made the image, and it is being fetched
    State.DELIVERED: "completed",
    State.UNDELIVERED: "completed",
    State.FAILED: "failed",
    State.REJECTED: "failed",
    State.UNKNOWN: "unknown",
}
"""RunAPI's words. An end that nobody knows is none of them: no client takes it for a success or a failure."""
SOURCE, SOURCES = "source_image_url", "source_image_urls"
FILTERS = ("service", "action", "model")
CENTS = 100


class _Json(JSONResponse):
    """An answer in JSON. A field that a caller made up may have half a character in its name; RunAPI's numbers are decimal."""

    def render(self, content: object) -> bytes:
        """Return the bytes of the body."""
        return json.dumps(content, separators=(",", ":"), default=float).encode()


class RunApiHttp:
    """The routes.

    Args:
        service: Returns the service of the person whose call is being served.
        caller: Returns who makes it.
        links: Makes the addresses of images.
        places: Says when a file may come.
    """

    def __init__(
        self, service: Callable[[], Service], caller: Callable[[], Caller | None], links: ImageLinks, places: Places
    ) -> None:
        self._service = service
        self._who = caller
        self._links = links
        self._places = places

    def routes(self) -> list[Route]:
        """Return the routes."""
        rows: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/me", self._me),
            ("GET", "/me/balance", self._balance),
            ("GET", "/price_schedules", self._schedules),
            ("POST", "/price_quotes", self._passed_on),
            ("POST", "/files/prepare", self._passed_on),
            ("POST", "/files/confirm", self._passed_on),
            ("POST", "/files", self._file),
            ("POST", "/{line}/{action}", self._create),
            ("GET", "/{line}/{action}/{id:path}", self._get),
        ]
        return [Route(f"{API}{path}", _answering(work), methods=[method]) for method, path, work in rows]

    async def _create(self, request: Request) -> Response:
        body = await _body(request, MAX_JSON_BYTES)
        checked = CheckedRequest(_request(request.path_params, body))
        service, began = self._service(), datetime.now(UTC)
        _check_urls(checked.request, local=_local(service.settings))
        key = request.headers.get("Idempotency-Key") or str(uuid.uuid4())
        # Whoever calls has confirmed the price: RunAPI's own HTTP has no question.
        offer = await service.offer(checked, idempotency_key=key)
        try:
            outcome = await service.generate(offer, approved=True, wait_seconds=0, client=CLIENT)
        except InvalidRequestError as exc:
            if any(each.field == "idempotency_key" for each in exc.problems):
                raise ConflictError(str(exc.message), status=HTTPStatus.CONFLICT) from exc
            raise
        record = outcome.tasks[-1].record
        told = {"task_replayed": True} if record.created_at < began else {}
        return _task_answer(self._task(record, record.task_id or record.key) | told)

    async def _get(self, request: Request) -> Response:
        path = request.path_params
        service = self._service()
        record = await service.known(path["id"])
        if record is None or (catalog.line(record.request), record.request.action) != (path["line"], path["action"]):
            raise NotFoundError("Not found", status=HTTPStatus.NOT_FOUND)
        await service.show([record])
        return _task_answer(self._task(record, path["id"]))

    def _task(self, record: TaskRecord, ident: str) -> dict[str, Any]:
        status = WORDS[record.state]
        shown: dict[str, Any] = {"id": ident, "status": status}
        lost = record.state is State.COMPLETED and record.error is not None  # it could not be fetched so far
        if record.state is State.DELIVERED:
            shown["images"] = [{"url": self._links.link(record, number)[0]} for number in range(len(record.images))]
        elif record.state is State.UNDELIVERED or lost:
            shown |= {"status": "completed", "images": [{"url": url} for url in record.image_urls]}
        elif status == "failed":
            shown["error"] = record.error or "RunAPI gave no reason."
        if shown["status"] == "completed" and record.charged_usd is not None:
            shown["usage"] = {"cost": float(record.charged_usd), "generated_images": len(shown["images"])}
        return shown

    async def _me(self, _: Request) -> Response:
        person = self._caller()
        account = {"id": person.key, "name": "team"}
        return _Json({"id": person.key, "name": person.name or person.subject, "email": "", "account": account})

    async def _balance(self, _: Request) -> Response:
        service = self._service()
        if (left := await service.account.left(service.settings.caps)) is None:
            left = (await service.account.balance()).balance_usd  # what others have spent is not said
        shown = {"balance_cents": _cents(left), "paid_balance_cents": _cents(left), "bonus_balance_cents": 0}
        return _Json(shown)

    async def _schedules(self, request: Request) -> Response:
        query = {name: request.query_params[name] for name in FILTERS if name in request.query_params}
        return _Json(await self._service().account.passed_on(f"{API}/price_schedules?{urlencode(query)}"))

    async def _passed_on(self, request: Request) -> Response:
        body = await _body(request, MAX_JSON_BYTES)
        return _Json(await self._service().account.passed_on(request.url.path, body))

    async def _file(self, request: Request) -> Response:
        async def passed_on(arrived: Arrived) -> Response:
            body = _parsed(await anyio.to_thread.run_sync(arrived.read))
            return _Json(await self._service().account.passed_on(request.url.path, body))

        _check_type(request)
        return await self._places.answer(request, MAX_FILE_BYTES, _too_large(MAX_FILE_BYTES), passed_on)

    def _caller(self) -> Person:
        caller = self._who()
        assert caller is not None  # noqa: S101  # the gate has let the call in
        return caller.person


def _answering(work: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            with origin.of_request(request):
                return await work(request)
        except Flux2Error as exc:
            return _refused(exc)

    return answer


def _check_type(request: Request) -> None:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RejectedError("Send application/json.", status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE)


def _too_large(most: int) -> str:
    return f"The body is larger than {most} bytes."


async def _body(request: Request, most: int) -> dict[str, Any]:
    _check_type(request)
    read = bytearray()
    async for piece in request.stream():
        read += piece
        if len(read) > most:
            raise RejectedError(_too_large(most), status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return _parsed(bytes(read))


def _parsed(read: bytes) -> dict[str, Any]:
    if messages.is_crowded(read):
        raise RejectedError("The body has too many values.", status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    try:
        body = json.loads(read, parse_float=_finite, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise RejectedError("The body is not valid JSON.", status=HTTPStatus.BAD_REQUEST) from exc
    if not isinstance(body, dict):
        raise RejectedError("The body must be a JSON object.", status=HTTPStatus.BAD_REQUEST)
    return body


def _no_constant(name: str) -> object:
    raise ValueError(name)


def _finite(text: str) -> float:
    """A number that JSON can have, too: `1e400` would become one that it can't."""
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


def _request(path: Mapping[str, str], body: Mapping[str, Any]) -> ImageRequest:
    """Return the request that a create call makes. No field is dropped, and none is added.

    Raises:
        NotFoundError: RunAPI has no such endpoint, as far as we know it.
        InvalidRequestError: It names every wrong field.
    """
    models = {
        model.id: model
        for model in catalog.all_models().values()
        if (catalog.line_of(model.service), model.action) == (path["line"], path["action"])
    }
    if not models:
        raise NotFoundError("Not found", status=HTTPStatus.NOT_FOUND)
    model = _model(models, body)
    given = {name: value for name, value in body.items() if name != "model"}
    if problems := catalog.problems(model, given):
        raise InvalidRequestError(*(_own(each, body) for each in problems))
    values = {name: value for name, value in given.items() if value is not None}
    single = values.pop(SOURCE, None)
    sources = values.pop(SOURCES, [] if single is None else [single])
    prompt = values.pop("prompt", "") if model.action in MAKING else ""
    request = ImageRequest(
        action=model.action, variant=model.variant, model=model.id, prompt=prompt, source_image_urls=tuple(sources)
    )
    return replace(request, **values)


def _check_urls(request: ImageRequest, *, local: bool) -> None:
    wrong = callback_problems(request.callback_url, local=local)
    if not all(is_url(url, local=local) for url in request.source_image_urls):
        wrong.append(
            Problem(SOURCES if request.action in MAKING else SOURCE, "must be https, without a user name in it.")
        )
    if wrong:
        raise InvalidRequestError(*wrong)


def _local(settings: Settings) -> bool:
    """Whether RunAPI, or the sandbox, is on this machine: then plain http on loopback leads somewhere."""
    return settings.mode == "sandbox" or is_loopback(urlsplit(settings.base_url).hostname)


def _model(models: Mapping[str, Model], body: Mapping[str, Any]) -> Model:
    name = body.get("model")
    if name is None and not any(model.fields["model"].required for model in models.values()):
        return next(iter(models.values()))
    if not isinstance(name, str) or name not in models:
        raise InvalidRequestError(Problem("model", f"must be one of {', '.join(models)}."))
    return models[name]


def _own(problem: Problem, body: Mapping[str, Any]) -> Problem:
    """The problem with RunAPI's own name of the field. The catalogue names the sources as the tool does."""
    return Problem(SOURCES, problem.text) if problem.field == "source_images" and problem.field not in body else problem


def _task_answer(shown: dict[str, Any]) -> Response:
    return _Json(shown, headers={"X-RunAPI-Task-Id": shown["id"]})


def _refused(exc: Flux2Error) -> Response:
    """Return a refusal in RunAPI's form. What is wrong with the server's own key is no fault of the caller's."""
    text, headers, status, code = str(exc.message), {}, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"
    more: dict[str, str] = {}
    if isinstance(exc, InvalidRequestError):
        errors: dict[str, list[str]] = {}
        for each in exc.problems:
            errors.setdefault(str(each.field), []).append(str(each.text))
        return _invalid(errors, HTTPStatus.UNPROCESSABLE_ENTITY)
    if isinstance(exc, BudgetError):
        status, code, more = HTTPStatus.PAYMENT_REQUIRED, TeamCapError.code, {"next_step": str(exc.next_step)}
        text = f"{text} {exc.next_step}"  # the vendor's SDK shows this alone; flux2-mcp shows each in its place
    elif isinstance(exc, RateLimitedError):
        status, code = HTTPStatus.TOO_MANY_REQUESTS, "rate_limited"
        headers = {} if exc.retry_after is None else {"Retry-After": str(int(exc.retry_after) + 1)}
    elif isinstance(exc, NotFoundError | RejectedError | InsufficientCreditsError | ConflictError):
        if exc.field_errors:
            return _invalid(exc.field_errors, exc.status)
        status, code = HTTPStatus(exc.status), exc.code
    elif isinstance(exc, ApiError):
        text = f"RunAPI refused the team's server: {text}"
    return _Json({"error": {"code": code, "message": text} | more}, status, headers)


def _invalid(errors: Mapping[str, Sequence[str]], status: int) -> Response:
    return _Json({"error": "Validation failed", "errors": errors}, status)


def _cents(usd: Decimal) -> int:
    return int(usd * CENTS)
