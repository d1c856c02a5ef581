"""The vendor's own SDK, unchanged, works against the sandbox: what it can't tell apart, our client need not either."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from runapi.core import (
    AuthenticationError,
    ConflictError,
    InsufficientCreditsError,
    NetworkError,
    NotFoundError,
    PollingOptions,
    PricingClient,
    RateLimitError,
    RequestOptions,
    ServerError,
    ServiceUnavailableError,
    TaskFailedError,
    TaskTimeoutError,
    ValidationError,
)
from runapi.core import polling as vendor_polling
from runapi.core.resource import Resource
from runapi.flux_2 import Flux2Client

from flux2_mcp.domain import catalog
from flux2_mcp.sandbox.scenarios import MODERATED
from tests.support.rows import rows
from tests.support.sandboxed import TEXT, Api, running, size_of

MODEL = "flux-2-pro-text-to-image"
REMIX_MODEL = "flux-2-pro-remix-image"
POLLING = PollingOptions(poll_interval=0.005, max_wait=60)  # type: ignore[arg-type]  # seconds; it sleeps floats too


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("home")) as api:
        yield api


@contextmanager
def client(api: Api, key: str | None = None, **options: Any) -> Iterator[Flux2Client]:  # noqa: ANN401  # the SDK's
    made = Flux2Client(api_key=key or api.sandbox.api_key, base_url=api.sandbox.base_url, **options)
    with closing(made._http):
        yield made


@pytest.fixture(scope="module")
def sdk(api: Api) -> Iterator[Flux2Client]:
    with client(api, max_retries=0) as made:
        yield made


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` takes no polling options and its default is a poll each 2 s."""
    monkeypatch.setattr("runapi.core.resource.PollingOptions", lambda: POLLING)


def keyed(key: str, **headers: str) -> RequestOptions:
    return RequestOptions(headers={"Idempotency-Key": key} | headers)


def png(width: int, height: int) -> bytes:
    """A real image in one colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = (b"\0" + b"\xc8\x1e\x1e" * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# --- what goes well ---------------------------------------------------------------------------------------------------


def test_text_to_image_runs_to_its_image(api: Api, sdk: Flux2Client) -> None:
    result = sdk.text_to_image.run(model=MODEL, prompt="a cat", aspect_ratio="4:3")
    assert (result.status, result.usage.cost, result.usage.generated_images) == ("completed", 0.05, 1)
    assert result.runapi_task_id == result.id
    assert size_of(api.anyone.get(result.images[0].url).content) == (1152, 864)


def test_create_and_get_tell_the_same_task(sdk: Flux2Client) -> None:
    created = sdk.text_to_image.create(model=MODEL, prompt="[sandbox:stuck] a cat")
    seen = sdk.text_to_image.get(created.id)
    assert (created.status, seen.id) == ("pending", created.id)
    assert seen.status in {"pending", "processing"}


def test_an_older_vendor_answer_without_usage_is_read(sdk: Flux2Client) -> None:
    result = sdk.text_to_image.run(model=MODEL, prompt="[sandbox:no_usage] a cat")
    assert (result.status, result.usage) == ("completed", None)


def test_a_local_file_is_uploaded_and_remixed(api: Api, sdk: Flux2Client, tmp_path: Path) -> None:
    path = tmp_path / "a red card.png"
    path.write_bytes(png(60, 90))
    file = sdk.files.create(file=path)
    assert (file.file_name, file.size_bytes, file.mime_type) == (path.name, path.stat().st_size, "image/png")
    result = sdk.remix_image.run(
        model=REMIX_MODEL, prompt="as a painting", source_image_urls=[file.url], aspect_ratio="auto"
    )
    assert size_of(api.anyone.get(result.images[0].url).content) == (832, 1248)
    assert sdk.remix_image.get(result.id).to_dict() == result.to_dict()


def test_remix_create_and_get_tell_the_same_task(sdk: Flux2Client) -> None:
    created = sdk.remix_image.create(
        model=REMIX_MODEL, prompt="[sandbox:instant] a cat", source_image_urls=["https://example.com/cat.png"]
    )
    assert sdk.remix_image.get(created.id).status == "completed"


def test_files_come_by_address_and_as_base64(sdk: Flux2Client) -> None:
    by_address = sdk.files.create(source="https://example.com/cat.png")
    as_text = sdk.files.create(source="aGVsbG8=", file_name="hello.txt")
    assert (by_address.file_name, as_text.file_name, as_text.size_bytes) == ("cat.png", "hello.txt", 5)


def test_prices_are_listed_without_a_key_and_only_once_for_an_etag(api: Api, sdk: Flux2Client) -> None:
    listed = sdk.pricing.list_schedules(service="flux-2", action="text_to_image")
    assert listed is not None
    cents = {row.model: row.unit_price_cents for row in listed.price_schedules}
    known = {"flux-2-pro-text-to-image": 5, "flux-2-flex-text-to-image": 14, "flux-2-max-text-to-image": 30}
    assert {model: cents[model] for model in known} == known
    assert set(cents) == {f"flux-2-{variant}-text-to-image" for variant in catalog.variants()}
    assert listed.price_schedules[0].billing_config.overrides.to_dict() == {"1k": 5, "2k": 7}
    again = RequestOptions(headers={"If-None-Match": listed.response_header("ETag") or ""})
    assert sdk.pricing.list_schedules(service="flux-2", action="text_to_image", options=again) is None
    keyless = PricingClient(base_url=api.sandbox.base_url)
    with closing(keyless._http):
        everything = keyless.list_schedules()
    assert everything is not None
    assert len(everything.price_schedules) == len(catalog.all_models())


def test_a_quote_is_what_a_task_would_reserve(sdk: Flux2Client) -> None:
    quoted = sdk.pricing.create_quote("flux-2", "text_to_image", MODEL, {"output_resolution": "2k"})
    assert (quoted.price_quote.reservation_amount_cents, quoted.price_quote.estimate_basis) == (7, "exact")


def test_the_account_and_its_balance_are_told(sdk: Flux2Client) -> None:
    info, before = sdk.account.info(), sdk.account.balance()
    sdk.text_to_image.run(model=MODEL, prompt="[sandbox:instant] a cat")
    after = sdk.account.balance()
    assert (info.name, info.account.name) == ("Sandbox", "Sandbox")
    assert before.balance_cents - after.balance_cents == after.spent_cents_total - before.spent_cents_total == 5


def test_the_same_idempotency_key_brings_the_same_task(api: Api, sdk: Flux2Client) -> None:
    first, second = (sdk.text_to_image.create(keyed("same"), model=MODEL, prompt="a cat") for _ in range(2))
    assert first.id == second.id
    assert [task.creates for task in api.sandbox.tasks() if task.id == first.id] == [2]


# --- hybrid tasks ------------------------------------------------------------------------------------------------------


class Hybrid(Resource):
    """An endpoint as the vendor's packages for hybrid services have it."""

    def run(self, prompt: str, key: str = "") -> Any:  # noqa: ANN401  # what the SDK makes of the stored answer
        body = {"model": MODEL, "prompt": prompt}
        return self._run_hybrid("post", TEXT, body, keyed(key) if key else None)


@pytest.fixture(scope="module")
def hybrid(api: Api) -> Iterator[Hybrid]:
    with client(api, max_retries=0) as made:
        yield Hybrid(made._http)


def test_a_hybrid_task_is_followed_to_the_endpoints_own_answer(hybrid: Hybrid, api: Api) -> None:
    result = hybrid.run("[sandbox:hybrid] a cat")
    assert (result.status, result.usage.cost, result.runapi_task_id) == ("completed", 0.05, result.id)
    assert size_of(api.anyone.get(result.images[0].url).content) == (1024, 1024)


def test_subscribe_follows_a_location_again(hybrid: Hybrid) -> None:
    result = hybrid.run("[sandbox:hybrid] a cat", "again")
    for _ in range(2):
        assert hybrid.subscribe(f"/api/v1/tasks/{result.id}").to_dict() == result.to_dict()
    assert hybrid.run("[sandbox:hybrid] a cat", "again").id == result.id


def test_a_hybrid_task_that_fails_is_the_error_class_of_its_stored_answer(hybrid: Hybrid) -> None:
    with pytest.raises(ValidationError, match=MODERATED) as caught:
        hybrid.run("[sandbox:hybrid][sandbox:moderation] a cat")
    assert caught.value.status == 422


def test_only_a_hybrid_task_has_an_envelope(sdk: Flux2Client) -> None:
    plain = sdk.text_to_image.create(model=MODEL, prompt="[sandbox:instant] a cat")
    with pytest.raises(NotFoundError):
        sdk.text_to_image.subscribe(f"/api/v1/tasks/{plain.id}")


def test_with_the_switch_every_task_is_hybrid(tmp_path: Path) -> None:
    with running(tmp_path, hybrid=True) as api, client(api, max_retries=0) as made:
        assert Hybrid(made._http).run("a cat").status == "completed"
        assert [task.hybrid for task in api.sandbox.tasks()] == [True]


# --- files that last ---------------------------------------------------------------------------------------------------


def test_a_file_is_created_listed_read_and_deleted(sdk: Flux2Client, tmp_path: Path) -> None:
    path = tmp_path / "a file.bin"
    path.write_bytes(b"\r\n--x\r\n\0" * 3 + bytes(range(256)))
    made = sdk.files.create_file(path, purpose="reference")
    assert (made.object, made.bytes, made.filename, made.purpose) == (
        "file",
        path.stat().st_size,
        "a file.bin",
        "reference",
    )
    assert sdk.files.retrieve(made.id).to_dict() == made.to_dict()
    assert sdk.files.content(made.id) == path.read_bytes()
    assert [file.id for file in sdk.files.list(purpose="reference").data] == [made.id]
    assert sdk.files.delete_file(made.id).deleted
    for ask in (sdk.files.retrieve, sdk.files.content, sdk.files.delete_file):
        with pytest.raises(NotFoundError):
            ask(made.id)


def test_files_come_in_pages_in_either_order(sdk: Flux2Client, tmp_path: Path) -> None:
    path = tmp_path / "page.txt"
    path.write_text("x")
    made = [sdk.files.create_file(path, purpose="pages", file_name=f"{number}.txt").id for number in range(3)]
    first = sdk.files.list(purpose="pages", limit=2)
    assert ([file.id for file in first.data], first.has_more) == (made[:0:-1], True)
    rest = sdk.files.list(purpose="pages", limit=2, after=first.last_id)
    assert ([file.id for file in rest.data], rest.has_more) == (made[:1], False)
    assert [file.id for file in sdk.files.list(purpose="pages", order="asc").data] == made


def test_an_upload_in_parts_becomes_a_file_in_the_order_that_was_named(sdk: Flux2Client, tmp_path: Path) -> None:
    upload = sdk.uploads.create(bytes=6, filename="both.txt", mime_type="text/plain")
    parts = []
    for text in ("def", "abc"):
        path = tmp_path / f"{text}.part"
        path.write_text(text)
        parts.append(sdk.uploads.add_part(upload.id, path))
    assert {part.upload_id for part in parts} == {upload.id}
    done = sdk.uploads.complete(upload.id, [part.id for part in reversed(parts)])
    assert (upload.status, done.status, done.file.filename) == ("pending", "completed", "both.txt")
    assert sdk.files.content(done.file.id) == b"abcdef"
    with pytest.raises(ConflictError):
        sdk.uploads.cancel(upload.id)


def test_a_cancelled_upload_takes_no_more_parts(sdk: Flux2Client, tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    path.write_text("abc")
    upload = sdk.uploads.create(bytes=3, filename="a.txt", mime_type="text/plain")
    assert sdk.uploads.cancel(upload.id).status == "cancelled"
    with pytest.raises(ConflictError):
        sdk.uploads.add_part(upload.id, path)
    with pytest.raises(NotFoundError):
        sdk.uploads.complete("unknown", ["x"])


# --- its error classes ------------------------------------------------------------------------------------------------


def create(prompt: str, key: str | None = None) -> Callable[[Flux2Client], object]:
    options = None if key is None else keyed(key)
    return lambda sdk: sdk.text_to_image.create(options, model=MODEL, prompt=prompt)


@rows(
    ("call", "kind", "status"),
    [
        (create("[sandbox:insufficient_credits] a cat"), InsufficientCreditsError, 402),
        (create("[sandbox:rate_limited] a cat"), RateLimitError, 429),
        (create("[sandbox:create_503] a cat"), ServiceUnavailableError, 503),
        (create("[sandbox:create_html] a cat"), ServerError, 502),
        (create("[sandbox:create_lost] a cat"), NetworkError, None),
        (create("[sandbox:callback_refused] a cat"), ValidationError, 400),
        (create("ab"), ValidationError, 422),
        (create("[sandbox:nonsense] a cat"), ValidationError, 422),
        (lambda sdk: sdk.text_to_image.get("unknown"), NotFoundError, 404),
        (lambda sdk: sdk.files.create(source={"type": "base64", "data": "!"}), ValidationError, 422),
    ],
    ids=["402", "429", "503", "html", "lost", "callback", "prompt", "marker", "404", "file"],
)
def test_each_refusal_is_the_error_class_of_its_status(
    sdk: Flux2Client, call: Callable[[Flux2Client], object], kind: type[Exception], status: int | None
) -> None:
    with pytest.raises(kind) as caught:
        call(sdk)
    assert type(caught.value) is kind
    assert getattr(caught.value, "status", None) == status
    assert status is None or str(getattr(caught.value, "request_id", "")).startswith("req_")


def test_a_wrong_key_is_an_authentication_error(api: Api) -> None:
    with client(api, key="sk-wrong") as made, pytest.raises(AuthenticationError):
        made.account.info()


def test_a_key_used_for_another_request_is_a_conflict(sdk: Flux2Client) -> None:
    sdk.text_to_image.create(keyed("taken"), model=MODEL, prompt="a cat")
    with pytest.raises(ConflictError):
        sdk.text_to_image.create(keyed("taken"), model=MODEL, prompt="a dog")


def test_a_validation_error_carries_the_fields(sdk: Flux2Client) -> None:
    with pytest.raises(ValidationError) as caught:
        sdk.text_to_image.create(model=MODEL, prompt="a cat", aspect_ratio="5:4", seed=1)
    assert sorted(caught.value.details["errors"]) == ["aspect_ratio", "seed"]


def test_a_moderated_task_is_a_failed_one(sdk: Flux2Client) -> None:
    with pytest.raises(TaskFailedError, match=MODERATED):
        sdk.text_to_image.run(model=MODEL, prompt="[sandbox:moderation] a cat")


def test_a_stuck_task_times_out(sdk: Flux2Client) -> None:
    stuck = sdk.text_to_image.create(model=MODEL, prompt="[sandbox:stuck] a cat")
    with pytest.raises(TaskTimeoutError):
        vendor_polling.poll_until_complete(
            lambda: sdk.text_to_image.get(stuck.id), PollingOptions(poll_interval=1, max_wait=0)
        )


@rows("marker", ["create_lost", "create_503", "create_html", "rate_limited", "rate_limited_date"])
def test_its_own_retries_with_a_key_end_in_one_task(api: Api, marker: str) -> None:
    before = len(api.sandbox.tasks())
    with client(api, retry_base_delay=0.001) as made:
        made.text_to_image.create(keyed(marker), model=MODEL, prompt=f"[sandbox:{marker}] a cat")
    assert len(api.sandbox.tasks()) == before + 1


@pytest.mark.parametrize("marker", ["poll_503", "poll_html"])
def test_its_own_retries_ride_out_blips_while_polling(api: Api, marker: str) -> None:
    with client(api, retry_base_delay=0.001) as made:
        assert made.text_to_image.run(model=MODEL, prompt=f"[sandbox:{marker}] a cat").status == "completed"


def test_a_polls_retry_after_is_obeyed(sdk: Flux2Client, monkeypatch: pytest.MonkeyPatch) -> None:
    class Napping(Exception):  # noqa: N818  # it ends the loop, nothing went wrong
        pass

    def nap(seconds: float) -> None:
        raise Napping(seconds)

    created = sdk.text_to_image.create(model=MODEL, prompt="[sandbox:poll_retry_after] [sandbox:stuck] a cat")
    monkeypatch.setattr("runapi.core.polling.time.sleep", nap)
    with pytest.raises(Napping) as caught:
        vendor_polling.poll_until_complete(
            lambda: sdk.text_to_image.get(created.id), PollingOptions(poll_interval=9, max_wait=90)
        )
    assert caught.value.args == (1.0,)
