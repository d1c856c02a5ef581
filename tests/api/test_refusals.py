"""What is refused or fails: by errors of the one tree, in Python's words, with what to do next."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flux2_mcp import (
    AuthenticationError,
    BudgetError,
    Flux2Client,
    Flux2Error,
    InsufficientCreditsError,
    InvalidRequestError,
    NotFoundError,
    SettingsError,
    TaskFailedError,
)
from flux2_mcp.sandbox.server import Sandbox

PRO, REMIX = "flux-2-pro-text-to-image", "flux-2-pro-remix-image"
FOX = "A red fox"


@pytest.fixture
def client(clean_env: dict[str, str], tmp_path: Path) -> Iterator[Flux2Client]:
    with Flux2Client(environ=clean_env, workspace=tmp_path) as client:
        yield client


def nothing_made(tmp_path: Path) -> bool:
    with Sandbox(tmp_path / "home" / "sandbox") as sandbox:
        return sandbox.creates() == 0


WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no such field": ({"prompt": FOX, "size": "1k"}, ["size: text_to_image takes no such argument"]),
    "a field of the other action": (
        {"prompt": FOX, "source_images": ["a.png"]},
        ["source_images: text_to_image takes no such argument; client.remix_image takes it."],
    ),
    "a model of the other action": (
        {"prompt": FOX, "model": REMIX},
        [f"model: {REMIX} is a model of client.remix_image; client.text_to_image has {PRO} in its place."],
    ),
    "no such model": ({"prompt": FOX, "model": "flux-3"}, ["model: got 'flux-3'; allowed: flux-2-pro-text-to-image"]),
    "two names": ({"prompt": FOX, "model": PRO, "variant": "pro"}, ["variant: goes without model= only."]),
    "no prompt": ({}, ["prompt: is needed."]),
    "other kinds": (
        {
            "prompt": 7,
            "save_to": 1,
            "overwrite": "yes",
            "idempotency_key": b"k",
            "callback_url": 5,
            "max_cost_usd": "x",
        },
        [
            "prompt: got int; needs str.",
            "callback_url: got int; needs str.",
            "save_to: got int; needs str or a path.",
            "overwrite: got str; needs bool.",
            "idempotency_key: got bytes; needs str.",
            "max_cost_usd: must be an amount in USD",
        ],
    ),
    "amounts": ({"prompt": FOX, "max_cost_usd": True}, ["max_cost_usd: must be an amount in USD"]),
    "values": (
        {"prompt": "x", "aspect_ratio": "5:1", "output_resolution": "8k"},
        ["prompt: got 1 characters; pro allows 3 to 5000", 'aspect_ratio: got "5:1"', 'output_resolution: got "8k"'],
    ),
    "overwrite alone": ({"prompt": FOX, "overwrite": True}, ["overwrite: goes with save_to only."]),
    "a place outside": ({"prompt": FOX, "save_to": "/etc/x.png"}, ["save_to: stands outside the workspace"]),
}
WRONG_REMIXES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no source": ({"prompt": FOX}, ["source_images: remix_image needs at least one image"]),
    "an empty list": ({"prompt": FOX, "source_image_urls": []}, ["source_image_urls: is empty"]),
    "a text": ({"prompt": FOX, "source_images": "a.png"}, ["source_images: got str; needs a list"]),
    "bytes": ({"prompt": FOX, "source_images": [b"PNG"]}, ["source_images: item 1 is bytes; needs a path"]),
    "both names": (
        {"prompt": FOX, "source_images": ["a.png"], "source_image_urls": ["https://x.example/a.png"]},
        ["source_image_urls: goes without source_images= only"],
    ),
    "no such file": ({"prompt": FOX, "source_images": ["missing.png"]}, ["source_images: item 1"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named_and_nothing_is_sent(case: str, client: Flux2Client, tmp_path: Path) -> None:
    given, told = WRONG[case]
    for call in (client.text_to_image.run, client.text_to_image.create):
        with pytest.raises(InvalidRequestError) as error:
            call(**given)
        for text in told:
            assert text in str(error.value)
    assert nothing_made(tmp_path)


@pytest.mark.parametrize("case", WRONG_REMIXES)
def test_wrong_sources_are_named_and_nothing_is_sent(case: str, client: Flux2Client, tmp_path: Path) -> None:
    given, told = WRONG_REMIXES[case]
    with pytest.raises(InvalidRequestError) as error:
        client.remix_image.run(**given)
    for text in told:
        assert text in str(error.value)
    assert nothing_made(tmp_path)


def test_other_calls_name_their_wrong_arguments_too(client: Flux2Client) -> None:
    for call, told in (
        (lambda: client.text_to_image.run(prompt=FOX, timeout=-1), "timeout: must be seconds"),
        (lambda: client.tasks.wait("an id"), "ids: must be a list"),
        (lambda: client.tasks.wait(["x"], timeout=float("nan")), "timeout: must be seconds"),
        (lambda: client.tasks.recent(limit=0), "limit: must be a whole number"),
        (lambda: client.tasks.recent(status="done"), "status: got 'done'; allowed: submitting"),  # type: ignore[arg-type]
        (lambda: client.tasks.recent(since="soon"), "since: is neither an age"),
        (lambda: client.quote(model=PRO, count=0), "count: must be a whole number"),
        (lambda: client.quote(model=PRO, output_resolution="8k"), "output_resolution: got '8k'; allowed: 1k, 2k"),
        (lambda: client.prices(model="flux-3"), "model: got 'flux-3'"),
        (lambda: client.prices(action="edit"), "action: got 'edit'; allowed: text_to_image"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidRequestError, match=told):
            call()


def test_a_dear_call_without_a_limit_is_refused_and_told_which_limit_to_state(
    client: Flux2Client, clean_env: dict[str, str], tmp_path: Path
) -> None:
    env = clean_env | {"FLUX2_CONFIRM_USD": "0.10"}
    with Flux2Client(environ=env) as careful:
        with pytest.raises(BudgetError) as error:
            careful.text_to_image.run(variant="flex", prompt=FOX)
        assert "State max_cost_usd=0.14." in error.value.next_step
        assert nothing_made(tmp_path)
        assert careful.text_to_image.run(variant="flex", prompt=FOX, max_cost_usd="0.14").charged_usd == Decimal("0.14")
    with pytest.raises(BudgetError, match="max_cost_usd allows"):
        client.text_to_image.run(variant="flex", prompt=FOX, max_cost_usd=Decimal("0.13"))
    with Flux2Client(environ=clean_env | {"FLUX2_SESSION_BUDGET_USD": "0.05"}) as capped:
        capped.text_to_image.run(prompt=FOX)
        with pytest.raises(BudgetError, match="FLUX2_SESSION_BUDGET_USD"):
            capped.text_to_image.run(prompt="Another")


def test_a_task_that_fails_is_an_error_that_has_the_task(client: Flux2Client) -> None:
    with pytest.raises(TaskFailedError) as error:
        client.text_to_image.run(prompt="[sandbox:moderation] a red fox")
    task = error.value.task
    assert (task.status, task.ended, task.charged_usd, task.images) == ("failed", True, Decimal(0), ())
    assert "moderation" in str(error.value)
    assert client.tasks.wait([task.id]) == (task,)


def test_a_refusal_by_runapi_is_its_own_error_and_the_same_key_tells_it_again(client: Flux2Client) -> None:
    poor = "[sandbox:insufficient_credits] a red fox"
    for call in (client.text_to_image.run, client.text_to_image.create):
        with pytest.raises(InsufficientCreditsError) as error:
            call(prompt=poor)
        assert "client.prices" in error.value.next_step
    with pytest.raises(InsufficientCreditsError):
        client.text_to_image.run(prompt=poor, idempotency_key="poor")


def test_a_traceback_says_what_it_cost_and_what_to_do_next(client: Flux2Client) -> None:
    with pytest.raises(Flux2Error) as error:
        client.text_to_image.run(prompt=FOX, aspect_ratio="5:1")
    text = "".join(traceback.format_exception(error.value))
    assert "Nothing was sent and nothing was charged." in text
    assert "Next: Mend the arguments named above and call again." in text


def test_an_id_that_nobody_knows_is_not_found(client: Flux2Client) -> None:
    with pytest.raises(NotFoundError):
        client.text_to_image.get("0193a5f0-7c1e-7d3a-9b21-4f60aa17c2de")


def test_the_key_is_the_argument_then_the_environment_and_never_an_empty_text(
    clean_env: dict[str, str], tmp_path: Path
) -> None:
    assert Flux2Client(environ=clean_env).sandbox
    assert not Flux2Client(environ=clean_env | {"RUNAPI_API_KEY": "k" * 20}).sandbox
    assert not Flux2Client(api_key="k" * 20, environ=clean_env).sandbox
    with pytest.raises(SettingsError, match="api_key is empty"):
        Flux2Client(api_key=" ", environ=clean_env)
    with pytest.raises(SettingsError, match="RUNAPI_BASE_URL must be https"):
        Flux2Client(base_url="ftp://x", api_key="k" * 20, environ=clean_env)
    with Sandbox(tmp_path / "runapi", speed=1000, rate=None) as runapi:
        live: dict[str, Any] = {"base_url": runapi.base_url, "home": tmp_path / "other", "environ": clean_env}
        with Flux2Client(api_key=runapi.api_key, **live) as client:
            assert client.text_to_image.run(prompt=FOX).images[0].path
        with Flux2Client(api_key="another-key-than-its", **live) as stranger:
            with pytest.raises(AuthenticationError) as error:
                stranger.text_to_image.run(prompt="Another")
            assert "make a new client" in error.value.next_step
        assert not (tmp_path / "home").exists()
