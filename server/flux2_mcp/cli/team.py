"""`flux2-mcp team`: for whoever runs a server for a team."""

from __future__ import annotations

import click

from flux2_mcp.cli.team_people import caps, people

EPILOG = """
\b
Examples:
  flux2-mcp team people
  flux2-mcp team caps 3f9a01c2 --daily 5 --monthly 60
  flux2-mcp team caps 3f9a01c2 --daily default
"""


@click.group(epilog=EPILOG)
def team() -> None:
    """Look after a team's server: its people, and what each may spend.

    It works on the server's journal, and whoever can read that may do all of it.
    """


team.add_command(people)
team.add_command(caps)
