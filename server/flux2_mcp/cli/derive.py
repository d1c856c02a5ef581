"""`flux2-mcp derive`: the sizes, formats and icons of a project's pictures again, on this machine and for nothing."""

from __future__ import annotations

import click

from flux2_mcp.cli import output, project
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.cli.project import SOMETHING_TO_DO
from flux2_mcp.domain.manifest.plan import MAKES, Standing

EPILOG = """
\b
Examples:
  flux2-mcp derive
  flux2-mcp derive public/hero.png

Exit codes: 0 all is there, 8 a picture is not made yet or was edited by hand.
"""


@click.command(epilog=EPILOG)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--overwrite", is_flag=True, help="Replace files that were edited by hand.")
@click.pass_obj
def derive(invocation: Invocation, /, *, paths: tuple[str, ...], overwrite: bool) -> int:
    """Make the widths, formats and icons of flux2.toml again, from the pictures that are there. Free, and no network.

    The same picture gives the same bytes, as long as Pillow is the same.
    """
    found = project.find(invocation)
    plan = found.plan()
    chosen = project.named(invocation, found, paths)
    known = {image.path: image for image in plan.images}
    project.refuse_unknown(chosen, known, plan.manifest.name)
    left = 0
    for image in plan.images:
        entry = plan.manifest.entries.get(image.path)
        if entry is None or not entry.derives or (chosen and image.path not in chosen):
            continue
        if image.locked is None or image.standing in MAKES | {Standing.MISSING} or image.edited:
            left += 1
            output.echo(f"{image.path}: {image.standing}, so nothing was made from it", err=True)
            continue
        made = found.derive(plan.manifest, entry, image.locked, overwrite=overwrite)
        if made is not None:
            found.note(made)
            kept = set() if overwrite else set(image.edited_files)
            for path in made.files:
                output.echo(f"{path}{'  (edited by hand: left as it is)' if path in kept else ''}")
            left += bool(kept)
    return SOMETHING_TO_DO if left else 0
