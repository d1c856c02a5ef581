"""The output for people. Results go to standard output; progress, advice and errors go to standard error.

Every text passes `echo`, which lets no character steer the terminal but those of `style` and `steering`: prompts, names and
answers are written by others. The linter refuses `click.echo` and `click.style` elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import click

from flux2_mcp.domain import budget, times
from flux2_mcp.errors import InvalidRequestError, reworded, shortened
from flux2_mcp.system.terminal import STEERING, plain

if TYPE_CHECKING:  # results take 0.1 s to load, and not every command has one
    from _typeshed import DataclassInstance
    from pydantic import BaseModel

    from flux2_mcp.server.results.tasks import Result

T = TypeVar("T")
R = TypeVar("R", bound="Result")

PROGRAM = "flux2-mcp"
CLEARED = "\r\033[K"
"""Goes to the beginning of the line, and clears it."""
WIDTH_COLUMNS = 100
"""The maximum width of help texts and lists, columns."""
MAX_USD = 10_000
INTERRUPTED = 128 + signal.SIGINT
"""The exit code after Ctrl-C, as in shells."""

NAMES: Final[Mapping[str, str]] = {
    "source_images": "--source",
    "background": "--background",
    "upscale": "--upscale",
    "variant": "--variant",
    "save_to": "--save-to",
    "before": "--before",
    "file": "--file",
    "overwrite: true": "--overwrite",
    "aspect_ratio": "--aspect-ratio",
    "output_resolution": "--output-resolution",
    "enable_safety_checker": "--safety-checker",
    "max_cost_usd": "--max-cost",
    "callback_url": "--callback-url",
    "idempotency_key": "--idempotency-key",
    "wait_seconds": "--wait",
    "check_pricing": f"{PROGRAM} pricing",
    "list_variants": f"{PROGRAM} variants",
    "start the server again": "run this again",
    "call again": "run this again",
}
"""The command line's names for the tools' names: see `errors.Wording`."""

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, as the tool gives it.")

_OWN: Final = os.urandom(8).hex()
"""Stands before the number of each steering character of our own until `echo`. Nobody else knows it."""


def steering(text: str) -> str:
    """Return a text whose steering characters `echo` lets pass. It must be our own."""
    return STEERING.sub(lambda found: f"{_OWN}{ord(found[0]):02x}", text)


def style(text: str, *, fg: str | None = None, bold: bool | None = None) -> str:
    """Return a text with a colour or in bold, for `echo`."""
    return steering(click.style(plain(text), fg=fg, bold=bold))


def echo(text: str = "", *, err: bool = False, nl: bool = True, color: bool | None = None) -> None:
    """Print a text. In what others wrote, U+FFFD stands in the place of each character that would steer the terminal."""
    ours = re.sub(f"{_OWN}(..)", lambda found: chr(int(found[1], 16)), plain(text))
    click.echo(ours, err=err, nl=nl, color=color)


def tell(result: R, words: Callable[[R], str], *, as_json: bool) -> None:
    """Print a result in words, or as JSON."""
    if as_json:
        as_data(result)
    else:
        echo(words(result))


def as_data(result: BaseModel) -> None:
    """Print a result as JSON, which is always UTF-8, in any encoding of the terminal. Its texts are as they are."""
    click.echo(f"{result.model_dump_json(indent=2)}\n".encode(), nl=False)


def complain(message: str, cost: str, next_step: str, *, color: bool | None) -> None:
    """Print an error: what happened, what it cost, what to do next.

    Args:
        message: One line or several.
        cost: A sentence; empty if a cost is not possible.
        next_step: A sentence.
        color: False: no colour; None: colour on a terminal.
    """
    label = style("Error:", fg="red", bold=True)
    text = own_words(message).replace("\n", "\n       ")
    lines = [f"{label} {text}", cost, f"{style('Next:', bold=True)} {own_words(next_step)}"]
    echo("\n".join(filter(None, lines)), err=True, color=color)


def own_words(text: str) -> str:
    """Return a text with the command line's names. A text that is no `Wording` or `Name` is not changed."""
    return reworded(text, NAMES)


def as_values(result: DataclassInstance) -> None:
    """Print a result that is a plain dataclass as JSON; see `as_data`. What is not known is null."""
    click.echo(f"{json.dumps(asdict(result), indent=2, ensure_ascii=False)}\n".encode(errors="replace"), nl=False)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows one line on standard error and replaces the line before. Only on a terminal.

    The line is removed at the end.
    """
    plain = click.get_current_context().color is False
    terminal = not plain and sys.stderr is not None and sys.stderr.isatty()

    def show(text: str) -> None:
        if terminal:
            echo(f"{steering(CLEARED)}{text}", err=True, nl=False, color=True)

    try:
        yield show
    finally:
        show("")


def run(work: Callable[[], Awaitable[T]], *, stopped: str) -> T:
    """Run `work` in a new event loop and return its result.

    Args:
        work: A function without arguments.
        stopped: The message at Ctrl-C, which ends the command. A second Ctrl-C may arrive inside a task group, which
            wraps it in an exception group.
    """
    try:
        return anyio.run(work)
    except (KeyboardInterrupt, BaseExceptionGroup) as exc:
        if isinstance(exc, BaseExceptionGroup) and exc.subgroup(KeyboardInterrupt) is None:
            raise
        echo(stopped, err=True)
        raise click.exceptions.Exit(INTERRUPTED) from exc


def columns(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Format rows of cells as aligned lines; the columns with the numbers in `right` are aligned to the right."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    aligned = [
        [
            cell.rjust(width) if n in right else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    return ["  ".join(row).rstrip() for row in aligned]


def moment(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
    """Parse a point in time from an option, such as 24h or 2026-11-20."""
    if text is None:
        return None
    try:
        return times.since(text, datetime.now(UTC))
    except InvalidRequestError as exc:
        raise click.BadParameter(f"{shortened(text)!r} {exc.problems[0].text}") from exc


def amount(_: click.Context, __: click.Parameter, text: str | None) -> Decimal | None:
    """Parse an amount in USD from an option, such as 0.50."""
    if text is None:
        return None
    try:
        value = Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or not 0 <= value <= MAX_USD:
        # An unreadable cap must not count as no cap.
        raise click.BadParameter(f"{shortened(text)!r} is not an amount in USD, such as 0.50, up to {MAX_USD:,}.")
    return value


def usd(amount: float | None) -> str:
    """Format an amount in USD."""
    return "unknown" if amount is None else budget.dollars(Decimal(str(amount)))
