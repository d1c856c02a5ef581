"""`flux2-mcp adopt`: takes a picture that is there into flux2.toml."""

from __future__ import annotations

import click

from flux2_mcp.cli import output, project
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.domain.manifest.entries import MANIFEST
from flux2_mcp.engine.adopt import Adopted
from flux2_mcp.engine.service import Service

EPILOG = """
\b
Examples:
  flux2-mcp adopt public/hero.png
"""


@click.command(epilog=EPILOG)
@click.argument("file")
@click.pass_obj
def adopt(invocation: Invocation, /, *, file: str) -> None:
    """Write the entry of a picture that was made before into flux2.toml; or accept one that was edited by hand. Free."""
    settings = invocation()
    found = project.find(invocation, live=settings.mode == "live")
    [path] = project.named(invocation, found, (file,))

    async def work() -> Adopted:
        async with Service.opened(settings, keep=False) as service:
            return await service.manifests.adopt(found, path)

    done = output.run(work, stopped="Stopped. Nothing was written.")
    if done.added:
        output.echo(f"Added to {MANIFEST}:\n\n{done.added}")
    else:
        output.echo(f"{path} is accepted as it is: flux2.lock has its content now.")
