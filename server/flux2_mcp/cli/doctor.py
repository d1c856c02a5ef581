"""`flux2-mcp doctor`: checks whether everything works, and names the command that repairs each failure."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import click

from flux2_mcp.cli import installation, output
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.errors import HostFileError, SettingsError
from flux2_mcp.hosts.table import Host, host

if TYPE_CHECKING:  # the service is loaded when it is checked, not for --help
    from flux2_mcp.cli.doctor_checks import Check, DoctorReport
    from flux2_mcp.settings import Settings

EPILOG = """
\b
Examples:
  flux2-mcp doctor          all that is on this machine
  flux2-mcp doctor codex    only this host, whose entry must be there
  flux2-mcp doctor --json
  flux2-mcp doctor --salvage

Exit code 1 where something fails. Shows no more of a key than its last four characters.
"""
COLORS = {"ok": "green", "note": "yellow", "fail": "red"}
FAILED = 1


@click.command(epilog=EPILOG)
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option(
    "--salvage", is_flag=True,
    help="First put a new journal in the place of a broken one, with all of it that can be read. The broken one is kept.",
)  # fmt: skip
@output.as_json_option
@click.pass_obj
def doctor(invocation: Invocation, *, hosts: tuple[str, ...], salvage: bool, as_json: bool) -> int:
    """Look at this installation, RunAPI, the journal and the hosts' entries. Costs nothing."""
    from flux2_mcp.cli.doctor_checks import DoctorReport

    rows = [host(name) for name in hosts]

    async def work() -> DoctorReport:
        if salvage:
            await _salvage(invocation())
        with output.progress() as show:
            checks = [check async for check in _checks(invocation, rows, show)]
        return DoctorReport(ok=all(check.status != "fail" for check in checks), checks=checks)

    report = output.run(work, stopped="Stopped.")
    click.echo(report.model_dump_json(indent=2) if as_json else _words(report))
    return 0 if report.ok else FAILED


async def _salvage(settings: Settings) -> None:
    from flux2_mcp.engine.account import Account

    async with Account.opened(settings) as accounts:
        await accounts.salvage()
        if accounts.notice is not None:
            click.echo(accounts.notice, err=True)


async def _checks(invocation: Invocation, rows: list[Host], show: Callable[[str], None]) -> AsyncIterator[Check]:
    from flux2_mcp.cli import doctor_checks, doctor_hosts

    for check in doctor_checks.installation(invocation):
        yield check
    if not isinstance(invocation.read, SettingsError):
        show("asking RunAPI")
        async for check in doctor_checks.service(invocation, invocation.read):
            yield check
        for check in doctor_checks.storage(invocation.read):
            yield check
    machine = installation.machine(invocation)
    try:
        command = installation.server(invocation)
    except HostFileError as exc:
        yield doctor_checks.fail("hosts", exc.message, "uv tool install . && flux2-mcp install")
        return
    try:
        for row in rows or machine.detected():
            show(f"starting what {row.title} would start")
            async for check in doctor_hosts.host(row, machine, command, wanted=bool(rows)):
                yield check
    except HostFileError as exc:  # without a home folder there are no hosts; the checks before this one are still shown
        yield doctor_checks.fail("hosts", exc.message, "unset HOME; export HOME=~")


def _words(report: DoctorReport) -> str:
    width = max(len(check.check) for check in report.checks)
    lines = []
    for check in report.checks:
        mark = click.style(f"{check.status:<4}", fg=COLORS[check.status], bold=check.status == "fail")
        lines.append(f"{mark}  {check.check:<{width}}  {check.detail}")
        if check.mend is not None:
            lines.append(f"      {'':<{width}}  {click.style('run:', bold=True)} {check.mend}")
    failed = sum(check.status == "fail" for check in report.checks)
    lines.append("All is well." if report.ok else f"{failed} to mend.")
    return "\n".join(lines)
