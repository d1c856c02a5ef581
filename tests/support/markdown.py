"""Markdown's tables, read back."""

from __future__ import annotations


def table(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose first heading is `first`, without its head."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def plain(cell: str) -> str:
    """A cell without its backticks."""
    return cell.replace("`", "")
