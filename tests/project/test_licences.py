"""Whose work is installed with ours, and on which terms."""

from __future__ import annotations

import re

from packages.licences import ALLOWED, FILE, installed, text


def test_the_page_has_what_is_installed() -> None:
    # Another Python or system needs fewer packages than the page has.
    assert set(text().splitlines()) <= set(FILE.read_text("utf-8").splitlines()), "make licences"
    assert {"httpx2", "mcp", "pydantic", "pydantic-core", "opentelemetry-sdk"} <= set(installed())
    assert not {"pytest", "ruff", "hypothesis"} & set(installed())


def test_each_licence_lets_us_use_it() -> None:
    strange = {
        name: licence
        for name, licence in installed().items()
        if not set(re.split(r" (?:OR|AND) ", licence.replace("(", "").replace(")", ""))) <= ALLOWED
    }
    assert strange == {}
