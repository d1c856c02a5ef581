"""Translates between RunAPI's JSON and our models. Pure: strict in writing, liberal in reading (`api/runapi.md`).

Readers take the objects of `error_text.loads`. They ignore unknown fields, and raise `WireError` only if nothing useful
is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from msgspec import Struct

from flux2_mcp.domain import catalog
from flux2_mcp.domain.catalog import Model
from flux2_mcp.domain.hidden_fields import repr_without
from flux2_mcp.domain.models import (
    MAKING,
    Action,
    Balance,
    ImageRequest,
    ListenEvent,
    PriceSchedule,
    RemoteTask,
    RunApiAccount,
    Status,
    UploadedFile,
)
from flux2_mcp.errors import WireError
from flux2_mcp.runapi.error_text import clean, error_message, loads, said

MAX_ID_CHARS = 512
"""Characters of an id: of an idempotency key (`api/runapi.md`), and of RunAPI's own ids."""
MAX_EVENTS = 100
"""Events of one answer that are read; the next answer has the others."""
MAX_URL_CHARS = 8192
"""Characters of a URL. Signed ones have about 1,500."""

_STATUSES = {
    "pending": Status.PENDING,
    "processing": Status.PROCESSING,
    "completed": Status.COMPLETED,
    "failed": Status.FAILED,
    # Statuses of newer packages, then of older gateways (`api/runapi.md`). "canceled" has two spellings.
    "queued": Status.PENDING,
    "complete": Status.COMPLETED,
    "finished": Status.COMPLETED,
    "timeout": Status.FAILED,
    "succeeded": Status.COMPLETED,
    "success": Status.COMPLETED,
    "error": Status.FAILED,
    "canceled": Status.FAILED,
    "cancelled": Status.FAILED,
}
_STATUS_KEYS = ("status", "state")
_ID_KEYS = ("id", "task_id", "taskId")
_ALSO = {
    "paid_usd": "paid_balance_cents", "bonus_usd": "bonus_balance_cents",
    "spent_today_usd": "spent_cents_today", "spent_total_usd": "spent_cents_total",
}  # fmt: skip
_CENT_IN_MICRO_CENTS = Decimal(10**6)
_DEAREST = Decimal(10**9)
_FINEST = 6


class UploadSlot(Struct, frozen=True):
    """The address for the bytes of an upload, and their headers. The URL is a secret as long as it is valid."""

    upload_url: str
    headers: Mapping[str, str]
    signed_id: str

    __repr__ = repr_without("upload_url", "headers", "signed_id")


class IssuedKey(Struct, frozen=True):
    """The result of a browser login: the key, its name and the user's e-mail. Name and e-mail may be empty."""

    key: str
    name: str
    email: str

    __repr__ = repr_without("key")


def body(request: ImageRequest) -> dict[str, Any]:
    """The JSON of a create call: the contract's fields that have a value, in the contract's order, without nulls."""
    making = request.action in MAKING
    fields = {
        "model": request.model,
        "prompt": request.prompt if making else None,
        "source_image_urls": list(request.source_image_urls) if request.action is Action.REMIX_IMAGE else None,
        "source_image_url": None if making else request.source_image_urls[0],
        "aspect_ratio": request.aspect_ratio,
        "output_resolution": request.output_resolution,
        "enable_safety_checker": request.enable_safety_checker,
        "upscale_factor": request.upscale_factor,
        "callback_url": request.callback_url,
    }
    return {name: value for name, value in fields.items() if value is not None}


def task(
    payload: Mapping[str, object],
    *,
    asked: str | None = None,
    named: str | None = None,
    retry_after: float | None = None,
    key: str | None = None,
    at: str = "",
    location: str | None = None,
) -> RemoteTask:
    """The task in the answer to a create or a poll, or in the envelope of a hybrid task.

    COMPLETED without an image URL stays COMPLETED, with `image_urls` empty: the task ended and was charged, and the
    caller reports that no image came. A status that is not documented is UNKNOWN. A missing status is PENDING in the
    answer to a create, and UNKNOWN in that to a poll.

    Args:
        payload: The answer.
        asked: The id that was polled; None for the answer to a create.
        named: The id in `X-RunAPI-Task-Id`, for an answer that has none itself.
        retry_after: Seconds, from the answer's header.
        key: The API key, which is never shown.
        at: The URL that was called: an image's address that begins with a slash is relative to it.
        location: Where a hybrid task is polled, from `location_path`; its last part is the id if nothing else names it.

    Raises:
        WireError: The answer to a create names no task.
    """
    found = _unwrapped(_opened(payload, key))
    last = unquote(urlsplit(location or "").path.rpartition("/")[2])
    told = (*(_id(found.get(name)) for name in _ID_KEYS), _id(named), _id(last))
    task_id = asked or next((text for text in told if text and can_be_asked(text)), None)
    if not task_id:
        words = clean(said(found), key)
        raise WireError(f"RunAPI's answer names no task{f': {words}' if words else '.'}")
    status = _status(found) or (Status.PENDING if asked is None else Status.UNKNOWN)
    refunded = _refunded(found)
    images = found.get("images")
    urls = [_dict(image).get("url", image) for image in images] if isinstance(images, list) else []
    return RemoteTask(
        task_id=task_id,
        status=status,
        image_urls=tuple(url for item in urls if (url := _url(item, at))),
        cost_usd=Decimal(0) if refunded else _charge(found),
        refunded=refunded,
        reserved_usd=_reserved(found),
        error=(clean(said(found), key) or None) if status in {Status.FAILED, Status.UNKNOWN} else None,
        retry_after=retry_after,
        location=location,
        replayed=found.get("task_replayed") is True,
    )


def location_path(location: str, called: str, base: str) -> str:
    """Where a hybrid task is polled: its `Location` as a path after the base URL.

    Args:
        location: The header; a relative one is resolved.
        called: The path that was called.
        base: The configured base URL. A path that lacks the base's own path gets it, as in the vendor's SDK.

    Raises:
        WireError: It leads to another origin, where the key must not go, or is no URL.
    """
    with suppress(ValueError):
        found, ours = urlsplit(urljoin(f"{base}{called}", location.strip())), urlsplit(base)
        path = found.path.removeprefix(f"{ours.path}/" if ours.path else "").removeprefix("/")
        query = f"?{found.query}" if found.query else ""
        text = f"/{path}{query}"
        sendable = text.isascii() and text.isprintable() and " " not in text and len(text) <= MAX_URL_CHARS
        if path and sendable and _origin(found) == _origin(ours):
            return text
    raise WireError(
        "RunAPI named the new task by an address that is not its own, so it was not asked there. Nothing is lost: the same"
        " idempotency key finds the task."
    )


def result_path(task_id: str) -> str:
    """Where a hybrid task is polled of which only the id is known."""
    return f"/api/v1/tasks/{quote(task_id, safe='', errors='replace')}"


def _origin(url: SplitResult) -> tuple[str, str, int | None]:
    return url.scheme, url.hostname or "", url.port or {"http": 80, "https": 443}.get(url.scheme)


def can_be_asked(task_id: str) -> bool:
    """Whether a task with this id can be polled: the id is a part of a URL's path."""
    return bool(task_id.strip(".")) and len(task_id) <= MAX_ID_CHARS


def price_schedules(payload: Mapping[str, object]) -> tuple[PriceSchedule, ...]:
    """The live prices of the catalogue's models; other entries are left out.

    A resolution that the overrides don't name has the unit price. None: there is no price, or it is not in USD, or it
    depends on something other than the resolution; then the highest amount of the entry may be charged.

    Raises:
        WireError: There is no list of schedules.
    """
    entries = payload.get("price_schedules")
    if not isinstance(entries, list):
        raise WireError("RunAPI's price list holds no price_schedules.")
    as_of = _words(payload.get("as_of"))
    known = ((_dict(entry), catalog.all_models().get(str(_dict(entry).get("model")))) for entry in entries)
    return tuple(
        PriceSchedule(
            model=model.id,
            action=model.action,
            cents=_cents(entry, model),
            dearest_cents=_dearest_cents(entry),
            as_of=as_of,
        )
        for entry, model in known
        if model is not None
    )


def balance(payload: Mapping[str, object]) -> Balance:
    """The account's money.

    Raises:
        WireError: There is no balance.
    """
    cents = _number(payload.get("balance_cents"), least=-_DEAREST)
    if cents is None:
        raise WireError("RunAPI's answer holds no balance_cents.")
    told = {field: _number(payload.get(name)) for field, name in _ALSO.items()}
    usd = {field: None if amount is None else _dollars(amount) for field, amount in told.items()}
    return Balance(balance_usd=_dollars(cents), **usd)


def account(payload: Mapping[str, object]) -> RunApiAccount:
    """The owner of a key; fields missing in the answer are empty."""
    owner = _dict(payload.get("account"))
    return RunApiAccount(
        name=_words(payload.get("name")),
        email=_words(payload.get("email")),
        account_name=_words(owner.get("name")),
        account_id=(_id(owner.get("id")) or "").strip(),
    )


def preparation(payload: Mapping[str, object]) -> UploadSlot:
    """The place for a file's bytes.

    Raises:
        WireError: The address or the id is missing.
    """
    url, signed_id = _text(payload.get("upload_url")), _text(payload.get("signed_id"))
    if not (url and signed_id):
        raise WireError("RunAPI's answer to files/prepare holds no upload_url and signed_id.")
    headers = {name: str(value) for name, value in _dict(payload.get("headers")).items() if value is not None}
    return UploadSlot(upload_url=url, headers=headers, signed_id=signed_id)


def uploaded_file(
    payload: Mapping[str, object], *, file_name: str = "", size_bytes: int = 0, ahead: timedelta = timedelta()
) -> UploadedFile:
    """A file that RunAPI holds. `file_name` and `size_bytes` are used if the answer lacks them.

    `ahead`: how far RunAPI's clock is ahead of ours. The result's `expires_at` is by our clock.

    Raises:
        WireError: There is no URL.
    """
    url, size = _url(payload.get("url")), payload.get("size_bytes")
    if not url:
        raise WireError("RunAPI's answer to an upload holds no url.")
    return UploadedFile(
        file_name=_words(payload.get("file_name")) or file_name,
        url=url,
        size_bytes=size if type(size) is int and 0 <= size < _DEAREST else size_bytes,
        mime_type=_words(payload.get("mime_type")),
        expires_at=_moment(payload.get("expires_at"), ahead),
    )


def login(payload: Mapping[str, object]) -> IssuedKey:
    """The key from the exchange of a browser's code.

    Raises:
        WireError: There is no key that can be sent.
    """
    key = (_text(payload.get("key")) or "").strip()
    if not (key and key.isascii() and key.isprintable()):
        raise WireError("RunAPI's answer to the login holds no key.")
    email = _words(_dict(payload.get("user")).get("email"))
    return IssuedKey(key=key, name=_words(payload.get("name")), email=email)


def listen_session(payload: Mapping[str, object]) -> str:
    """The token of a listen session.

    Raises:
        WireError: There is none that can be sent in a header.
    """
    token = _id(payload.get("session_token"))
    if token is None or not token.isascii() or token != token.strip() or not can_be_asked(token):
        raise WireError("RunAPI's answer to a listen session holds no session_token.")
    return token


def listen_events(payload: Mapping[str, object]) -> tuple[ListenEvent, ...]:
    """The callbacks that a listen session has, in the order of their numbers. Entries without a number are left out.

    Raises:
        WireError: There is no list of events.
    """
    entries = payload.get("events")
    if not isinstance(entries, list):
        raise WireError("RunAPI's answer to a listen session holds no events.")
    numbered = ((_dict(entry).get("id"), _dict(entry).get("signed_body")) for entry in entries[:MAX_EVENTS])
    return tuple(
        sorted(
            (
                ListenEvent(number, _called(body))
                for number, body in numbered
                if type(number) is int and 0 < number < 2**63
            ),
            key=lambda event: event.id,
        )
    )


def _called(signed_body: object) -> str | None:
    """The id of the task that a callback is for, or None."""
    try:
        found = _unwrapped(_dict(loads(signed_body if isinstance(signed_body, str) else "")))
    except ValueError:
        return None
    return next((text for name in _ID_KEYS if (text := _id(found.get(name)))), None)


def _unwrapped(payload: Mapping[str, object]) -> Mapping[str, object]:
    """The task itself, without an envelope. An envelope's "status": "success" is about the call, not about the task."""
    inner = payload.get("data")
    if not isinstance(inner, dict):
        return payload
    if inner.keys() & {*_ID_KEYS, *_STATUS_KEYS} or not payload.keys() & set(_ID_KEYS):
        return {name: value for name, value in payload.items() if name not in _STATUS_KEYS} | inner
    return payload


def _opened(payload: Mapping[str, object], key: str | None) -> Mapping[str, object]:
    """A hybrid task's envelope with the endpoint's own answer in its place; any other answer unchanged.

    The stored answer counts once the envelope says that the task has ended. A stored error is a failed task.
    """
    response = payload.get("response")
    if not isinstance(response, dict):
        return payload
    envelope = {name: value for name, value in payload.items() if name != "response"}
    status, code, answer = _status(envelope), _number(response.get("status")), response.get("body")
    if status not in {Status.COMPLETED, Status.FAILED, None}:
        return envelope
    text = answer if isinstance(answer, str) else ""
    with suppress(ValueError):
        answer = loads(text) if text else answer
    if status is Status.FAILED or (code is not None and not HTTPStatus.OK <= code < HTTPStatus.MULTIPLE_CHOICES):
        words = error_message(text, str(response.get("content_type")), key) if text else said(answer)
        words = words or said(envelope) or f"RunAPI answered {response.get('status')}."
        return {name: value for name, value in envelope.items() if name not in _STATUS_KEYS} | {
            "status": Status.FAILED,
            "error": words,
        }
    answer = _unwrapped(_dict(answer))
    outer = _STATUS_KEYS if _status(answer) is not None else ()
    return {name: value for name, value in envelope.items() if name not in outer} | dict(answer)


def _status(found: Mapping[str, object]) -> Status | None:
    """The status that an answer states; None if it states none."""
    word = next((found[name] for name in _STATUS_KEYS if found.get(name) is not None), None)
    return None if word is None else _STATUSES.get(str(word).strip().lower(), Status.UNKNOWN)


def _refunded(found: Mapping[str, object]) -> bool:
    """Whether everything was refunded: `refunded_at` is a time or true. Any other value does not count."""
    at = _dict(_dict(found.get("billing")).get("refund")).get("refunded_at")
    return at is True or _moment(at, timedelta()) is not None


def _charge(found: Mapping[str, object]) -> Decimal | None:
    """The cost of a task, in USD; None if RunAPI does not state it.

    A settlement takes precedence over `usage`, which is only a measure of use. Whole cents and the exact amount may
    differ: the higher one is safe to count. An amount of 0 is ignored: RunAPI states by a refund that nothing is
    charged.
    """
    settlement, usage = _dict(_dict(found.get("billing")).get("settlement")), _dict(found.get("usage"))
    exact = _number(settlement.get("amount_micro_cents"))
    settled = [
        _dollars(cents)
        for cents in (_number(settlement.get("charged_amount_cents")), exact and exact / _CENT_IN_MICRO_CENTS)
        if cents
    ]
    used = [_dollars(cents) for told in (usage, found) if (cents := _number(told.get("cost_cents")))]
    return max(settled, default=None) or max([_number(usage.get("cost")) or Decimal(0), *used]) or None


def _reserved(found: Mapping[str, object]) -> Decimal | None:
    reservation = _dict(_dict(found.get("billing")).get("reservation"))
    cents = _number(reservation.get("amount_cents"))
    return None if cents is None else _dollars(cents)


def _cents(entry: Mapping[str, object], model: Model) -> dict[str, Decimal | None]:
    """The price of each resolution in cents, or None. A price of 0 does not count."""
    config, overrides = _dict(entry.get("billing_config")), _overrides(entry)
    if not _in_usd(entry) or (overrides and config.get("key") != model.size_field):
        return dict.fromkeys(model.resolutions)
    unit = _number(entry.get("unit_price_cents"))
    return {name: overrides.get(name, unit) or None for name in model.resolutions}


def _dearest_cents(entry: Mapping[str, object]) -> Decimal | None:
    amounts = [_number(entry.get("unit_price_cents")), *_overrides(entry).values()]
    return max((cents for cents in amounts if cents), default=None) if _in_usd(entry) else None


def _overrides(entry: Mapping[str, object]) -> dict[str, Decimal | None]:
    found = _dict(_dict(entry.get("billing_config")).get("overrides"))
    return {name.strip().lower(): _number(cents) for name, cents in found.items()}


def _in_usd(found: Mapping[str, object]) -> bool:
    return str(found.get("currency") or "USD").upper() == "USD"


def _dict(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    """A string that is not blank and can be encoded (JSON can hold half of a surrogate pair), or None."""
    if not isinstance(value, str) or not value.strip() or any("\ud800" <= char <= "\udfff" for char in value):
        return None
    return value


def _words(value: object) -> str:
    """Text to show, in one line and not too long; "" if there is none."""
    return clean(_text(value) or "")


def _id(value: object) -> str | None:
    """An id: text or a number; None if it is too long or has more than one line."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)
    return text if text and len(text) <= MAX_ID_CHARS and text.isprintable() else None


def _url(value: object, at: str = "") -> str | None:
    """A URL, or None. `routes` decides whether it may be fetched."""
    text = _text(value)
    if text and text.startswith("/"):
        with suppress(ValueError):
            text = urljoin(at, text)
    return text if text and len(text) <= MAX_URL_CHARS and text.isprintable() else None


def _number(value: object, least: Decimal = Decimal(0)) -> Decimal | None:
    """An exact number from a JSON number or its text, without a float's rounding error; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        number = Decimal(str(value))
        if not least <= number < _DEAREST:
            return None
    except (InvalidOperation, ValueError):
        return None
    rounded = round(number, _FINEST)
    return number if number == rounded else rounded


def _dollars(cents: Decimal) -> Decimal:
    return cents.scaleb(-2)


def _moment(value: object, ahead: timedelta) -> datetime | None:
    """A time by our clock, from a time by a clock that is `ahead` of ours; None if it can't be read."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return moment and (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC) - ahead
    except (ValueError, OverflowError):
        return None
