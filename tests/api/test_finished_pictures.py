"""The Python client cuts out and enlarges: what a prompt makes, and pictures that exist."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flux2_mcp import (
    BudgetError,
    Flux2Client,
    InsufficientCreditsError,
    InvalidRequestError,
    Task,
    TaskFailedError,
)
from flux2_mcp.sandbox.server import Sandbox
from tests.support.contract_api import KEY, SMALL_PX, ContractApi, contract_api

FLUX, CUT, LARGER, CRISP = (
    "flux-2-pro-text-to-image",
    "recraft-remove-background",
    "topaz-upscale-image",
    "recraft-crisp-upscale",
)
FOX = "a flat fox logo on white"
BROKEN = f"{FOX} [sandbox:upscale_image:moderation]"
DEADLINE = 60.0


@pytest.fixture
def client(clean_env: dict[str, str], tmp_path: Path) -> Iterator[Flux2Client]:
    with Flux2Client(environ=clean_env, workspace=tmp_path) as client:
        yield client


@pytest.fixture
def api() -> Iterator[ContractApi]:
    with contract_api() as api:
        api.side_px = SMALL_PX
        yield api


def models(task: Task) -> list[tuple[str, str]]:
    return [(each.model, each.status) for each in (*task.steps, task)]


def made(tmp_path: Path) -> list[str]:
    """The models of the tasks that the sandbox of this home has made."""
    with Sandbox(tmp_path / "home" / "sandbox") as sandbox:
        return [str(task.body["model"]) for task in sandbox.tasks()]


def looked_at(path: Path) -> tuple[str, tuple[int, int], bool]:
    """Its mode, its size, and whether it is transparent in a corner and not in the middle."""
    with Image.open(path) as picture:
        alpha = picture.convert("RGBA").getchannel("A")
        middle = alpha.getpixel((picture.width // 2, picture.height // 2))
        return picture.mode, picture.size, (alpha.getpixel((1, 1)), middle) == (0, 255)


def test_a_logo_is_made_cut_out_and_enlarged_by_three_paid_tasks(client: Flux2Client, tmp_path: Path) -> None:
    task = client.text_to_image.run(prompt=FOX, background="transparent", upscale=2, save_to="logo.png")
    assert models(task) == [(model, "completed") for model in (FLUX, CUT, LARGER)]
    assert looked_at(tmp_path / "logo.png") == ("RGBA", (2048, 2048), True)
    [image] = task.images
    assert image.matches_request is True
    assert image.transparent_share is not None
    assert 0.05 < image.transparent_share < 0.95
    assert task.steps[0].images[0].transparent_share is None
    assert [each.charged_usd for each in (*task.steps, task)] == [Decimal("0.05"), Decimal("0.02"), Decimal("0.05")]
    assert (task.total_charged_usd, task.steps[1].total_charged_usd) == (Decimal("0.12"), Decimal("0.07"))
    assert task.steps[1].steps == task.steps[:1]
    assert client.text_to_image.get(task.id) == task
    # Each is a task of its own, too.
    assert client.tasks.wait([task.id, task.steps[0].id, task.id]) == (task, task.steps[0])
    listed = client.tasks.recent()
    assert [each.id for each in listed] == [task.id, task.steps[1].id, task.steps[0].id]
    assert not any(each.steps for each in listed)


def test_pictures_that_exist_are_cut_out_and_enlarged_alone(client: Flux2Client, tmp_path: Path) -> None:
    fox = client.text_to_image.run(prompt=FOX, save_to="fox.png")
    cut = client.remove_background.run(source_image=tmp_path / "fox.png", save_to="cut.webp")
    assert looked_at(tmp_path / "cut.webp")[1:] == ((1024, 1024), True)
    assert (cut.model, cut.action, cut.steps, cut.prompt) == (CUT, "remove_background", (), "")
    assert cut.total_charged_usd == cut.charged_usd == Decimal("0.02")
    larger = client.upscale_image.create(source_image_url=f"task:{cut.id}", upscale_factor=2)
    crisp = client.upscale_image.create(model=CRISP, source_image_url=str(fox.images[0].url))
    ended = client.tasks.wait([larger.id, crisp.id], timeout=DEADLINE)
    assert [(task.model, task.images[0].width) for task in ended] == [(LARGER, 2048), (CRISP, 2048)]
    assert ended[0].images[0].transparent_share == pytest.approx(cut.images[0].transparent_share, abs=0.001)
    assert client.upscale_image.get(larger.id) == ended[0]
    assert client.remove_background.get(cut.id) == cut


def test_pictures_of_several_steps_come_when_their_last_has_ended(client: Flux2Client) -> None:
    first = client.text_to_image.run(prompt=FOX)
    chains = [
        client.text_to_image.create(prompt=f"{FOX} [sandbox:upscale_image:stuck]", upscale=2),
        client.remix_image.create(prompt="Make it blue", source_images=[f"task:{first.id}"], background="transparent"),
    ]
    assert not any(task.ended for task in chains)
    ids = [*(task.id for task in chains), first.id]
    found = client.tasks.as_completed(ids, timeout=DEADLINE)
    assert next(found) == first
    done = next(found)
    assert done.idempotency_key == chains[1].idempotency_key
    assert models(done) == [("flux-2-pro-remix-image", "completed"), (CUT, "completed")]
    # The step before the stuck one has ended; that is no reason to yield or to stop.
    before = client.tasks.wait([chains[0].id], timeout=0)[0].steps[0]
    assert [task.id for task in client.tasks.as_completed([before.id], timeout=DEADLINE)] == [before.id]


def test_the_models_that_finish_have_prices_and_quotes_by_their_names(client: Flux2Client) -> None:
    assert client.quote(model=CUT).usd == Decimal("0.02")
    prices = {
        (price.model, price.output_resolution): price.usd
        for action in ("remove_background", "upscale_image")
        for price in client.prices(action=action)
    }
    assert prices == {
        (CUT, "any"): Decimal("0.02"),
        (CRISP, "any"): Decimal("0.03"),
        (LARGER, "2"): Decimal("0.05"),
        (LARGER, "4"): Decimal("0.10"),
        (LARGER, "8"): Decimal("0.20"),
    }
    assert [price.output_resolution for price in client.prices(model=LARGER)] == ["2", "4", "8"]
    assert client.quote(model=LARGER, output_resolution="4", count=3).usd == Decimal("0.30")
    assert client.quote(action="upscale_image", output_resolution="8").price.model == LARGER
    for given, told in (
        ({"model": LARGER}, "output_resolution: is needed; allowed: 2, 4, 8."),
        ({"model": LARGER, "output_resolution": "3"}, "output_resolution: got '3'; allowed: 2, 4, 8."),
        ({"action": "upscale_image", "variant": "pro"}, f"variant: got 'pro'; allowed: {CRISP}, {LARGER}."),
        ({"action": "remix_image", "model": CUT}, f"model: {CUT} is a model of client.remove_background"),
    ):
        with pytest.raises(InvalidRequestError) as error:
            client.quote(**given)  # type: ignore[arg-type]  # what is wrong with them is the point
        assert told in str(error.value)


WRONG: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "values": (
        "text_to_image",
        {"prompt": FOX, "background": "blue", "upscale": 3},
        ["background: got 'blue'; allowed: transparent.", "upscale: got 3; allowed: 2, 4, 8."],
    ),
    "a JPEG": (
        "text_to_image",
        {"prompt": FOX, "background": "transparent", "save_to": "logo.jpg"},
        ["save_to: a JPEG has no transparent ground; end save_to in .png or .webp."],
    ),
    "a JPEG of a picture": (
        "remove_background",
        {"source_image": "missing.png", "save_to": "logo.jpg"},
        ["source_image: item 1", "save_to: a JPEG has no transparent ground"],
    ),
    "no picture": ("remove_background", {}, ["source_image: remove_background needs one picture"]),
    "several pictures": (
        "remove_background",
        {"source_image": ["a.png", "b.png"]},
        ["source_image: got list; needs str or a path."],
    ),
    "both names": (
        "upscale_image",
        {"source_image": "a.png", "source_image_url": "a.png", "upscale_factor": 2},
        ["source_image_url: goes without source_image= only: they are the same."],
    ),
    "no factor": (
        "upscale_image",
        {"source_image": "a.png"},
        [f"upscale_factor: {LARGER} needs it; allowed: 2, 4, 8."],
    ),
    "another factor": (
        "upscale_image",
        {"source_image": "a.png", "upscale_factor": True},
        ["upscale_factor: got True; allowed: 2, 4, 8."],
    ),
    "a factor of a model without": (
        "upscale_image",
        {"source_image": "a.png", "model": CRISP, "upscale_factor": 2},
        [f"upscale_factor: {CRISP} has no such field; leave it out."],
    ),
    "a model of the other action": (
        "upscale_image",
        {"source_image": "a.png", "model": CUT},
        [f"model: {CUT} is a model of client.remove_background; client.upscale_image has {LARGER} in its place."],
    ),
    "a model that makes": (
        "remove_background",
        {"source_image": "a.png", "model": FLUX},
        [f"model: {FLUX} is a model of client.text_to_image; client.remove_background has {CUT} in its place."],
    ),
    "no such model": (
        "upscale_image",
        {"source_image": "a.png", "model": "topaz"},
        [f"model: got 'topaz'; allowed: {CRISP}, {LARGER}."],
    ),
    "fields of the others": (
        "remove_background",
        {"source_image": "a.png", "prompt": FOX, "upscale_factor": 2},
        [
            "prompt: remove_background takes no such argument; client.text_to_image takes it.",
            "client.upscale_image takes",
        ],
    ),
    "no such file": (
        "upscale_image",
        {"source_image": "missing.png", "upscale_factor": 2},
        ["source_image: item 1"],
    ),
    "too large a result": (
        "upscale_image",
        {"source_image": "large.png", "upscale_factor": 8},
        ["upscale_factor: would make 17600x17600; at most 300 megapixels can be checked and kept."],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named_as_python_has_them_and_nothing_is_sent(
    case: str, client: Flux2Client, tmp_path: Path
) -> None:
    action, given, told = WRONG[case]
    if given.get("source_image") == "large.png":
        Image.new("1", (2200, 2200)).save(tmp_path / "large.png")
    with pytest.raises(InvalidRequestError) as error:
        getattr(client, action).run(**given)
    for text in told:
        assert text in str(error.value)
    assert str(error.value).count("\n") == len(told) - 1
    assert made(tmp_path) == []


@pytest.mark.deep  # the bare contract below and tests/engine/test_finished.py go on, too
def test_what_broke_off_says_what_is_there_and_the_same_call_goes_on_from_it(
    client: Flux2Client, tmp_path: Path
) -> None:
    for _ in range(2):
        with pytest.raises(TaskFailedError) as caught:
            client.text_to_image.run(prompt=BROKEN, background="transparent", upscale=2)
        error = caught.value
        assert models(error.task) == [(FLUX, "completed"), (CUT, "completed"), (LARGER, "failed")]
        assert "moderation" in str(error)
        for step in error.task.steps:
            assert step.images[0].path is not None
            assert f"{step.model}: {step.images[0].path}" in str(error)
        assert error.task.total_charged_usd == Decimal("0.07")
        assert error.cost == "The steps that made a picture were charged $0.07. The others are not charged."
        assert error.next_step.startswith("Make the same call again: it goes on from")
    assert made(tmp_path) == [FLUX, CUT, LARGER, LARGER]


def test_under_a_key_that_broke_off_the_error_says_how_to_go_on(client: Flux2Client, tmp_path: Path) -> None:
    for key in ("logo", "logo", None):
        with pytest.raises(TaskFailedError) as caught:
            client.text_to_image.run(prompt=BROKEN, upscale=2, idempotency_key=key)
        assert ("again without idempotency_key" in caught.value.next_step) is (key is not None)
    assert made(tmp_path) == [FLUX, LARGER, LARGER]


def test_a_refusal_of_the_first_step_is_its_own_error(client: Flux2Client) -> None:
    for call in (client.text_to_image.run, client.text_to_image.create):
        with pytest.raises(InsufficientCreditsError):
            call(prompt=f"{FOX} [sandbox:insufficient_credits]", upscale=2)
    with pytest.raises(TaskFailedError) as error:
        client.text_to_image.run(prompt=f"{FOX} [sandbox:moderation]", upscale=2)
    assert error.value.task.total_charged_usd == Decimal(0)
    assert "The pictures of the steps" not in str(error.value)


def test_the_limit_of_a_call_is_that_of_all_its_steps(clean_env: dict[str, str], tmp_path: Path) -> None:
    env = clean_env | {"FLUX2_CONFIRM_USD": "0.10"}
    with Flux2Client(environ=env, workspace=tmp_path) as client:
        with pytest.raises(BudgetError) as error:
            client.text_to_image.run(prompt=FOX, background="transparent", upscale=2)
        assert "State max_cost_usd=0.12." in error.value.next_step
        with pytest.raises(BudgetError) as error:
            client.text_to_image.run(prompt=FOX, background="transparent", upscale=2, max_cost_usd="0.11")
        for step in (f"{FLUX} at 1k ($0.05)", f"{CUT} ($0.02)", f"{LARGER} at 2x ($0.05)"):
            assert step in str(error.value)
    assert made(tmp_path) == []


def test_against_the_bare_contract_too(api: ContractApi, clean_env: dict[str, str], tmp_path: Path) -> None:
    env = clean_env | {"RUNAPI_BASE_URL": api.url, "RUNAPI_API_KEY": KEY}
    api.schedules |= {FLUX: 5, CUT: 1, LARGER: 4}
    api.failing.add(CUT)
    with Flux2Client(environ=env, workspace=tmp_path) as client:
        logo: dict[str, Any] = {"prompt": FOX, "background": "transparent", "save_to": "logo.png", "max_cost_usd": 1}
        with pytest.raises(TaskFailedError, match="The model could not do it"):
            client.text_to_image.run(**logo)
        api.failing.clear()
        task = client.text_to_image.run(**logo)
        assert models(task) == [(FLUX, "completed"), (CUT, "completed")]
        assert looked_at(tmp_path / "logo.png") == ("RGBA", (720, 720), True)
        assert task.total_charged_usd is None  # RunAPI said nothing of it
        Image.new("RGB", (160, 90), "red").save(tmp_path / "hero.png")
        hero = client.upscale_image.run(source_image="hero.png", upscale_factor=4)
        assert (hero.images[0].width, hero.images[0].matches_request) == (640, True)
    assert [len(api.made(model)) for model in (FLUX, CUT, LARGER)] == [1, 2, 1]
    assert set(api.creates.values()) == {1}
