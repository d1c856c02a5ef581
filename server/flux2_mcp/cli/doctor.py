"""`flux2-mcp doctor`: checks whether everything works, and names the command that repairs each failure."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

import anyio
import click

from flux2_mcp.cli import installation, output
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.errors import HostFileError, SettingsError
from flux2_mcp.hosts.table import Host, host

if TYPE_CHECKING:  # the service is loaded when it is checked, not for --help
    from anyio.streams.memory import MemoryObjectSendStream

    from flux2_mcp.cli.doctor_checks import Check
    from flux2_mcp.settings import Settings

EPILOG = """
\b
Examples:
  flux2-mcp doctor          all that is on this machine, and in the folder you are in
  flux2-mcp doctor codex    only this host, whose entry must be there
  flux2-mcp doctor --json
  flux2-mcp doctor --salvage

Exit code 1 where something fails. Shows no more of a key than its last four characters.
"""
COLORS = {"ok": "green", "note": "yellow", "fail": "red"}
FAILED = 1
NAME_COLUMNS = 14
"""As long as the longest names of checks, so that a row needs not wait for the others."""


@click.command(epilog=EPILOG)
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option(
    "--salvage", is_flag=True,
    help="First put a new journal in the place of a broken one, with all of it that can be read. The broken one is kept.",
)  # fmt: skip
@click.option(
    "--timeout", "max_seconds", type=click.FloatRange(1, 300), metavar="SECONDS",
    help="How long to wait for an entry's server to start. Default 5; a busy machine needs more.",
)  # fmt: skip
@output.as_json_option
@click.pass_obj
def doctor(
    invocation: Invocation, *, hosts: tuple[str, ...], salvage: bool, max_seconds: float | None, as_json: bool
) -> int:
    """Look at this installation, RunAPI, the journal and the hosts' entries. Costs nothing."""
    from flux2_mcp.cli.doctor_checks import DoctorReport

    rows = [host(name) for name in hosts]
    checks: list[Check] = []

    async def work() -> None:
        if salvage:
            await _salvage(invocation())
        with output.progress() as show:

            def tell(check: Check) -> None:
                checks.append(check)
                if not as_json:
                    show("")
                    output.echo("\n".join(_words(check)))

            await _look(invocation, rows, tell, show, max_seconds)

    output.run(work, stopped="Stopped.")
    failed = sum(check.status == "fail" for check in checks)
    if as_json:
        output.as_data(DoctorReport(ok=not failed, checks=checks))
    else:
        output.echo(f"{failed} to mend." if failed else "All is well.")
    return FAILED if failed else 0


async def _salvage(settings: Settings) -> None:
    from flux2_mcp.engine.account import Account

    async with Account.opened(settings) as accounts:
        await accounts.salvage()
        if accounts.notice is not None:
            output.echo(accounts.notice, err=True)


async def _look(
    invocation: Invocation,
    rows: list[Host],
    tell: Callable[[Check], None],
    show: Callable[[str], None],
    max_seconds: float | None,
) -> None:
    """Make all checks and tell each as soon as it is known. What hosts would start is started meanwhile, side by side."""
    from flux2_mcp.cli.doctor_checks import Check

    send, receive = anyio.create_memory_object_stream[Check](math.inf)
    async with anyio.create_task_group() as group, receive:
        group.start_soon(_hosts, invocation, rows, send, max_seconds)
        async for check in _own(invocation, show):
            tell(check)
        show("waiting for what the hosts' entries start")
        async for check in receive:
            tell(check)
            show("waiting for what the hosts' entries start")


async def _own(invocation: Invocation, show: Callable[[str], None]) -> AsyncIterator[Check]:
    """Make the checks of everything but the hosts."""
    from flux2_mcp.cli import doctor_checks

    for check in doctor_checks.installation(invocation):
        yield check
    if not isinstance(invocation.read, SettingsError):
        show("asking RunAPI")
        async for check in doctor_checks.service(invocation, invocation.read):
            yield check
        for check in doctor_checks.storage(invocation.read):
            yield check


async def _hosts(
    invocation: Invocation, rows: list[Host], send: MemoryObjectSendStream[Check], max_seconds: float | None
) -> None:
    """Send the checks of the hosts, in the order in which they end."""
    from flux2_mcp.cli import doctor_checks, doctor_hosts

    machine = installation.machine(invocation)
    mend = "uv tool install . && flux2-mcp install"
    async with send:
        try:
            command = installation.server(invocation)
            mend = "unset HOME; export HOME=~"  # without a home folder there are no hosts
            looked_at = rows or doctor_hosts.rows(machine)
            most = max_seconds or doctor_hosts.MAX_START_SECONDS
            await doctor_hosts.look(looked_at, machine, command, send.send, wanted=bool(rows), max_seconds=most)
        except HostFileError as exc:
            await send.send(doctor_checks.fail("hosts", exc.message, mend))


def _words(check: Check) -> Iterator[str]:
    mark = output.style(f"{check.status:<4}", fg=COLORS[check.status], bold=check.status == "fail")
    yield f"{mark}  {check.check:<{NAME_COLUMNS}}  {check.detail}"
    if check.mend is not None:
        yield f"      {'':<{NAME_COLUMNS}}  {output.style('run:', bold=True)} {check.mend}"
