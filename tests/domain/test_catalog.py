from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux2_mcp.domain import catalog
from flux2_mcp.domain.catalog import Field
from flux2_mcp.domain.models import MAKING, Action, ImageRequest
from flux2_mcp.errors import InvalidRequestError, Problem
from flux2_mcp.runapi import wire
from tests.support.rows import rows

TEXT, REMIX = Action.TEXT_TO_IMAGE, Action.REMIX_IMAGE
RATIOS = ("1:1", "4:3", "3:4", "16:9", "9:16", "3:2", "2:3")
PUBLISHED = Path(__file__).parents[3] / "shared" / "api" / "flux-2.json"
"""The vendor's contract as data. It lies beside some checkouts, and is no part of this repository."""
DIGEST = Path(__file__).parents[1] / "snapshots" / "catalog.sha256"
"""Of `shared/api/flux-2.json` as it was on 28 November 2026: published contract v0.12.0, prices of July to November 2026.

Over canonical JSON, see `digest`. When the vendor publishes anew: the catalogue first, then this with FLUX2_SNAPSHOTS=write.
"""
URL = "https://example.com/cat.png"


@dataclass(frozen=True)
class Takes:
    """What one model takes."""

    variant: str
    action: Action
    ratios: tuple[str, ...]
    ratio_required: bool
    resolutions: tuple[str, ...]
    sources: tuple[int, int]
    safety: bool
    cents: Mapping[str, int]


BY_HAND = {
    "flux-2-pro-text-to-image": Takes("pro", TEXT, RATIOS, False, ("1k", "2k"), (0, 0), True, {"1k": 5, "2k": 7}),
    "flux-2-pro-remix-image": Takes(
        "pro", REMIX, (*RATIOS, "auto"), False, ("1k", "2k"), (1, 8), True, {"1k": 5, "2k": 7}
    ),
    "flux-2-flex-text-to-image": Takes("flex", TEXT, RATIOS, False, ("1k", "2k"), (0, 0), True, {"1k": 14, "2k": 24}),
    "flux-2-flex-remix-image": Takes(
        "flex", REMIX, (*RATIOS, "auto"), False, ("1k", "2k"), (1, 8), True, {"1k": 14, "2k": 24}
    ),
    "flux-2-max-text-to-image": Takes("max", TEXT, RATIOS, True, ("1k",), (0, 0), False, {}),
    "flux-2-max-remix-image": Takes("max", REMIX, RATIOS, True, ("1k",), (1, 1), False, {}),
}
"""Copied from the vendor's pages and not from the catalogue under test."""


def as_published(variant: str, action: Action) -> tuple[str, Takes]:
    """What a model takes that nobody has copied by hand: read from the data file itself, past the code under test."""
    data = catalog.document()
    model_id = f"flux-2-{variant}-{action.replace('_', '-')}"
    spec = data["actions"][action]["fields_by_model"][model_id]
    sources = spec.get("source_image_urls", {"min_items": 0, "max_items": 0})
    ratio, resolutions = spec["aspect_ratio"], tuple(spec["output_resolution"]["enum"])
    return model_id, Takes(
        variant,
        action,
        tuple(ratio["enum"]),
        ratio.get("required", False),
        resolutions,
        (sources["min_items"], sources["max_items"]),
        "enable_safety_checker" in spec,
        data["prices_cents"][model_id] or {},
    )


ALL_PUBLISHED = dict(as_published(variant, action) for variant in catalog.document()["variants"] for action in MAKING)
TAKES = ALL_PUBLISHED | {name: takes for name, takes in BY_HAND.items() if name in ALL_PUBLISHED}
VARIANTS = list(dict.fromkeys(takes.variant for takes in TAKES.values()))


def least(model_id: str, **more: object) -> dict[str, Any]:
    """The fewest arguments that the model is content with, and others."""
    takes = TAKES[model_id]
    given: dict[str, Any] = {"prompt": "a cat", "variant": model_id}
    if takes.action is REMIX:
        given["source_image_urls"] = [URL]
    if takes.ratio_required:
        given["aspect_ratio"] = "1:1"
    return given | more


def refused(model_id: str, **more: object) -> tuple[Problem, ...]:
    with pytest.raises(InvalidRequestError) as caught:
        catalog.request(**least(model_id, **more))
    return caught.value.problems


def others(model_id: str, fits: Any) -> str:  # noqa: ANN401  # a predicate
    """Which other models take it, as errors name them: variants of the same action, else models of the other one."""
    takes = TAKES[model_id]
    taking = {name: one for name, one in TAKES.items() if fits(one)}
    same = [one.variant for one in taking.values() if one.action is takes.action]
    return f" Allowed by: {', '.join(same or taking)}." if taking else ""


# --- the models as data ---


def test_there_are_two_models_a_variant_pro_first_and_text_to_image_before_remix() -> None:
    assert set(TAKES) >= set(BY_HAND)
    assert {name: (m.variant, m.action) for name, m in catalog.models().items()} == {
        name: (takes.variant, takes.action) for name, takes in TAKES.items()
    }
    assert tuple(catalog.models()) == tuple(TAKES)
    assert catalog.variants() == tuple(VARIANTS)
    assert catalog.DEFAULT_VARIANT == VARIANTS[0] == "pro"


@rows("model_id", TAKES)
def test_each_model_has_exactly_its_published_fields_bounds_and_prices(model_id: str) -> None:
    model, takes = catalog.models()[model_id], TAKES[model_id]
    prompt = "Image description." if takes.action is TEXT else "Image editing instruction."
    sources = "Exactly one public HTTP(S) source image URL." if takes.sources == (1, 1) else "Public source image URLs."
    fields = [
        Field("model", "string", required=True, description="Model slug."),
        Field("prompt", "string", required=True, low=3, high=5000, description=prompt),
        Field("aspect_ratio", "string", takes.ratio_required, enum=takes.ratios, description="Output aspect ratio."),
        Field("output_resolution", "string", enum=takes.resolutions, description="Output resolution."),
        Field("callback_url", "string", description="Webhook URL for async notifications."),
    ]
    if takes.action is REMIX:
        low, high = takes.sources
        fields.append(Field("source_image_urls", "array", required=True, low=low, high=high, description=sources))
    if takes.safety:
        fields.append(Field("enable_safety_checker", "boolean", description="Enable the safety checker."))
    else:
        fields.append(Field("output_count", "integer", enum=(1,), description="Number of images to generate."))
    assert dict(model.fields) == {field.name: field for field in fields}
    assert model.forbidden == {"output_count"} if takes.safety else {"enable_safety_checker"}
    assert dict(model.published_cents) == {name: Decimal(cents) for name, cents in takes.cents.items()}
    assert model.resolutions == takes.resolutions
    assert model.choose


def digest(document: Mapping[str, Any]) -> str:
    """Of what it says: sorted keys, no blanks, UTF-8."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_catalogue_is_what_the_vendor_published_and_three_things_of_ours() -> None:
    """Its digest is written anew with FLUX2_SNAPSHOTS=write; the difference is the vendor's."""
    ours = dict(catalog.document())
    ours.pop("lines")  # tests/domain/test_finishing.py
    assert set(ours.pop("variants")) == set(VARIANTS)
    assert ours.pop("prices_as_of")
    if PUBLISHED.exists():  # where it is there, a difference is shown, and a newer one is noticed
        assert ours == json.loads(PUBLISHED.read_text("utf-8"))
    if os.environ.get("FLUX2_SNAPSHOTS") == "write":
        DIGEST.write_text(digest(ours) + "\n", "utf-8")
    assert digest(ours) == DIGEST.read_text("utf-8").strip()


# --- which model is meant ---


def test_a_variants_name_and_its_full_model_id_mean_the_same_model() -> None:
    for variant, action in itertools.product(VARIANTS, MAKING):
        model_id = f"flux-2-{variant}-{action.replace('_', '-')}"
        assert catalog.find(variant, action) == catalog.find(model_id, action) == catalog.models()[model_id]


def test_without_a_variant_it_is_pro() -> None:
    assert catalog.request(prompt="a cat").model == "flux-2-pro-text-to-image"
    assert catalog.request(prompt="a cat", source_image_urls=[URL]).model == "flux-2-pro-remix-image"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_text_to_image_id_with_source_images_is_told_the_remix_id(variant: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        catalog.request(prompt="a cat", variant=f"flux-2-{variant}-text-to-image", source_image_urls=[URL])
    text = (
        f"flux-2-{variant}-text-to-image makes images from text alone, and source_images were given."
        f" Use flux-2-{variant}-remix-image, or variant {variant}."
    )
    assert caught.value.problems == (Problem("variant", text),)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_remix_id_without_source_images_is_told_the_text_to_image_id(variant: str) -> None:
    text = (
        f"flux-2-{variant}-remix-image remixes source images, and no source_images were given."
        f" Use flux-2-{variant}-text-to-image, or variant {variant}."
    )
    given: tuple[list[str] | None, ...] = (None, [])
    for sources in given:
        with pytest.raises(InvalidRequestError) as caught:
            catalog.request(prompt="a cat", variant=f"flux-2-{variant}-remix-image", source_image_urls=sources)
        assert caught.value.problems == (Problem("variant", text),)


NEAR_VARIANTS = {
    "PRO": "pro",
    "flux-2-pro": "pro",
    "flux-2-pro-text_to_image": "flux-2-pro-text-to-image",
    " pro": "pro",
}


@rows("name", ["dev", "PRO", "flux-2-pro", "flux-2-pro-text_to_image", " pro", "flux.2"])
def test_an_unknown_variant_is_refused_with_every_name_that_there_is(name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        catalog.request(prompt="a cat", variant=name)
    allowed = ", ".join((*VARIANTS, *TAKES))
    near = NEAR_VARIANTS.get(name)
    hint = f" (did you mean {near}?)" if near else ""
    assert caught.value.problems == (Problem("variant", f'got "{name}"{hint}; allowed: {allowed}.'),)
    assert caught.value.cost == "Nothing was sent and nothing was charged."


# --- what is taken ---


@rows("model_id", TAKES)
def test_the_fewest_arguments_make_a_request_that_says_nothing_more(model_id: str) -> None:
    takes = TAKES[model_id]
    expected = ImageRequest(
        action=takes.action,
        variant=takes.variant,
        model=model_id,
        prompt="a cat",
        source_image_urls=(URL,) if takes.action is REMIX else (),
        aspect_ratio="1:1" if takes.ratio_required else None,
    )
    assert catalog.request(**least(model_id)) == expected


@rows("model_id", TAKES)
def test_every_value_within_the_bounds_is_taken_as_it_is(model_id: str) -> None:
    takes = TAKES[model_id]
    good: list[tuple[str, object]] = [("prompt", "abc"), ("prompt", "x" * 5000), ("prompt", "🐈" * 5000)]
    good += [("prompt", "  a cat, \n twice  "), ("callback_url", "https://example.com/hook")]
    good += [("aspect_ratio", ratio) for ratio in takes.ratios]
    good += [("output_resolution", resolution) for resolution in takes.resolutions]
    good += [("enable_safety_checker", flag) for flag in (True, False) if takes.safety]
    for name, value in good:
        assert getattr(catalog.request(**least(model_id, **{name: value})), name) == value, (name, value)
    for count in range(takes.sources[0], takes.sources[1] + 1):
        urls = [f"{URL}?{number}" for number in range(count)]
        assert catalog.request(**least(model_id, source_image_urls=urls)).source_image_urls == tuple(urls)


# --- what is refused, and in which words ---


@rows(
    ("prompt", "text"),
    [
        (None, "{v} needs it."),
        ("", "got 0 characters; {v} allows 3 to 5000."),
        ("ab", "got 2 characters; {v} allows 3 to 5000."),
        ("x" * 5001, "got 5001 characters; {v} allows 3 to 5000."),
        (" \n\t  ", "got 0 characters; {v} allows 3 to 5000."),
        (7, "got integer 7; needs a string."),
        (1.5, "got number 1.5; needs a string."),
        (True, "got boolean true; needs a string."),
        (["a cat"], 'got array ["a cat"]; needs a string.'),
        ({"text": "a cat"}, 'got object {"text": "a cat"}; needs a string.'),
        ("a cat \ud83d", "is not valid Unicode text."),
    ],
)
def test_a_prompt_that_cannot_be_sent_is_refused(prompt: object, text: str) -> None:
    for model_id, takes in TAKES.items():
        assert refused(model_id, prompt=prompt) == (Problem("prompt", text.replace("{v}", takes.variant)),)


@rows("ratio", ["5:4", "auto", "1:1 ", "16x9", "", "21:9"])
def test_a_ratio_that_the_model_does_not_make_is_refused_with_those_it_does(ratio: str) -> None:
    for model_id, takes in TAKES.items():
        if ratio in takes.ratios:
            assert catalog.request(**least(model_id, aspect_ratio=ratio)).aspect_ratio == ratio
            continue
        hint = others(model_id, lambda one: ratio in one.ratios)
        near = {"1:1 ": " (did you mean 1:1?)", "16x9": " (did you mean 16:9?)"}.get(ratio, "")
        text = f'got "{ratio}"{near}; allowed: {", ".join(takes.ratios)}.{hint}'
        assert refused(model_id, aspect_ratio=ratio) == (Problem("aspect_ratio", text),)


def test_auto_without_source_images_names_the_models_that_have_a_source_to_keep_to() -> None:
    (problem,) = refused("flux-2-flex-text-to-image", aspect_ratio="auto")
    able = {name: takes.variant for name, takes in TAKES.items() if "auto" in takes.ratios}
    assert set(able) >= {"flux-2-pro-remix-image", "flux-2-flex-remix-image"}
    assert problem.text.endswith(f" Allowed by: {', '.join(able)}.")
    (problem,) = refused("flux-2-max-remix-image", aspect_ratio="auto")
    assert problem.text.endswith(f" Allowed by: {', '.join(able.values())}.")


@pytest.mark.parametrize("model_id", ["flux-2-max-text-to-image", "flux-2-max-remix-image"])
def test_max_wants_a_ratio_said(model_id: str) -> None:
    problem = Problem("aspect_ratio", "max needs it; allowed: 1:1, 4:3, 3:4, 16:9, 9:16, 3:2, 2:3.")
    assert refused(model_id, aspect_ratio=None) == (problem,)


@rows("resolution", ["2k", "4k", "1K", ""])
def test_a_resolution_that_the_model_does_not_make_is_refused_with_those_that_do(resolution: str) -> None:
    for model_id, takes in TAKES.items():
        if resolution in takes.resolutions:
            assert catalog.request(**least(model_id, output_resolution=resolution)).output_resolution == resolution
            continue
        hint = others(model_id, lambda one: resolution in one.resolutions)
        near = " (did you mean 1k?)" if resolution == "1K" else ""
        text = f'got "{resolution}"{near}; allowed: {", ".join(takes.resolutions)}.{hint}'
        assert refused(model_id, output_resolution=resolution) == (Problem("output_resolution", text),)


def test_a_choice_of_the_wrong_kind_is_told_the_kind_and_the_choices() -> None:
    for model_id, takes in TAKES.items():
        for field, choices in (("aspect_ratio", takes.ratios), ("output_resolution", takes.resolutions)):
            problem = Problem(field, f"got integer 2; needs a string; allowed: {', '.join(choices)}.")
            assert refused(model_id, **{field: 2}) == (problem,)


@rows("model_id", TAKES)
def test_the_safety_checker_is_a_boolean_where_there_is_one(model_id: str) -> None:
    if not TAKES[model_id].safety:
        hint = others(model_id, lambda one: one.safety)
        text = f"{TAKES[model_id].variant} has no such field; leave it out.{hint}"
        problem = Problem("enable_safety_checker", text)
        assert refused(model_id, enable_safety_checker=True) == (problem,)
        assert refused(model_id, enable_safety_checker=False) == (problem,)
        return
    for value, shown in (("yes", 'string "yes"'), (1, "integer 1"), (0, "integer 0")):
        problem = Problem("enable_safety_checker", f"got {shown}; needs a boolean.")
        assert refused(model_id, enable_safety_checker=value) == (problem,)


@pytest.mark.parametrize("model_id", [name for name, takes in TAKES.items() if takes.action is REMIX])
def test_source_images_are_a_list_of_as_many_strings_as_the_model_takes(model_id: str) -> None:
    takes = TAKES[model_id]
    low, high = takes.sources
    too_many = 1 + max(one.sources[1] for one in TAKES.values())
    span = f"exactly {low}" if low == high else f"{low} to {high}"
    hint = others(model_id, lambda one: one.sources[1] > high)
    cases: list[tuple[object, str]] = [
        ([URL] * (high + 1), f"got {high + 1} items; {takes.variant} allows {span}.{hint}"),
        ([URL] * too_many, f"got {too_many} items; {takes.variant} allows {span}."),
        (URL, f'got string "{URL}"; needs an array.'),
        ({"url": URL}, f'got object {{"url": "{URL}"}}; needs an array.'),
        (3, "got integer 3; needs an array."),
        ([URL, None], "holds null; needs strings."),
        ([5], "holds integer 5; needs strings."),
        ([[URL]], f'holds array ["{URL}"]; needs strings.'),
    ]
    for value, text in cases:
        assert refused(model_id, source_image_urls=value) == (Problem("source_images", text),)


@rows(("value", "shown"), [("", 'string ""'), (0, "integer 0"), (False, "boolean false"), ({}, "object {}")])
def test_source_images_of_the_wrong_kind_are_not_dropped_for_being_empty(value: object, shown: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        catalog.request(prompt="a cat", source_image_urls=value)
    assert caught.value.problems == (Problem("source_images", f"got {shown}; needs an array."),)


def test_a_callback_that_is_no_text_is_refused() -> None:
    problem = Problem("callback_url", "got boolean true; needs a string.")
    assert {refused(model_id, callback_url=True) for model_id in TAKES} == {(problem,)}


def test_a_field_that_nobody_has_is_refused_by_name() -> None:
    unknown = ["seed", "width", "guidance_scale", "negative_prompt", "output_format", "n"]
    for model, name in itertools.product(catalog.models().values(), unknown):
        given = {k: v for k, v in least(model.id).items() if k != "variant"} | {name: 7}
        assert catalog.problems(model, given) == [Problem(name, f"{model.variant} has no such field; leave it out.")]


@rows("model_id", TAKES)
def test_output_count_is_only_one_and_where_there_is_no_safety_checker(model_id: str) -> None:
    model = catalog.models()[model_id]
    given = {k: v for k, v in least(model_id).items() if k != "variant"}
    texts = {value: catalog.problems(model, given | {"output_count": value}) for value in (1, 2)}
    hint = others(model_id, lambda one: not one.safety)
    nobody = Problem("output_count", f"{model.variant} has no such field; leave it out.")
    if not TAKES[model_id].safety:
        assert texts == {1: [], 2: [Problem("output_count", "got 2; allowed: 1.")]}
    else:
        assert texts == {1: [Problem("output_count", f"{nobody.text}{hint}")], 2: [nobody]}


def test_everything_that_is_wrong_is_said_at_once_one_line_a_field() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        catalog.request(
            prompt="no",
            variant="max",
            source_image_urls=[URL, URL],
            aspect_ratio="auto",
            output_resolution="2k",
            enable_safety_checker=False,
            callback_url=1,
        )
    several, auto, large, checked = (
        others("flux-2-max-remix-image", fits)
        for fits in (
            lambda one: one.sources[1] > 1,
            lambda one: "auto" in one.ratios,
            lambda one: "2k" in one.resolutions,
            lambda one: one.safety,
        )
    )
    assert caught.value.message == (
        "prompt: got 2 characters; max allows 3 to 5000.\n"
        f"source_images: got 2 items; max allows exactly 1.{several}\n"
        f'aspect_ratio: got "auto"; allowed: 1:1, 4:3, 3:4, 16:9, 9:16, 3:2, 2:3.{auto}\n'
        f'output_resolution: got "2k"; allowed: 1k.{large}\n'
        "callback_url: got integer 1; needs a string.\n"
        f"enable_safety_checker: max has no such field; leave it out.{checked}"
    )


def test_what_was_found_wrong_elsewhere_is_told_with_the_rest() -> None:
    elsewhere = Problem("callback_url", "is not an https URL that RunAPI could reach.")
    with pytest.raises(InvalidRequestError) as caught:
        catalog.request(prompt="no", also=[elsewhere])
    assert caught.value.problems == (Problem("prompt", "got 2 characters; pro allows 3 to 5000."), elsewhere)
    with pytest.raises(InvalidRequestError) as caught:
        catalog.request(prompt="a cat", also=[elsewhere])
    assert caught.value.problems == (elsewhere,)


def test_a_callers_long_value_is_shown_only_in_part() -> None:
    (problem,) = refused("flux-2-pro-text-to-image", aspect_ratio="9" * 10_000)
    assert problem.text == f'got "{"9" * 62}…; allowed: {", ".join(RATIOS)}.'


@rows("value", [[None, 10**30], float("nan"), float("inf"), {"a": {"b": [None]}}, object()])
def test_a_value_that_is_hard_to_show_is_still_refused_in_words(value: object) -> None:
    (problem,) = refused("flux-2-pro-text-to-image", output_resolution=value)
    assert problem.field == "output_resolution"
    assert problem.text.endswith("; needs a string; allowed: 1k, 2k.")


# --- any arguments at all ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Good values most of the time, so that one bad field stands among good ones."""
    return st.one_of(good, good, good, good, good, good, st.none(), JSON)


ARGUMENTS = st.fixed_dictionaries(
    {
        "prompt": mostly(st.sampled_from(["a cat", "abc", "x" * 5000, "ab", "x" * 5001, "     ", "né"])),
        "variant": st.sampled_from([None, *VARIANTS, *TAKES]),
        "source_image_urls": mostly(st.none() | st.lists(st.just(URL), max_size=9)),
        "aspect_ratio": mostly(st.sampled_from([*RATIOS, "auto", "5:4"])),
        "output_resolution": mostly(st.sampled_from(["1k", "2k", "4k"])),
        "enable_safety_checker": mostly(st.booleans() | st.none()),
        "callback_url": mostly(st.none() | st.just("https://example.com/hook")),
    }
)


def acceptable(given: Mapping[str, Any]) -> bool:
    """The contract once more, from the table above and in other words."""
    sources = None if given["source_image_urls"] == [] else given["source_image_urls"]
    action = REMIX if sources is not None else TEXT
    named = given["variant"] or "pro"
    takes = TAKES.get(named) or next(t for t in TAKES.values() if (t.variant, t.action) == (named, action))
    prompt, ratio, flag = given["prompt"], given["aspect_ratio"], given["enable_safety_checker"]
    return all(
        (
            takes.action is action,
            isinstance(prompt, str) and 3 <= len(prompt) <= 5000 and prompt.strip() != "",
            isinstance(prompt, str) and prompt.encode(errors="replace").decode() == prompt,
            sources is None or (isinstance(sources, list) and all(isinstance(url, str) for url in sources)),
            not isinstance(sources, list) or takes.sources[0] <= len(sources) <= takes.sources[1],
            (ratio is None and not takes.ratio_required) or (isinstance(ratio, str) and ratio in takes.ratios),
            given["output_resolution"] in [None, *takes.resolutions],
            flag is None or (isinstance(flag, bool) and takes.safety),
            given["callback_url"] is None or isinstance(given["callback_url"], str),
        )
    )


@settings(max_examples=4 * settings().max_examples)
@given(ARGUMENTS)
def test_any_arguments_make_a_request_exactly_where_the_contract_allows_it(given: dict[str, Any]) -> None:
    if not acceptable(given):
        with pytest.raises(InvalidRequestError) as caught:
            catalog.request(**given)
        fields = {problem.field for problem in caught.value.problems}
        assert fields
        assert fields <= {*given, "source_images"} - {"source_image_urls"}
        return
    request = catalog.request(**given)
    takes = TAKES[request.model]
    assert (request.action, request.variant) == (takes.action, takes.variant)
    sent = {name: value for name, value in given.items() if name != "variant" and value not in (None, [])}
    assert wire.body(request) == {"model": request.model, **sent}


@given(st.text(min_size=1, max_size=40).filter(lambda name: name not in {*VARIANTS, *TAKES}))
def test_any_other_variant_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        catalog.find(name, TEXT)
    assert [problem.field for problem in caught.value.problems] == ["variant"]
