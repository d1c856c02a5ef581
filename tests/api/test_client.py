"""The Python client makes, finds and prices images, on every face and event loop alike."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

import flux2_mcp
from flux2_mcp import Balance, ClosedError, Flux2Client, Price, TaskTimeoutError
from flux2_mcp.sandbox.server import Sandbox
from tests.support.sandboxed import size_of

PRO, FLEX, REMIX = "flux-2-pro-text-to-image", "flux-2-flex-text-to-image", "flux-2-pro-remix-image"
STUCK, SLOW = "[sandbox:stuck] a red fox", "[sandbox:slow] a red fox"
DEADLINE = 60.0


@pytest.fixture
def client(clean_env: dict[str, str], tmp_path: Path) -> Iterator[Flux2Client]:
    with Flux2Client(environ=clean_env, workspace=tmp_path / "work") as client:
        (tmp_path / "work").mkdir()
        yield client


def creates(tmp_path: Path) -> int:
    """How many creates the sandbox of this home has received."""
    with Sandbox(tmp_path / "home" / "sandbox") as sandbox:
        return sandbox.creates()


def test_a_run_ends_with_a_checked_file_where_it_was_wanted(client: Flux2Client, tmp_path: Path) -> None:
    task = client.text_to_image.run(
        model=FLEX, prompt="A lighthouse at dusk", aspect_ratio="16:9", save_to="hero.png", max_cost_usd=0.5
    )
    [image] = task.images
    assert (task.status, task.ended, task.model, task.variant, task.error) == ("completed", True, FLEX, "flex", None)
    assert (task.quoted_usd, task.charged_usd, task.sandbox) == (Decimal("0.14"), Decimal("0.14"), True)
    assert image.path is not None
    assert image.saved == tmp_path / "work" / "hero.png"
    assert size_of(image.saved.read_bytes()) == (image.width, image.height)
    assert image.path.stat().st_size == image.size_bytes
    assert image.matches_request is True
    assert image.url is not None
    assert client.sandbox


def test_a_created_image_is_remixed_and_waited_for(client: Flux2Client, tmp_path: Path) -> None:
    first = client.text_to_image.run(prompt="A lighthouse", save_to="hero.png")
    sources: list[str | Path] = ["hero.png", tmp_path / "work" / "hero.png", f"task:{first.id}"]
    made = [
        client.remix_image.create(model=REMIX, prompt=f"Number {number}", source_images=[source])
        for number, source in enumerate(sources, start=1)
    ]
    made.append(client.remix_image.create(prompt="Fog", source_image_urls=[str(first.images[0].url)]))
    assert all(task.status in {"pending", "processing", "completed"} for task in made)
    ended = client.tasks.wait([task.id for task in made], timeout=DEADLINE)
    assert [task.id for task in ended] == [task.id for task in made]
    assert all(task.ended and task.images[0].path for task in ended)
    assert client.remix_image.get(made[0].id).images == ended[0].images


def test_the_same_key_is_the_same_task_in_the_next_client(clean_env: dict[str, str], tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        with Flux2Client(environ=clean_env) as client:
            found.append(client.text_to_image.run(prompt="A red fox", idempotency_key="fox-1"))
    assert found[0].id == found[1].id
    assert found[0].idempotency_key == "fox-1"
    assert creates(tmp_path) == 1


def test_tasks_are_listed_by_status_age_and_folder(client: Flux2Client, tmp_path: Path) -> None:
    done = client.text_to_image.run(prompt="A red fox")
    stuck = client.text_to_image.create(prompt=STUCK)
    assert [task.id for task in client.tasks.recent()] == [stuck.id, done.id]
    assert [task.id for task in client.tasks.recent(status="completed")] == [done.id]
    assert [task.id for task in client.tasks.recent(limit=1, since="1h", workspace=tmp_path / "work")] == [stuck.id]
    assert client.tasks.recent(workspace=tmp_path) == ()
    assert client.tasks.recent(since=stuck.created_at)[0].id == stuck.id


def test_tasks_come_as_they_end(client: Flux2Client) -> None:
    slow = client.text_to_image.create(prompt=STUCK)
    quick = [client.text_to_image.create(prompt=f"A red fox {number}").id for number in range(3)]
    assert sorted(task.id for task in client.tasks.as_completed(quick, timeout=DEADLINE)) == sorted(quick)
    begun = time.monotonic()
    assert next(client.tasks.as_completed([slow.id, quick[0]], timeout=DEADLINE)).id == quick[0]
    assert time.monotonic() - begun < DEADLINE
    with pytest.raises(TaskTimeoutError) as told:
        next(client.tasks.as_completed([slow.id], timeout=0))
    assert told.value.task.id == slow.id
    assert list(client.tasks.as_completed([])) == []
    assert client.tasks.wait([]) == ()


def test_when_the_time_is_over_the_task_goes_on_and_the_error_has_it(client: Flux2Client) -> None:
    with pytest.raises(TaskTimeoutError) as told:
        client.text_to_image.run(prompt=SLOW, timeout=0)
    assert isinstance(told.value, TimeoutError)
    assert not told.value.task.ended
    [task] = client.tasks.wait([told.value.task.id], timeout=DEADLINE)
    assert task.images[0].path


def test_prices_quotes_and_the_balance_are_decimals_with_a_source(client: Flux2Client) -> None:
    [price] = client.prices(model=PRO, output_resolution="1k")
    assert price == Price(
        model=PRO,
        variant="pro",
        action=price.action,
        output_resolution="1k",
        usd=Decimal("0.05"),
        source="live",
        as_of=price.as_of,
    )
    assert {each.action.value for each in client.prices(variant="flex")} == {"text_to_image", "remix_image"}
    assert {each.model for each in client.prices(action="remix_image", variant="pro")} == {REMIX}
    quote = client.quote(model=FLEX, output_resolution="2k", count=4)
    assert (quote.usd, quote.price.usd, quote.price.source) == (Decimal("0.96"), Decimal("0.24"), "cached")
    balance = client.balance()
    assert isinstance(balance, Balance)
    assert balance.balance_usd > 0


def test_eight_threads_share_one_client(client: Flux2Client, tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def one(number: int) -> str:
        start.wait()
        return client.text_to_image.run(prompt=f"Number {number}", timeout=DEADLINE).id

    with ThreadPoolExecutor(8) as threads:
        ids = set(threads.map(one, range(8)))
    assert len(ids) == 8
    assert [thread.name for thread in threading.enumerate()].count("flux2-client") == 1
    assert len(client.tasks.recent(limit=20)) == creates(tmp_path) == 8


def test_a_client_that_is_closed_says_so_to_calls_under_way_and_to_later_ones(clean_env: dict[str, str]) -> None:
    client = Flux2Client(environ=clean_env)
    made = client.text_to_image.create(prompt=STUCK)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.tasks.wait, [made.id])
        client.prices()  # the loop has taken the call before
        client.close()
        with pytest.raises(ClosedError, match="during this call"):
            waiting.result(DEADLINE)
    client.close()
    with pytest.raises(ClosedError):
        client.balance()
    with Flux2Client(environ=clean_env) as later:
        assert later.text_to_image.get(made.id).status in {"pending", "processing"}


def test_a_client_that_is_not_used_starts_and_makes_nothing(clean_env: dict[str, str], tmp_path: Path) -> None:
    with Flux2Client(environ=clean_env) as client:
        assert client.sandbox
    assert "flux2-client" not in [thread.name for thread in threading.enumerate()]
    assert not (tmp_path / "home").exists()


def test_a_callback_makes_a_task_be_looked_at_and_is_not_believed(client: Flux2Client) -> None:
    made = client.text_to_image.create(prompt=STUCK)
    body = json.dumps({"id": made.id, "status": "completed", "images": [{"url": "https://forged.example/x.png"}]})
    assert client.handle_callback(body.encode(), {"Content-Type": "application/json"})
    assert client.handle_callback("{}", {"x-runapi-task-id": made.id})
    assert not client.text_to_image.get(made.id).images
    done = client.text_to_image.run(prompt="A red fox")
    others: list[str | bytes] = [
        json.dumps({"id": done.id}),
        json.dumps({"id": "0193a5f0-unknown"}),
        json.dumps({"id": "\ud800"}),
        json.dumps({"id": made.id, "more": "x" * 70_000}),
        "[" * 60_000,
        "[]",
        "{}",
        "no JSON",
        b"\xff\xfe",
        b"",
    ]
    assert [client.handle_callback(other) for other in others] == [False] * len(others)


def test_a_callback_needs_the_token_of_the_address_that_runapi_was_given(
    clean_env: dict[str, str], tmp_path: Path
) -> None:
    env = clean_env | {"FLUX2_CALLBACK_URL": "https://hook.example/flux2", "FLUX2_CALLBACK_PORT": "47633"}
    with Flux2Client(environ=env) as client:
        made = client.text_to_image.create(prompt=STUCK)
        with Sandbox(tmp_path / "home" / "sandbox") as sandbox:
            [sent] = [task.body["callback_url"] for task in sandbox.tasks()]
        body = json.dumps({"id": made.id})
        paths = [None, "/flux2", "/flux2/" + "0" * 32, "/\ud800", sent, "/flux2/" + sent.rpartition("/")[2]]
        assert [client.handle_callback(body, path=path) for path in paths] == [False] * 4 + [True] * 2


def test_every_public_name_is_there_and_no_other_is_made_up() -> None:
    for name in flux2_mcp.__all__:
        assert getattr(flux2_mcp, name).__doc__, name
    assert set(flux2_mcp.__all__) <= set(dir(flux2_mcp))
    assert not hasattr(flux2_mcp, "Flux3Client")
