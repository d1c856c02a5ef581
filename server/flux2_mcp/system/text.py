"""How texts are compared with what a person searches."""

from __future__ import annotations


def folded(text: str) -> str:
    """Return a text in a form that is equal in upper and lower case and for any white space, as lists show a prompt in one line."""
    return " ".join(text.split()).casefold()
