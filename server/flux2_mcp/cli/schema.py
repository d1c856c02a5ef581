"""`flux2-mcp schema`: the JSON Schema of flux2.toml."""

from __future__ import annotations

import json

import click

from flux2_mcp.cli import output
from flux2_mcp.domain.manifest import schema as schemas

EPILOG = f"""
\b
Examples:
  flux2-mcp schema > {schemas.FILE}

With this line at the top of flux2.toml, editors with Taplo (Even Better TOML) complete and check it:
  {schemas.COMMENT}
"""


@click.command(epilog=EPILOG)
def schema() -> None:
    """Print the JSON Schema of flux2.toml, for editors. Asks nobody and costs nothing."""
    output.echo(json.dumps(schemas.schema(), indent=2, ensure_ascii=False))
