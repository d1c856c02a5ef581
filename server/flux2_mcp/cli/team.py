"""`flux2-mcp team`: for whoever runs a server for a team."""

from __future__ import annotations

import click

from flux2_mcp.cli.team_audit import audit
from flux2_mcp.cli.team_people import caps, people
from flux2_mcp.cli.team_token import token

EPILOG = """
\b
Examples:
  flux2-mcp team people
  flux2-mcp team caps 3f9a01c2 --daily 5 --monthly 60
  flux2-mcp team caps 3f9a01c2 --daily default
  flux2-mcp team token create nightly-build --days 90 --daily 2
  flux2-mcp team audit --since 7d --refused
"""


@click.group(epilog=EPILOG)
def team() -> None:
    """Look after a team's server: its people, what each may spend, who did what, and tokens for programs.

    It works on the server's journal, and whoever can read that may do all of it.
    """


team.add_command(people)
team.add_command(caps)
team.add_command(token)
team.add_command(audit)
