"""Vendor JSON <-> our models. Pure: strict in what it writes, liberal in what it reads (`api/runapi.md`).

Readers take what `words.loads` gives. They raise `WireError` only where nothing useful can be said; unknown fields are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import urljoin

from flux2_mcp.domain import catalog
from flux2_mcp.domain.models import (
    Action,
    Balance,
    ImageRequest,
    PriceSchedule,
    RemoteTask,
    RunApiAccount,
    Status,
    UploadedFile,
)
from flux2_mcp.errors import WireError
from flux2_mcp.runapi.error_text import clean, said

MAX_ID_CHARS = 512
"""Characters of an id: of an idempotency key (`api/runapi.md`), and of what RunAPI names by itself."""
MAX_URL_CHARS = 8192
"""Characters of an address. Signed ones have about 1,500."""

_STATUSES = {
    "pending": Status.PENDING,
    "processing": Status.PROCESSING,
    "completed": Status.COMPLETED,
    "failed": Status.FAILED,
    # Newer packages' words, then older gateways' (`api/runapi.md`); "cancelled" is "canceled" in its other spelling.
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


@dataclass(frozen=True, slots=True)
class UploadSlot:
    """Where the bytes of an upload go, and with which headers. The URL is a secret for as long as it lives."""

    upload_url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    signed_id: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """What a browser login gives: the key, its name and the user's e-mail. What is not told is empty, except the key."""

    key: str = field(repr=False)
    name: str
    email: str


def body(request: ImageRequest) -> dict[str, Any]:
    """The JSON of a create call: the contract's fields that were given, in the contract's order, no nulls."""
    fields = {
        "model": request.model,
        "prompt": request.prompt,
        "source_image_urls": list(request.source_image_urls) if request.action is Action.REMIX_IMAGE else None,
        "aspect_ratio": request.aspect_ratio,
        "output_resolution": request.output_resolution,
        "enable_safety_checker": request.enable_safety_checker,
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
) -> RemoteTask:
    """A task, as created or as asked for.

    COMPLETED with no image URL stays COMPLETED with `image_urls` empty: it ended and was charged, and the caller says
    that nothing came. A status that nobody promised is UNKNOWN; one that is absent is PENDING in the answer to a create.

    Args:
        payload: The answer.
        asked: The id that was asked for; None in the answer to a create.
        named: The id in `X-RunAPI-Task-Id`, for an answer that has none itself.
        retry_after: Seconds, from the answer's header.
        key: The API key, never shown.
        at: The address that answered: what begins with a slash in the place of an address begins there.

    Raises:
        WireError: The answer to a create names no task.
    """
    found = _unwrapped(payload)
    told = (*(_id(found.get(name)) for name in _ID_KEYS), _id(named))
    task_id = asked or next((text for text in told if text and can_be_asked(text)), None)
    if not task_id:
        words = clean(said(found), key)
        raise WireError(f"RunAPI's answer names no task{f': {words}' if words else '.'}")
    word = next((found[name] for name in _STATUS_KEYS if found.get(name) is not None), None)
    if word is None:
        status = Status.PENDING if asked is None else Status.UNKNOWN
    else:
        status = _STATUSES.get(str(word).strip().lower(), Status.UNKNOWN)
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
    )


def can_be_asked(task_id: str) -> bool:
    """Whether a task can be asked about under this id: it is a part of a path."""
    return bool(task_id.strip(".")) and len(task_id) <= MAX_ID_CHARS


def price_schedules(payload: Mapping[str, object]) -> tuple[PriceSchedule, ...]:
    """The live prices of the catalogue's models; other entries are left out.

    A resolution that the overrides don't name has the unit price. None: no price is told, it is not in USD, or it
    hangs on something other than the resolution; then the dearest amount of the entry is what may be charged.

    Raises:
        WireError: There is no list of schedules.
    """
    entries = payload.get("price_schedules")
    if not isinstance(entries, list):
        raise WireError("RunAPI's price list holds no price_schedules.")
    as_of = _words(payload.get("as_of"))
    known = ((_dict(entry), catalog.models().get(str(_dict(entry).get("model")))) for entry in entries)
    return tuple(
        PriceSchedule(
            model=model.id,
            action=model.action,
            cents=_cents(entry, model.resolutions),
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
    """Whose key it is; what is not told is empty."""
    owner = _dict(payload.get("account"))
    return RunApiAccount(
        name=_words(payload.get("name")),
        email=_words(payload.get("email")),
        account_name=_words(owner.get("name")),
        account_id=(_id(owner.get("id")) or "").strip(),
    )


def preparation(payload: Mapping[str, object]) -> UploadSlot:
    """Where to put a file's bytes.

    Raises:
        WireError: Address or id is missing.
    """
    url, signed_id = _text(payload.get("upload_url")), _text(payload.get("signed_id"))
    if not (url and signed_id):
        raise WireError("RunAPI's answer to files/prepare holds no upload_url and signed_id.")
    headers = {name: str(value) for name, value in _dict(payload.get("headers")).items() if value is not None}
    return UploadSlot(upload_url=url, headers=headers, signed_id=signed_id)


def uploaded_file(
    payload: Mapping[str, object], *, file_name: str = "", size_bytes: int = 0, ahead: timedelta = timedelta()
) -> UploadedFile:
    """A file that RunAPI holds. Where the answer leaves out name or size, those given stand in.

    `ahead`: how far RunAPI's clock is ahead of ours. The file's `expires_at` is by ours.

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
    """The key that a browser's code was exchanged for.

    Raises:
        WireError: There is no key that could be sent.
    """
    key = (_text(payload.get("key")) or "").strip()
    if not (key and key.isascii() and key.isprintable()):
        raise WireError("RunAPI's answer to the login holds no key.")
    email = _words(_dict(payload.get("user")).get("email"))
    return IssuedKey(key=key, name=_words(payload.get("name")), email=email)


def _unwrapped(payload: Mapping[str, object]) -> Mapping[str, object]:
    """The task itself. An envelope's own "status": "success" is about the call and says nothing about the task."""
    inner = payload.get("data")
    if not isinstance(inner, dict):
        return payload
    if inner.keys() & {*_ID_KEYS, *_STATUS_KEYS} or not payload.keys() & set(_ID_KEYS):
        return {name: value for name, value in payload.items() if name not in _STATUS_KEYS} | inner
    return payload


def _refunded(found: Mapping[str, object]) -> bool:
    """Whether everything was given back: at a time, or plainly so. Any other word is none."""
    at = _dict(_dict(found.get("billing")).get("refund")).get("refunded_at")
    return at is True or _moment(at, timedelta()) is not None


def _charge(found: Mapping[str, object]) -> Decimal | None:
    """What a task cost, in USD; None where RunAPI does not say.

    A settlement goes before `usage`, which is only a measure of use. Whole cents may hide what an exact amount tells, and the
    other way round: of those the dearer is safe to count. An amount of nothing tells nothing: who charges nothing says that
    by a refund.
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


def _cents(entry: Mapping[str, object], resolutions: tuple[str, ...]) -> dict[str, Decimal | None]:
    """What is told of each resolution. Nothing is no price."""
    config, overrides = _dict(entry.get("billing_config")), _overrides(entry)
    if not _in_usd(entry) or (overrides and config.get("key") != "output_resolution"):
        return dict.fromkeys(resolutions)
    unit = _number(entry.get("unit_price_cents"))
    return {name: overrides.get(name, unit) or None for name in resolutions}


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
    """A string that says something and can be encoded: JSON can spell half of a surrogate pair."""
    if not isinstance(value, str) or not value.strip() or any("\ud800" <= char <= "\udfff" for char in value):
        return None
    return value


def _words(value: object) -> str:
    """Words to show, in one line, not too long; empty where there are none."""
    return clean(_text(value) or "")


def _id(value: object) -> str | None:
    """What names something: text, or a number. What is too long for that, or holds more than one line, names nothing."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)
    return text if text and len(text) <= MAX_ID_CHARS and text.isprintable() else None


def _url(value: object, at: str = "") -> str | None:
    """An address, whatever it leads to: `addresses` sees to that."""
    text = _text(value)
    if text and text.startswith("/"):
        with suppress(ValueError):
            text = urljoin(at, text)
    return text if text and len(text) <= MAX_URL_CHARS and text.isprintable() else None


def _number(value: object, least: Decimal = Decimal(0)) -> Decimal | None:
    """An exact number from a JSON number or its text; a float's noise, far behind the point, is rounded off."""
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
    """An instant by our clock, from one by a clock that is so far ahead of it."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return moment and (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC) - ahead
    except (ValueError, OverflowError):
        return None
