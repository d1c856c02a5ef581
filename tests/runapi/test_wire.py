from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

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
from flux2_mcp.runapi import error_text, wire
from tests.support.rows import rows

KEY = "sk-run/very+secret"
PLAIN = ImageRequest(
    action=Action.TEXT_TO_IMAGE, variant="pro", model="flux-2-pro-text-to-image", prompt="an astronaut holding a cat"
)
REMIX = ImageRequest(
    action=Action.REMIX_IMAGE,
    variant="flex",
    model="flux-2-flex-remix-image",
    prompt="in oil",
    source_image_urls=("https://example.com/a.png", "https://example.com/b.png"),
    aspect_ratio="auto",
    output_resolution="2k",
    enable_safety_checker=False,
    callback_url="https://example.com/hook",
)
REMIX_BODY = {
    "model": "flux-2-flex-remix-image",
    "prompt": "in oil",
    "source_image_urls": ["https://example.com/a.png", "https://example.com/b.png"],
    "aspect_ratio": "auto",
    "output_resolution": "2k",
    "enable_safety_checker": False,
    "callback_url": "https://example.com/hook",
}
URL = "https://cdn.example.com/1.png"


def test_a_body_holds_what_was_given_and_nothing_else() -> None:
    assert wire.body(PLAIN) == {"model": "flux-2-pro-text-to-image", "prompt": "an astronaut holding a cat"}


def test_a_body_holds_every_field_of_the_contract_always_in_the_same_order() -> None:
    assert json.dumps(wire.body(REMIX)) == json.dumps(REMIX_BODY)


def test_source_images_are_sent_only_with_a_remix() -> None:
    assert "source_image_urls" not in wire.body(replace(REMIX, action=Action.TEXT_TO_IMAGE))


def read(said: object) -> RemoteTask:
    """What a GET for task `t` makes of an answer."""
    loaded = error_text.loads(json.dumps(said))
    assert isinstance(loaded, dict)
    return wire.task(loaded, asked="t", key=KEY)


def test_a_completed_task_is_read_as_the_contract_writes_it() -> None:
    said = {"id": "t", "status": "completed", "images": [{"url": URL}], "usage": {"cost": 0.05, "generated_images": 1}}
    assert read(said) == RemoteTask(
        task_id="t", status=Status.COMPLETED, image_urls=(URL,), cost_usd=Decimal("0.05"), error=None
    )


def test_a_failed_task_is_read_as_the_contract_writes_it() -> None:
    assert read({"id": "t", "status": "failed", "error": "moderated"}) == RemoteTask(
        task_id="t", status=Status.FAILED, error="moderated"
    )


@rows(
    ("word", "status"),
    [
        ("pending", Status.PENDING),
        ("processing", Status.PROCESSING),
        ("completed", Status.COMPLETED),
        ("failed", Status.FAILED),
        ("succeeded", Status.COMPLETED),
        ("success", Status.COMPLETED),
        ("error", Status.FAILED),
        ("canceled", Status.FAILED),
        ("cancelled", Status.FAILED),
        (" Completed ", Status.COMPLETED),
        ("PENDING", Status.PENDING),
        ("queued", Status.PENDING),
        ("complete", Status.COMPLETED),
        ("finished", Status.COMPLETED),
        ("timeout", Status.FAILED),
        ("running", Status.UNKNOWN),
        ("done", Status.UNKNOWN),
        ("not completed", Status.UNKNOWN),
        ("unknown", Status.UNKNOWN),
        ("", Status.UNKNOWN),
        (200, Status.UNKNOWN),
        (True, Status.UNKNOWN),
        (["completed"], Status.UNKNOWN),
    ],
)
@rows("name", ["status", "state"])
def test_only_promised_words_are_statuses(name: str, word: object, status: Status) -> None:
    assert read({"id": "t", name: word}).status is status


@given(st.text())
def test_no_other_word_is_success(word: str) -> None:
    if word.strip().lower() not in {"completed", "complete", "finished", "succeeded", "success"}:
        assert wire.task({"status": word}, asked="t").status is not Status.COMPLETED


def test_the_newer_name_of_the_status_wins() -> None:
    assert read({"status": "processing", "state": "completed"}).status is Status.PROCESSING


@rows("said", [{"id": "t"}, {"id": "t", "status": None}, {"task_id": "t"}, {"data": {"taskId": "t"}}])
def test_a_create_without_a_status_is_pending_and_a_poll_without_one_is_unknown(said: dict[str, Any]) -> None:
    assert wire.task(said) == RemoteTask(task_id="t", status=Status.PENDING)
    assert read(said) == RemoteTask(task_id="t", status=Status.UNKNOWN)


@rows(
    ("said", "task_id"),
    [
        ({"id": "a"}, "a"),
        ({"task_id": "a"}, "a"),
        ({"taskId": "a"}, "a"),
        ({"id": 17}, "17"),
        ({"id": None, "task_id": "a"}, "a"),
        ({"id": " "}, "from the header"),
        ({"id": "x" * 513}, "from the header"),
        ({"id": 10**512}, "from the header"),
        ({"id": "a\nb"}, "from the header"),
        ({"id": "x" * 512}, "x" * 512),
        ({"status": "pending"}, "from the header"),
        ({"id": "envelope", "data": {"id": "a"}}, "a"),
    ],
)
def test_a_created_task_has_the_id_of_its_answer_or_of_the_header(said: dict[str, Any], task_id: str) -> None:
    assert wire.task(said, named="from the header").task_id == task_id


def test_an_id_that_can_not_be_asked_about_is_none() -> None:
    for ident in ("..", "x" * 513):
        assert wire.task({"id": ident, "task_id": "t"}).task_id == "t"
        assert wire.task({"id": ident}, named="t").task_id == "t"
        with pytest.raises(WireError, match="names no task"):
            wire.task({"id": ident})


@rows("said", [{}, {"id": ""}, {"id": True}, {"data": {}}, {"data": []}])
def test_a_create_that_names_no_task_makes_no_sense(said: dict[str, Any]) -> None:
    with pytest.raises(WireError, match=r"^RunAPI's answer names no task\.$"):
        wire.task(said)


@pytest.mark.parametrize("text", ["x" * 200_000, "a\r\nb", " "])
def test_what_is_too_long_for_an_id_or_has_lines_names_no_task_and_is_not_repeated(text: str) -> None:
    with pytest.raises(WireError, match=r"^RunAPI's answer names no task\.$"):
        wire.task({"id": text, "task_id": text}, named=text)


def test_a_create_that_names_no_task_gives_its_reason_without_the_key() -> None:
    with pytest.raises(WireError, match=r"^RunAPI's answer names no task: bad key ••••$"):
        wire.task({"error": f"bad key {KEY}"}, key=KEY)


def test_a_nested_task_is_read_like_any_other() -> None:
    said = {"code": 200, "data": {"id": "t", "state": "succeeded", "images": [URL], "usage": {"cost": 0.07}}}
    assert read(said) == RemoteTask(task_id="t", status=Status.COMPLETED, image_urls=(URL,), cost_usd=Decimal("0.07"))


@pytest.mark.parametrize(
    "said",
    [
        {"status": "success", "data": {"id": "t"}},
        {"status": "success", "data": {"id": "t", "state": "strange"}},
        {"status": "success", "data": {}},
    ],
)
def test_an_envelopes_success_is_not_the_tasks(said: dict[str, Any]) -> None:
    assert read(said).status is Status.UNKNOWN


def test_a_task_with_data_of_its_own_is_not_taken_for_an_envelope() -> None:
    said = {"id": "t", "status": "completed", "images": [{"url": URL}], "data": {"width": 1024}}
    assert read(said) == RemoteTask(task_id="t", status=Status.COMPLETED, image_urls=(URL,))


@rows(
    ("images", "urls"),
    [
        ([{"url": URL}], (URL,)),
        ([URL], (URL,)),
        ([{"url": URL, "width": 1024}, {"url": None}, {}, "", " ", 7, None, [URL]], (URL,)),
        ([{"url": "https://cdn.example.com/\ud800.png"}], ()),
        ([{"url": f"{URL}?{'x' * 90_000}"}, {"url": f"{URL}\nX: y"}, URL], (URL,)),
        ([URL.ljust(8192, "x")], (URL.ljust(8192, "x"),)),
        ([], ()),
        (None, ()),
        (URL, ()),
        ({"url": URL}, ()),
    ],
)
def test_images_are_objects_or_strings(images: object, urls: tuple[str, ...]) -> None:
    assert read({"status": "completed", "images": images}) == RemoteTask(
        task_id="t", status=Status.COMPLETED, image_urls=urls
    )


@rows(
    ("said", "usd"),
    [
        ({"usage": {"cost": 0.05}}, "0.05"),
        ({"usage": {"cost": 0.1}}, "0.1"),
        ({"usage": {"cost": 0.07000000000000001}}, "0.07"),
        ({"usage": {"cost": 1}}, "1"),
        ({"usage": {"cost": "0.24"}}, "0.24"),
        ({"usage": {"cost": 0}}, None),
        ({"usage": {"cost": "0.00"}}, None),
        ({"usage": {"cost": 1e-9}}, None),
        ({"usage": {"cost_cents": 0}}, None),
        ({"usage": {"cost_cents": 7}}, "0.07"),
        ({"usage": {"cost_cents": 2.5}}, "0.025"),
        ({"usage": {"cost": None, "cost_cents": 7}}, "0.07"),
        ({"cost_cents": 14, "usage": {}}, "0.14"),
        ({"cost_cents": 14}, "0.14"),
        ({"usage": {"cost": 0.05, "cost_cents": 9}}, "0.09"),
        ({"usage": {"cost": 0, "cost_cents": None}, "cost_cents": 5}, "0.05"),
        ({"billing": {"settlement": {"charged_amount_cents": 5}}}, "0.05"),
        ({"billing": {"settlement": {"amount_micro_cents": 4500000}}}, "0.045"),
        ({"billing": {"settlement": {"charged_amount_cents": 0, "amount_micro_cents": 400000}}}, "0.004"),
        ({"billing": {"settlement": {"charged_amount_cents": 5}}, "usage": {"cost": 0}}, "0.05"),
        ({"billing": {"settlement": {"charged_amount_cents": 0}}, "usage": {"cost": 0.05}}, "0.05"),
        ({"billing": {"settlement": {"charged_amount_cents": 4}}, "usage": {"cost": 0.05}}, "0.04"),
        ({"billing": {"settlement": {"charged_amount_cents": 0, "amount_micro_cents": 0}}}, None),
        ({"billing": {"reservation": {"amount_cents": 5}}}, None),
        ({"billing": {"settlement": {"charged_amount_cents": "much"}}}, None),
        ({"billing": [5]}, None),
        ({}, None),
        ({"usage": None}, None),
        ({"usage": []}, None),
        ({"usage": {"cost": "free"}}, None),
        ({"usage": {"cost": True}}, None),
        ({"usage": {"cost": -1}}, None),
        ({"usage": {"cost": float("nan")}}, None),
        ({"usage": {"cost": float("inf")}}, None),
        ({"usage": {"cost": "NaN"}}, None),
        ({"usage": {"cost": 1e300}}, None),
        ({"usage": {"cost": [1]}}, None),
    ],
)
def test_a_cost_is_exact_dollars_or_unknown(said: dict[str, Any], usd: str | None) -> None:
    assert read(said).cost_usd == (None if usd is None else Decimal(usd))


@rows(
    ("refund", "refunded"),
    [
        ({"refunded_at": "2026-11-20T10:00:00Z"}, True),
        ({"refunded_at": "2026-11-20"}, True),
        ({"refunded_at": True}, True),
        ({"refunded_at": None}, False),
        ({"refunded_at": False}, False),
        ({"refunded_at": "false"}, False),
        ({"refunded_at": "true"}, False),
        ({"refunded_at": "0000-00-00T00:00:00Z"}, False),
        ({"refunded_at": "never"}, False),
        ({"refunded_at": 1}, False),
        ({"refunded_at": {"at": "2026-11-20"}}, False),
        ({}, False),
        ("2026-11-20", False),
        (None, False),
    ],
)
def test_a_refund_is_one_with_a_time_or_a_plain_yes(refund: object, refunded: bool) -> None:
    task = read({"billing": {"settlement": {"charged_amount_cents": 5}, "refund": refund}, "usage": {"cost": 0.05}})
    assert (task.refunded, task.cost_usd) == (refunded, Decimal(0) if refunded else Decimal("0.05"))


@rows(
    ("error", "text"),
    [
        ("no cats", "no cats"),
        ({"code": "moderated", "message": "no cats"}, "no cats"),
        ({"code": "moderated"}, "moderated"),
        (f"key {KEY}", "key ••••"),
        ("", None),
        (None, None),
        (7, None),
    ],
)
def test_a_failed_tasks_error_is_text_or_an_object(error: object, text: str | None) -> None:
    assert read({"status": "failed", "error": error}).error == text


def test_a_task_under_way_has_no_error() -> None:
    assert read({"status": "processing", "message": "Queued"}).error is None


def schedule(**fields: object) -> dict[str, Any]:
    return {
        "service": "flux-2",
        "action": "text_to_image",
        "model": "flux-2-pro-text-to-image",
        "pricing_status": "priced",
        "catalog_status": "active",
        "currency": "USD",
        "billing_unit": "image",
        "billing_strategy": "per_unit",
        "unit_price_cents": 5,
        "billing_config": {"key": "output_resolution", "overrides": {"1k": 5, "2k": 7}},
    } | fields


def by_resolution(**overrides: object) -> dict[str, object]:
    return {
        "billing_config": {"key": "output_resolution", "overrides": {n.strip("r"): c for n, c in overrides.items()}}
    }


@rows(
    ("fields", "cents", "dearest"),
    [
        ({}, ("5", "7"), "7"),
        ({"unit_price_cents": None}, ("5", "7"), "7"),
        ({"billing_config": None}, ("5", "5"), "5"),
        ({"billing_config": {}}, ("5", "5"), "5"),
        ({"billing_config": None, "unit_price_cents": None}, (None, None), None),
        ({"billing_config": None, "unit_price_cents": 0}, (None, None), None),
        ({"billing_config": {"key": "output_resolution", "overrides": {" 2K ": "7.5"}}}, ("5", "7.5"), "7.5"),
        ({"billing_config": {"key": "output_resolution"}}, ("5", "5"), "5"),
        ({"billing_config": {"key": "quality"}}, ("5", "5"), "5"),
        ({"billing_config": [1]}, ("5", "5"), "5"),
        (by_resolution(r2k=None), ("5", None), "5"),
        (by_resolution(r2k=0), ("5", None), "5"),
        (by_resolution(r2k="$7", r4k=30), ("5", None), "30"),
        ({"unit_price_cents": None} | by_resolution(r1k=4), ("4", None), "4"),
        ({"billing_config": {"key": "quality", "overrides": {"high": 9, "low": None}}}, (None, None), "9"),
        ({"billing_config": {"key": "quality", "overrides": {"low": 2}}}, (None, None), "5"),
        ({"currency": "EUR"}, (None, None), None),
        ({"currency": "usd"}, ("5", "7"), "7"),
    ],
)
def test_a_schedule_prices_every_resolution_of_its_model_or_says_that_it_does_not(
    fields: dict[str, object], cents: tuple[str | None, str | None], dearest: str | None
) -> None:
    said = {"as_of": "2026-11-22T08:00:00Z", "price_schedules": [schedule(**fields)]}
    amounts = [None if text is None else Decimal(text) for text in (*cents, dearest)]
    assert wire.price_schedules(said) == (
        PriceSchedule(
            model="flux-2-pro-text-to-image",
            action=Action.TEXT_TO_IMAGE,
            cents=dict(zip(("1k", "2k"), amounts, strict=False)),
            dearest_cents=amounts[-1],
            as_of="2026-11-22T08:00:00Z",
        ),
    )


def test_schedules_need_no_more_than_model_and_price_and_strangers_are_left_out() -> None:
    entries = [
        {"model": "flux-2-max-remix-image", "unit_price_cents": 30, "new_field": {}},
        {"model": "another-model", "unit_price_cents": 1},
        {"model": None},
        "nonsense",
    ]
    assert wire.price_schedules({"price_schedules": entries}) == (
        PriceSchedule(
            model="flux-2-max-remix-image",
            action=Action.REMIX_IMAGE,
            cents={"1k": Decimal(30)},
            dearest_cents=Decimal(30),
            as_of="",
        ),
    )


def test_what_an_answer_says_of_itself_is_repeated_in_short() -> None:
    long = "now " * 9000
    (priced,) = wire.price_schedules({"as_of": long, "price_schedules": [schedule()]})
    assert len(priced.as_of) == 300
    file = wire.uploaded_file(UPLOADED | {"file_name": long, "mime_type": long})
    assert {len(text) for text in (file.file_name, file.mime_type)} == {300}
    with pytest.raises(WireError, match="no url"):
        wire.uploaded_file(UPLOADED | {"url": f"https://x.example.com/{long}"})


@pytest.mark.parametrize("said", [{}, {"price_schedules": None}, {"price_schedules": {}}])
def test_a_price_list_without_a_list_makes_no_sense(said: dict[str, Any]) -> None:
    with pytest.raises(WireError, match="price_schedules"):
        wire.price_schedules(said)


@pytest.mark.parametrize(
    ("said", "balance"),
    [
        (
            {
                "balance_cents": 1234,
                "paid_balance_cents": 1000,
                "bonus_balance_cents": 234,
                "spent_cents_today": 15,
                "spent_cents_total": 4321,
            },
            Balance(
                balance_usd=Decimal("12.34"),
                paid_usd=Decimal(10),
                bonus_usd=Decimal("2.34"),
                spent_today_usd=Decimal("0.15"),
                spent_total_usd=Decimal("43.21"),
            ),
        ),
        ({"balance_cents": -5}, Balance(balance_usd=Decimal("-0.05"))),
        ({"balance_cents": 0, "spent_cents_today": None}, Balance(balance_usd=Decimal(0))),
    ],
)
def test_a_balance_is_read_in_dollars(said: dict[str, Any], balance: Balance) -> None:
    assert wire.balance(said) == balance


def test_an_answer_without_a_balance_makes_no_sense() -> None:
    with pytest.raises(WireError, match="balance_cents"):
        wire.balance({"spent_cents_today": 3})


def test_an_accounts_id_that_no_journal_holds_is_none() -> None:
    odd: list[object] = ["\ud800", True, ["1"], {}, 1.5, " "]
    for ident in odd:
        assert wire.account({"account": {"id": ident}}).account_id == "", ident
    assert wire.account({"account": {"id": 7}}).account_id == "7"


def test_an_account_is_read_with_whatever_is_told() -> None:
    said = {"id": 1, "name": "A  Name", "email": "a@example.com", "account": {"id": 2, "name": "Team"}}
    assert wire.account(said) == RunApiAccount(
        name="A Name", email="a@example.com", account_name="Team", account_id="2"
    )
    assert wire.account({}) == RunApiAccount(name="", email="", account_name="")


@rows(
    ("ident", "account_id"),
    [
        ("acc-1", "acc-1"),
        (" acc-1 ", "acc-1"),
        (7, "7"),
        ("", ""),
        (" ", ""),
        ("\t\u00a0\u200b", ""),
        ("x" * 513, ""),
        (True, ""),
        (7.5, ""),
        (["acc-1"], ""),
        ({"id": "acc-1"}, ""),
        (None, ""),
    ],
)
def test_an_account_is_known_by_an_id_that_says_something_or_not_at_all(ident: object, account_id: str) -> None:
    """By a blank one, the keys of two accounts would share their tasks and their caps."""
    assert wire.account({"account": {"id": ident}}).account_id == account_id


def test_an_uploads_place_is_read_with_its_headers_and_never_shown() -> None:
    said = {
        "upload_url": "https://store.example.com/x?signature=s3cr3t",
        "headers": {"Content-Type": "image/png", "Content-Length": 3, "X-Empty": None},
        "signed_id": "signed-s3cr3t",
    }
    place = wire.preparation(said)
    assert (place.upload_url, place.signed_id) == (said["upload_url"], "signed-s3cr3t")
    assert place.headers == {"Content-Type": "image/png", "Content-Length": "3"}
    assert "s3cr3t" not in repr(place)


@pytest.mark.parametrize("missing", ["upload_url", "signed_id"])
def test_an_upload_without_a_place_makes_no_sense(missing: str) -> None:
    said = {"upload_url": "https://store.example.com/x", "signed_id": "s"} | {missing: None}
    with pytest.raises(WireError, match="upload_url"):
        wire.preparation(said)


UPLOADED = {
    "file_name": "cat.png",
    "url": "https://files.example.com/cat.png",
    "size_bytes": 3,
    "mime_type": "image/png",
    "created_at": "2026-11-22T07:00:00Z",
    "expires_at": "2026-11-22T08:00:00Z",
}


@rows(
    ("expires_at", "moment"),
    [
        ("2026-11-22T08:00:00Z", datetime(2026, 11, 22, 8, tzinfo=UTC)),
        ("2026-11-22T08:00:00.000+00:00", datetime(2026, 11, 22, 8, tzinfo=UTC)),
        ("2026-11-22T10:00:00+02:00", datetime(2026, 11, 22, 8, tzinfo=UTC)),
        ("2026-11-22 08:00:00", datetime(2026, 11, 22, 8, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", None),
        ("tomorrow", None),
        (1795334400, None),
        (None, None),
    ],
)
def test_an_uploaded_file_is_read_with_its_end_in_utc(expires_at: object, moment: datetime | None) -> None:
    file = wire.uploaded_file(UPLOADED | {"expires_at": expires_at})
    assert file == UploadedFile(
        file_name="cat.png",
        url="https://files.example.com/cat.png",
        size_bytes=3,
        mime_type="image/png",
        expires_at=moment,
    )
    assert file.expires_at is None or file.expires_at.tzinfo is UTC


def test_an_uploaded_file_needs_no_more_than_its_url() -> None:
    assert wire.uploaded_file({"url": "https://x.example.com/1"}, file_name="a.png", size_bytes=9) == UploadedFile(
        file_name="a.png", url="https://x.example.com/1", size_bytes=9, mime_type="", expires_at=None
    )
    with pytest.raises(WireError, match="no url"):
        wire.uploaded_file({"file_name": "a.png"})
    for size in (-1, 10**30, True, "9", None):  # a journal holds no such number
        assert wire.uploaded_file(UPLOADED | {"size_bytes": size}, size_bytes=9).size_bytes == 9


def test_a_login_gives_the_key_its_name_and_whose_it_is() -> None:
    said = {"key": "sk-new", "name": "laptop", "user": {"email": "a@example.com"}}
    assert wire.login(said) == wire.IssuedKey(key="sk-new", name="laptop", email="a@example.com")
    assert wire.login({"key": "sk-new"}) == wire.IssuedKey(key="sk-new", name="", email="")


@rows("key", [None, "", " ", "sk\r\nX-Evil: 1", "schlüssel", 7])
def test_a_login_without_a_usable_key_makes_no_sense(key: object) -> None:
    with pytest.raises(WireError, match="no key"):
        wire.login({"key": key})


def nested(depth: int) -> str:
    return '{"error":' * depth + '"x"' + "}" * depth


@rows(
    ("body", "content_type", "text"),
    [
        ('{"error": "no such model"}', "application/json", "no such model"),
        ('{"error": {"code": "limit", "message": "Slow down"}}', "application/json", "Slow down"),
        ('{"error": {"code": "limit"}}', "application/json", "limit"),
        (
            '{"error": "Validation failed", "errors": {"prompt": ["is too short", "is bad"], "model": "is unknown"}}',
            "application/json",
            "Validation failed: prompt: is too short, is bad; model: is unknown",
        ),
        ('{"errors": {"prompt": ["is too short"]}}', "application/json", "prompt: is too short"),
        ('{"errors": ["one", "two"]}', "application/json", "one; two"),
        ('{"message": "a"}', "application/json", "a"),
        ('{"detail": "a"}', "application/json", "a"),
        ('{"detail": [{"loc": ["body"], "msg": "a"}, {"msg": "b"}]}', "application/json", "a; b"),
        ('{"errorMessage": "a"}', "application/json", "a"),
        ('{"error": "invalid_token", "error_description": "It has expired."}', "application/json", "It has expired."),
        ('{"msg": "a"}', "application/json", "a"),
        ('{"error": null, "msg": "a"}', "application/json", "a"),
        ('{"error": true}', "application/json", ""),
        ('{"status": 500}', "application/json", ""),
        ('"just text"', "application/json", "just text"),
        ("[]", "application/json", ""),
        ("Not Found", "text/plain", "Not Found"),
        ("  two\n\t lines\x00\x1b[31m \u202egnp.exe ", "text/plain", "two lines[31m gnp.exe"),
        ("", "", ""),
        ("{broken", "application/json", "{broken"),
        (nested(100_000), "application/json", nested(100_000)[:299] + "…"),
        ("1e999999999999999999999", "application/json", "1e999999999999999999999"),
        (nested(9), "application/json", ""),
        ("<html><head><title>502 Bad&nbsp;Gateway</title></head><body>x</body></html>", "text/html", "502 Bad Gateway"),
        ("\n<!DOCTYPE html><TITLE>Just a moment...</TITLE>", "", "Just a moment..."),
        ("<html><title> </title><h1 class='a'>We&#39;re <b>down</b></h1><p>no</p>", "text/html", "We're down"),
        ("<html><title>&lt;script&gt;alert(1)&lt;/script&gt;</title>", "text/html", "alert(1)"),
        ("<html><body>secret details</body></html>", "text/html", ""),
        (
            '<?xml version="1.0"?><Error><Code>Denied</Code><Message>Request has expired</Message></Error>',
            "application/xml",
            "Request has expired",
        ),
        ("x" * 300, "text/plain", "x" * 300),
        ("x" * 301, "text/plain", "x" * 299 + "…"),
    ],
)
def test_an_errors_words_are_found_in_every_known_shape(body: str, content_type: str, text: str) -> None:
    assert error_text.error_message(body, content_type) == text


@rows(
    "body",
    [
        f"no such key: {KEY}",
        json.dumps({"error": f"no such key: {KEY}"}),
        json.dumps({"error": "no such key: sk-run%2Fvery%2Bsecret"}),
        '{"error": "no such key: \\u0073k-run\\/very+secret"}',
        "<title>no such key: &#115;k-run/very+secret</title>",
        "no such key: sk-run/\x00very+secret",
    ],
)
def test_no_way_of_writing_it_carries_the_key_into_a_message(body: str) -> None:
    assert error_text.error_message(body, "", KEY) == "no such key: ••••"


def test_the_cut_leaves_no_part_of_the_key() -> None:
    text = error_text.error_message("x" * 290 + KEY, "text/plain", KEY)
    assert text == "x" * 290 + "••••"


def test_without_a_key_nothing_is_redacted() -> None:
    assert error_text.clean("as it is", None) == "as it is"


def test_an_error_has_its_words_for_each_field_and_none_of_them_shows_the_key() -> None:
    errors = {"prompt": ["is  too short", {"message": "is bad"}, ""], "model": f"is {KEY}", KEY: ["x" * 301]}
    found = error_text.field_errors(json.dumps({"error": "no", "errors": errors}), KEY)
    assert found == {"prompt": ["is too short", "is bad"], "model": ["is ••••"], "••••": ["x" * 299 + "…"]}


@rows("body", ["[1]", "{", '{"errors": ["one"]}', '{"error": "no"}', "<html>errors</html>"])
def test_an_error_without_words_for_each_field_has_none(body: str) -> None:
    assert error_text.field_errors(body) == {}


@given(st.text(), st.sampled_from(["", "text/html", "application/json"]))
def test_a_message_is_one_printable_line_of_at_most_300_characters(body: str, content_type: str) -> None:
    text = error_text.error_message(body, content_type)
    assert len(text) <= error_text.MAX_ERROR_CHARS
    assert text.isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["id", "status", "data", "images", "usage"]), inner)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["id", "status", "state", "data", "images", "usage", "error", "errors"]), JSON))
def test_no_json_breaks_the_reader_of_tasks(said: dict[str, Any]) -> None:
    assert read(said).task_id == "t"
