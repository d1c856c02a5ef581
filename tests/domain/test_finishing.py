"""The lines that finish pictures, as data, and the steps that a call asks of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flux2_mcp.domain import catalog, finishing
from flux2_mcp.domain.models import Action, ImageRequest, RequestArgs
from flux2_mcp.errors import InvalidRequestError
from flux2_mcp.runapi import wire
from tests.support.rows import rows

PUBLISHED = Path(__file__).parents[3] / "shared" / "api" / "finishing.json"
"""The vendor's contract as data. It lies beside some checkouts, and is no part of this repository."""
ENDPOINTS = {
    "recraft-remove-background": ("recraft", Action.REMOVE_BACKGROUND, ("any",)),
    "recraft-crisp-upscale": ("recraft", Action.UPSCALE_IMAGE, ("any",)),
    "topaz-upscale-image": ("topaz", Action.UPSCALE_IMAGE, ("2", "4", "8")),
}
HERO: dict[str, Any] = {"prompt": "a hero image", "aspect_ratio": "16:9"}
URL = "https://example.com/cat.png"


def steps(**args: Any) -> tuple[ImageRequest, ...]:  # noqa: ANN401  # any argument of a caller
    return finishing.steps_of(RequestArgs(**args))


def refused(**args: Any) -> dict[str, str]:  # noqa: ANN401  # any argument of a caller
    with pytest.raises(InvalidRequestError) as caught:
        steps(**args)
    return {problem.field: problem.text for problem in caught.value.problems}


def test_the_lines_are_what_the_vendor_published() -> None:
    found = {name: (model.line, model.action, model.resolutions) for name, model in catalog.finishers().items()}
    assert found == ENDPOINTS
    assert catalog.services() == ("flux-2", "recraft", "topaz")
    assert not any(model.published_cents for model in catalog.finishers().values())
    if PUBLISHED.exists():
        fields = {
            f"{line['service']}/{action.replace('_', '-')}": spec["fields_by_model"]
            for line in catalog.document()["lines"]
            for action, spec in line["actions"].items()
        }
        theirs = json.loads(PUBLISHED.read_text("utf-8"))["actions"]
        assert fields == {name: action["fields_by_model"] for name, action in theirs.items()}


def test_a_call_without_finishing_is_one_step_as_before() -> None:
    assert steps(**HERO) == (catalog.request(**HERO),)


def test_the_steps_follow_each_other_and_only_the_last_is_called_back() -> None:
    made, cut, larger = steps(**HERO, background="transparent", upscale=4, callback_url="https://example.com/cb")
    assert made == catalog.request(**HERO)
    assert (cut.action, cut.model, cut.callback_url) == (Action.REMOVE_BACKGROUND, "recraft-remove-background", None)
    assert (larger.model, larger.upscale_factor) == ("topaz-upscale-image", 4)
    assert larger.callback_url == "https://example.com/cb"
    assert not cut.source_image_urls
    assert list(finishing.labels((made, cut, larger))) == [
        "flux-2-pro-text-to-image at 1k",
        "recraft-remove-background",
        "topaz-upscale-image at 4x",
    ]


def test_a_remix_is_finished_too() -> None:
    made, larger = steps(prompt="make it night", source_images=[URL, URL], upscale=2)
    assert (made.action, larger.upscale_factor) == (Action.REMIX_IMAGE, 2)
    assert len(made.source_image_urls) == 2


@pytest.mark.parametrize("prompt", [None, "", "  "])
def test_without_a_prompt_the_only_source_is_finished(prompt: str | None) -> None:
    (cut,) = steps(prompt=prompt, source_images=[URL], background="transparent", variant="pro")
    assert wire.body(cut) == {"model": "recraft-remove-background", "source_image_url": URL}
    (larger,) = steps(prompt=prompt, source_images=[URL], upscale=8, callback_url="https://example.com/cb")
    assert wire.body(larger) == {
        "model": "topaz-upscale-image",
        "source_image_url": URL,
        "upscale_factor": 8,
        "callback_url": "https://example.com/cb",
    }


def test_a_model_is_asked_for_by_its_name_too() -> None:
    (crisp,) = steps(source_images=[URL], variant="recraft-crisp-upscale")
    assert wire.body(crisp) == {"model": "recraft-crisp-upscale", "source_image_url": URL}
    assert [each.model for each in steps(source_images=[URL], variant="recraft-remove-background", upscale=2)] == [
        "recraft-remove-background",
        "topaz-upscale-image",
    ]


@rows(
    ("args", "field", "text"),
    [
        ({**HERO, "background": "white"}, "background", "allowed: transparent."),
        ({**HERO, "upscale": 1}, "upscale", "got 1; allowed: 2, 4, 8."),
        ({**HERO, "upscale": True}, "upscale", "got True; allowed: 2, 4, 8."),
        ({**HERO, "upscale": 2.0}, "upscale", "got 2.0; allowed: 2, 4, 8."),
        ({**HERO, "upscale": "4"}, "upscale", "got '4'; allowed: 2, 4, 8."),
        ({"upscale": 4}, "prompt", finishing.NO_PICTURE),
        ({"upscale": 4, "source_images": []}, "prompt", finishing.NO_PICTURE),
        ({"upscale": 4, "source_images": [URL, URL]}, "source_images", finishing.ONE_SOURCE),
        ({"upscale": 4, "source_images": [URL], "aspect_ratio": "1:1"}, "aspect_ratio", finishing.WITH_PROMPT),
        ({"upscale": 4, "source_images": [URL], "variant": "max"}, "variant", finishing.WITH_PROMPT),
        ({"source_images": [URL]}, "prompt", "pro needs it."),
        ({"prompt": "x" * 9, "variant": "topaz-upscale-image"}, "variant", "source_images, and no prompt."),
        ({"source_images": [URL], "variant": "topaz-upscale-image"}, "upscale", "needs it; allowed: 2, 4, 8."),
        (
            {"source_images": [URL], "variant": "topaz-upscale-image", "upscale": 3},
            "upscale",
            "got 3; allowed: 2, 4, 8.",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(args: dict[str, Any], field: str, text: str) -> None:
    problems = refused(**args)
    assert problems.keys() == {field}
    assert problems[field].endswith(text)


def test_one_error_names_all_that_is_wrong() -> None:
    assert refused(prompt="x", upscale=3, background=7, output_resolution="9k").keys() == {
        "upscale",
        "background",
        "prompt",
        "output_resolution",
    }
    assert refused(source_images=[URL], upscale=3, aspect_ratio="1:1").keys() == {"upscale", "aspect_ratio"}


def test_a_fourth_line_costs_an_entry() -> None:
    """Its argument, its values, its endpoint and what its price depends on come from the entry."""
    line = {
        "service": "acme-tools",
        "provider": "Acme",
        "actions": {
            "upscale_image": {
                "fields_by_model": {
                    "acme-huge": {
                        "model": {"type": "string"},
                        "source_image_url": {"type": "string", "required": True},
                        "upscale_factor": {"type": "integer", "enum": [1, 16], "required": True},
                    }
                }
            }
        },
        "models": {"acme-huge": {"choose": "{name:upscale} 16.", "argument": "upscale"}},
    }
    (huge,) = catalog.models_of([line]).values()
    assert (huge.line, huge.action, huge.argument) == ("acme_tools", Action.UPSCALE_IMAGE, "upscale")
    assert (huge.size_field, huge.resolutions, list(finishing.values(huge))) == ("upscale_factor", ("16",), [16])
