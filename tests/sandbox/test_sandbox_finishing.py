"""The lines that finish pictures, over HTTP: what is cut out has a transparent ground, what is enlarged has its size."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from flux2_mcp.domain import catalog
from flux2_mcp.images.upright import upright
from tests.support.picture_files import corner, saved
from tests.support.rows import each_row, rows
from tests.support.sandboxed import POLLS, Api, outcome, running, wrong_fields

CUT = "/api/v1/recraft/remove_background"
CRISP = "/api/v1/recraft/upscale_image"
TOPAZ = "/api/v1/topaz/upscale_image"
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("home")) as api:
        yield api


@pytest.fixture(scope="module")
def image(api: Api) -> str:
    """The URL of a drawn picture of 1280 x 720 pixels."""
    return api.image("[sandbox:instant] a fox logo", aspect_ratio="16:9")


def upload(api: Api, data: bytes, name: str = "a") -> str:
    source = {"type": "base64", "data": base64.b64encode(data).decode()}
    return str(api.http.post("/api/v1/files", json={"source": source, "file_name": name}).json()["url"])


def finish(api: Api, path: str, url: str, **fields: Any) -> httpx2.Response:  # noqa: ANN401  # any JSON
    """One create call, with the model of its line where the contract wants one."""
    model = {"model": "topaz-upscale-image"} | ({} if "upscale_factor" in fields else {"upscale_factor": 2})
    body = {"source_image_url": url} | (model if path == TOPAZ else {}) | fields
    return api.http.post(path, json=body)


def result(api: Api, created: httpx2.Response) -> tuple[Image.Image, httpx2.Response]:
    """The picture of a task, and the answer that it came in."""
    answer = api.anyone.get(api.ended(created)["images"][0]["url"])
    with Image.open(io.BytesIO(answer.content)) as picture:
        picture.load()
        return picture, answer


def test_a_cut_out_picture_is_a_png_of_its_size_whose_ground_is_transparent(api: Api, image: str) -> None:
    created = finish(api, CUT, image)
    picture, answer = result(api, created)
    alpha = picture.getchannel("A")
    assert (answer.headers["Content-Type"], picture.format, picture.size) == ("image/png", "PNG", (1280, 720))
    assert (alpha.getpixel((3, 3)), alpha.getpixel((640, 300))) == (0, 255)
    assert "SANDBOX" in picture.info["Comment"]
    assert api.ended(created)["usage"] == {"cost": 0.02, "generated_images": 1}
    assert created.headers["X-RunAPI-Task-Id"] == created.json()["id"]


@pytest.mark.parametrize(
    ("path", "fields", "times"),
    [
        (TOPAZ, {"upscale_factor": 1}, 1),
        (TOPAZ, {"upscale_factor": 2}, 2),
        pytest.param(TOPAZ, {"upscale_factor": 4}, 4, marks=pytest.mark.deep),
        pytest.param(TOPAZ, {"upscale_factor": 8}, 8, marks=pytest.mark.deep),
        pytest.param(CRISP, {}, 2, marks=pytest.mark.deep),
        (CRISP, {"model": "recraft-crisp-upscale"}, 2),
    ],
)
def test_an_enlarged_picture_has_exactly_so_many_times_the_size(
    api: Api, image: str, path: str, fields: dict[str, Any], times: int
) -> None:
    assert result(api, finish(api, path, image, **fields))[0].size == (1280 * times, 720 * times)


def test_what_is_enlarged_keeps_its_kind_and_its_transparency(api: Api) -> None:
    with each_row() as row:
        for kind, suffix in (("JPEG", ".jpg"), ("WEBP", ".webp"), ("PNG", ".png")):
            with row(kind):
                source = corner("RGB" if kind == "JPEG" else "RGBA")
                if kind != "JPEG":
                    source.paste((0, 0, 0, 0), (0, 0, 20, 20))
                picture, answer = result(api, finish(api, TOPAZ, upload(api, saved(source, kind))))
                assert (picture.format, picture.size, picture.mode) == (kind, (160, 80), source.mode)
                assert answer.url.path.endswith(suffix)
                assert answer.headers["Content-Type"] == f"image/{kind.lower()}"


def test_what_was_finished_is_finished_again(api: Api, image: str) -> None:
    cut = api.ended(finish(api, CUT, image))["images"][0]["url"]
    picture, _ = result(api, finish(api, TOPAZ, cut))
    assert (picture.size, picture.mode, picture.getchannel("A").getpixel((5, 5))) == ((2560, 1440), "RGBA", 0)


@rows(
    ("path", "body", "fields"),
    [
        (CUT, {}, {"source_image_url"}),
        (CUT, {"source_image_url": "ftp://a/b.png"}, {"source_image_url"}),
        (CUT, {"source_image_url": ["https://a.example/b.png"]}, {"source_image_url"}),
        (CUT, {"source_image_url": "https://a.example/b.png", "prompt": "a cat"}, {"prompt"}),
        (CUT, {"source_image_url": "https://a.example/b.png", "upscale_factor": 2}, {"upscale_factor"}),
        (CUT, {"source_image_url": "https://a.example/b.png", "model": "recraft-crisp-upscale"}, {"model"}),
        (CUT, {"source_image_url": "https://a.example/b.png", "model": 7}, {"model"}),
        (CUT, {"source_image_url": "https://a.example/b.png", "callback_url": "x"}, {"callback_url"}),
        (CUT, {"source_image_url": "https://a.example/b.png#[sandbox:nothing]"}, {"source_image_url"}),
        (TOPAZ, {"source_image_url": "https://a.example/b.png", "upscale_factor": 2}, {"model"}),
        (TOPAZ, {"model": "topaz-upscale-image", "source_image_url": "https://a.example/b.png"}, {"upscale_factor"}),
        (
            TOPAZ,
            {"model": "topaz-upscale-image", "source_image_url": "https://a.example/b.png", "upscale_factor": 3},
            {"upscale_factor"},
        ),
        (
            TOPAZ,
            {"model": "topaz-upscale-image", "source_image_url": "https://a.example/b.png", "upscale_factor": "2"},
            {"upscale_factor"},
        ),
        (TOPAZ, {"model": "recraft-crisp-upscale", "source_image_url": "https://a.example/b.png"}, {"model"}),
    ],
)
def test_what_the_contract_does_not_have_is_refused_by_field(
    api: Api, path: str, body: dict[str, Any], fields: set[str]
) -> None:
    assert set(wrong_fields(api.http.post(path, json=body))) == fields


def test_an_action_of_another_line_is_not_found_and_neither_is_its_task(api: Api, image: str) -> None:
    with each_row() as row:
        for path in (
            "/api/v1/recraft/text_to_image",
            "/api/v1/topaz/remove_background",
            "/api/v1/flux_2/upscale_image",
        ):
            with row(path):
                assert api.http.post(path, json={}).status_code == api.http.get(f"{path}/x").status_code == 404
    ident = finish(api, CRISP, image).json()["id"]
    assert [api.http.get(f"{path}/{ident}").status_code for path in (CRISP, TOPAZ, CUT)] == [200, 404, 404]


def test_a_source_that_cannot_be_had_fails_the_task_and_nothing_is_charged(api: Api) -> None:
    spent = api.http.get("/api/v1/me/balance").json()["spent_cents_total"]
    here = api.sandbox.base_url
    with each_row() as row:
        for url, why in (
            ("https://example.com/cat.png", "it can't be fetched from its URL"),
            (f"{here}/files/none", "its URL has expired or is not valid"),
            (f"{here}/results/none.png?expires=1&signature=x", "its URL has expired or is not valid"),
            (upload(api, b"no picture", "a.png"), "it is not a readable image"),
        ):
            with row(url):
                task = api.ended(finish(api, CUT, url))
                assert (task["status"], task["error"]) == ("failed", f"The source image can't be used: {why}.")
    assert api.http.get("/api/v1/me/balance").json()["spent_cents_total"] == spent


def test_a_picture_that_is_too_large_fails_before_anything_is_drawn(api: Api) -> None:
    large = upload(api, saved(Image.new("1", (2200, 2200))))
    task = api.ended(finish(api, TOPAZ, large, upscale_factor=8))
    assert task["error"] == "The source image can't be used: the result would have more than 300 megapixels."
    larger = api.ended(finish(api, TOPAZ, large, upscale_factor=4))["images"][0]["url"]
    again = api.ended(finish(api, CUT, larger))
    assert again["error"] == "The source image can't be used: it has more than 64 megapixels."


def test_a_key_makes_one_task_and_belongs_to_its_line(api: Api, image: str) -> None:
    headers = {"Idempotency-Key": f"k{next(NUMBERS)}"}
    body = {"source_image_url": image}
    first, second = (api.http.post(CRISP, json=body, headers=headers) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    assert api.http.post(CUT, json=body, headers=headers).status_code == 409


# --- markers ---


def test_a_marker_that_names_an_action_is_for_the_task_that_works_on_the_prompts_picture(api: Api) -> None:
    prompt = "a cat [sandbox:instant][sandbox:remove_background:moderation][sandbox:upscale_image:no_usage]"
    made = api.ended(api.create(prompt))
    assert made["status"] == "completed"
    url = made["images"][0]["url"]
    failed = api.ended(finish(api, CUT, url))
    assert (failed["status"], failed["error"]) == ("failed", "The request was rejected by content moderation.")
    larger = api.ended(finish(api, TOPAZ, url))
    assert (larger["status"], "usage" in larger) == ("completed", False)
    # So it is, too, where our own client sent the picture as a file, and for a later step.
    pixels = upright(api.anyone.get(url).content)
    sent = upload(api, pixels.data, "a.png")
    assert api.ended(finish(api, CUT, sent))["status"] == "failed"
    assert api.ended(finish(api, CUT, larger["images"][0]["url"]))["status"] == "failed"


def test_a_marker_behind_the_sources_url_is_for_the_task_with_this_source(api: Api, image: str) -> None:
    assert api.ended(finish(api, CUT, f"{image}#[sandbox:moderation]"))["status"] == "failed"
    back, _ = result(api, finish(api, TOPAZ, f"{image}#[sandbox:wrong_ratio]"))
    assert back.size == (1280, 720)
    assert outcome(finish(api, TOPAZ, f"{image}#[sandbox:insufficient_credits]"))[0] == 402


def test_a_marker_of_an_unknown_action_is_refused(api: Api) -> None:
    with each_row() as row:
        for marker in ("text_to_image:moderation", "nothing:moderation", "upscale_image:nothing", ":moderation:"):
            with row(marker):
                assert wrong_fields(api.create(f"a cat [sandbox:{marker}]")) == ["prompt"]


def test_a_hybrid_task_is_answered_at_its_own_place(api: Api, image: str) -> None:
    created = finish(api, CUT, f"{image}#[sandbox:hybrid]")
    assert (created.status_code, created.headers["Location"]) == (202, f"/api/v1/tasks/{created.json()['id']}")
    place = created.headers["Location"]
    task = next(each for _ in range(POLLS) if (each := api.http.get(place).json())["response"] is not None)
    assert task["response"]["body"]["images"][0]["url"].partition("?")[0].endswith(".png")
    assert api.http.get(f"{CUT}/{task['id']}").status_code == 404


# --- prices ---


def test_each_line_has_its_prices_in_the_schedule_and_in_quotes(api: Api) -> None:
    rows = api.anyone.get("/api/v1/price_schedules").json()["price_schedules"]
    assert [row["model"] for row in rows] == list(catalog.all_models())
    topaz = api.anyone.get("/api/v1/price_schedules", params={"service": "topaz"}).json()["price_schedules"]
    assert [(row["model"], row["action"], row["unit_price_cents"], row["billing_config"]) for row in topaz] == [
        (
            "topaz-upscale-image", "upscale_image", 5,
            {"key": "upscale_factor", "overrides": {"2": 5, "4": 10, "8": 20}},
        )
    ]  # fmt: skip
    about = {"service": "topaz", "action": "upscale_image", "model": "topaz-upscale-image"}
    for factor, cents in ((1, 5), (2, 5), (4, 10), (8, 20)):
        quote = api.http.post("/api/v1/price_quotes", json=about | {"params": {"upscale_factor": factor}})
        assert quote.json()["price_quote"]["reservation_amount_cents"] == cents
    cut = {"service": "recraft", "action": "remove_background", "model": "recraft-remove-background"}
    assert api.http.post("/api/v1/price_quotes", json=cut).json()["price_quote"]["reservation_amount_cents"] == 2
    wrong = api.http.post("/api/v1/price_quotes", json=about | {"service": "recraft"})
    assert set(wrong_fields(wrong)) == {"model"}


def test_a_task_of_an_older_folder_is_read(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        ident = first.create("a cat [sandbox:instant]").json()["id"]
    with running(tmp_path) as second:
        assert second.http.get(f"/api/v1/flux_2/text_to_image/{ident}").json()["status"] == "completed"
