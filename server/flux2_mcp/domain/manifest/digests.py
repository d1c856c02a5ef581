"""What identifies a request: the same on every machine, in every order of keys. Sources and the style count by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping

from flux2_mcp.domain import catalog
from flux2_mcp.domain.manifest.entries import Entry, Manifest
from flux2_mcp.domain.models import Action
from flux2_mcp.errors import InvalidRequestError

PARTS = ("prompt", "style", "sources", "settings")
"""What a change of a request is told by."""
PART_DIGITS = 12
"""Hex digits of a part's digest: enough to tell whether it changed."""


def parts(made: Manifest, entry: Entry, contents: Mapping[str, str]) -> Mapping[str, str]:
    """Return the SHA-256 of each part of an entry's request.

    Args:
        made: The manifest.
        entry: One of its entries.
        contents: What identifies the content of each source, by the source.
    """
    return {name: part(name, made, entry, contents) for name in PARTS}


def part(name: str, made: Manifest, entry: Entry, contents: Mapping[str, str]) -> str:
    """Return the SHA-256 of one part of an entry's request; see `parts`.

    Raises:
        KeyError: The part has a source whose content is not known.
    """
    style = made.styled(entry)
    values: Mapping[str, Callable[[], object]] = {
        "prompt": lambda: entry.prompt,
        "style": lambda: None if style is None else [style.prompt, [contents[source] for source in style.sources]],
        "sources": lambda: [contents[source] for source in entry.sources],
        "settings": lambda: settings(entry),
    }
    return _sha256(values[name]())


def request(found: Mapping[str, str]) -> str:
    """Return the digest of a request from those of its parts."""
    return _sha256([1, *(found[name] for name in PARTS)])


def settings(entry: Entry) -> Mapping[str, object]:
    """Return the settings of a request without those that say what would be without them, and a variant by its name."""
    usual = {
        "variant": catalog.DEFAULT_VARIANT,
        "output_resolution": catalog.DEFAULT_RESOLUTION,
        "aspect_ratio": catalog.AUTO if entry.sources else catalog.DEFAULT_ASPECT_RATIO,
    }
    given: dict[str, object] = dict(entry.settings)
    if (variant := entry.settings.get("variant")) is not None:
        given["variant"] = _variant(str(variant), remix=bool(entry.sources))
    return {name: value for name, value in given.items() if usual.get(name) != value}


def derivation(made: Manifest, entry: Entry) -> str:
    """Return the digest of what is made from an entry's picture on this machine."""
    prompt = made.prompt(entry) if made.style.embed_prompt else None
    values = [1, sorted(entry.widths), sorted(entry.formats), entry.icons, prompt]
    return _sha256(values)[:PART_DIGITS]


def _variant(name: str, *, remix: bool) -> str:
    try:
        return catalog.find(name, Action.REMIX_IMAGE if remix else Action.TEXT_TO_IMAGE).variant
    except InvalidRequestError:  # of a picture that is only finished, or with the style's sources alone
        known = catalog.all_models().get(name)
        return name if known is None else known.variant


def _sha256(value: object) -> str:
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()
    ).hexdigest()
