"""`flux2-mcp remix`: `generate` with the source images as arguments, so that a shell can complete them."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import click
from msgspec.structs import replace

from flux2_mcp.cli.generate import SENT, generate
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.domain import sources
from flux2_mcp.errors import InvalidRequestError

EPILOG = f"""
\b
Examples:
  flux2-mcp remix "Make it night" lighthouse.png
  flux2-mcp remix "All of them on one table" "cups/*.jpg" --aspect-ratio auto
  flux2-mcp remix "The same in winter" task:ID --count 4 --json

Each FILE is a path, a pattern, an https URL, or task:ID of an earlier result; local ones below the working directory.
{SENT}
"""


@click.command(epilog=EPILOG)
@click.argument("prompt", metavar='"PROMPT"')
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path())
@click.pass_context
def remix(context: click.Context, /, *, prompt: str, files: tuple[str, ...], **options: object) -> int:
    """Make images from source images and a PROMPT that says what to change. Prints the file of each first."""
    invocation: Invocation = context.obj
    workspace = Path(invocation().workspace or ".")
    try:
        code: int = context.invoke(generate, prompt=prompt, source_images=_expanded(files, workspace), **options)
    except InvalidRequestError as exc:
        named = [replace(each, field="FILE") if each.field == "source_images" else each for each in exc.problems]
        raise InvalidRequestError(*named) from exc
    return code


# All parameters of `generate`, except the prompt and the sources.
remix.params += [option for option in generate.params if option.name not in {"prompt", "source_images"}]


def _expanded(files: Sequence[str], workspace: Path) -> tuple[str, ...]:
    """Return the sources, with each pattern replaced by its matching files, by name: not every shell does this.

    A name of an existing file is no pattern. A pattern without a match stays, and is reported like a missing file, by its
    name.
    """
    found: list[str] = []
    for text in files:
        fitting = []
        if glob.has_magic(text) and sources.is_local(text) and not (workspace / text).exists():
            names = glob.glob(text, root_dir=workspace, recursive=True)  # noqa: PTH207  # Path's refuses absolute ones
            fitting = sorted(name for name in names if (workspace / name).is_file())
        found += fitting or [text]
    return tuple(found)
