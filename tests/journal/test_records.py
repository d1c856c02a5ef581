"""What the journal holds of a request: its text, and its digest."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from flux2_mcp.domain import catalog
from flux2_mcp.domain.models import Action, ImageRequest, SourceImage
from flux2_mcp.journal.records import digest, dump, load
from tests.support.journals import CAT, FULL

REMIX = catalog.request(prompt="at night", source_image_urls=["https://runapi.ai/files/1"])


@pytest.mark.parametrize(
    "request_", [CAT, FULL, ImageRequest(action=Action.REMIX_IMAGE, variant="x", model="y", prompt="")]
)
def test_a_request_comes_back_from_its_text_as_it_was(request_: ImageRequest) -> None:
    assert load(dump(request_)) == request_


def test_equal_requests_have_one_digest_and_any_difference_another() -> None:
    changes: list[dict[str, Any]] = [
        {"prompt": "ein Hund"},
        {"variant": "pro"},
        {"model": "flux-2-pro-remix-image"},
        {"source_image_urls": FULL.source_image_urls[::-1]},
        {"aspect_ratio": None},
        {"output_resolution": "1k"},
        {"enable_safety_checker": None},
        {"callback_url": None},
    ]
    found = {digest(replace(FULL, **change)) for change in changes}
    assert len(found | {digest(FULL)}) == len(changes) + 1
    assert digest(replace(FULL)) == digest(FULL)


def test_a_request_with_sources_is_written_down_whole_and_one_from_before_there_were_any_is_read() -> None:
    sources = (SourceImage(given="a.png", identity="sha256:1", uploaded_bytes=5, width=3, height=4),)
    request = replace(REMIX, sources=sources)
    assert load(dump(request)) == request
    before = dump(REMIX).replace(',"sources":[]', "")
    assert "sources" not in before
    assert load(before) == REMIX


def test_the_same_picture_is_the_same_request_under_whatever_address_it_is_sent() -> None:
    one = SourceImage(given="a.png", identity="sha256:1")
    first = replace(REMIX, sources=(one,))
    again = replace(REMIX, source_image_urls=("https://runapi.ai/files/2",), sources=(replace(one, given="b.png"),))
    other = replace(REMIX, sources=(replace(one, identity="sha256:2"),))
    assert digest(first) == digest(replace(again, sources=first.sources)) != digest(other)
    assert digest(REMIX) != digest(replace(REMIX, source_image_urls=("https://runapi.ai/files/2",)))
