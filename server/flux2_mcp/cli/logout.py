"""`flux2-mcp logout`: removes the key from RunAPI's config file, and nothing else."""

from __future__ import annotations

import click

from flux2_mcp.cli import output
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.runapi import key_file
from flux2_mcp.runapi.key_file import config_file
from flux2_mcp.system.environment import said_key

EPILOG = """
\b
Examples:
  flux2-mcp logout
"""


@click.command(epilog=EPILOG)
@click.pass_obj
def logout(invocation: Invocation) -> None:
    """Remove the key from RunAPI's config file.

    The key itself stays valid: who may have seen it should revoke it at RunAPI.
    """
    path = config_file(invocation.env)
    removed = path is not None and key_file.forget(path)
    output.echo(f"The key is removed from {path}." if removed else f"There is no key in {path or 'any config file'}.")
    for name in ("RUNAPI_API_KEY", "RUNAPI_KEY"):
        if said_key(invocation.env.get(name)):
            output.echo(f"{name} is still set, and its key is used.", err=True)
