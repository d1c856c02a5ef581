"""`flux2-mcp install`: adds the server's entry to the configuration of agent hosts, or removes it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from difflib import unified_diff
from functools import partial

import click

from flux2_mcp.cli import installation, output
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.errors import Flux2Error, HostFileError, SettingsError
from flux2_mcp.hosts import entry, files
from flux2_mcp.hosts import plan as host_plan
from flux2_mcp.hosts.editors.jsonc import BOM, Json, Object, masked
from flux2_mcp.hosts.files import File
from flux2_mcp.hosts.links import LINKS
from flux2_mcp.hosts.plan import NAME, HostPlan, Machine
from flux2_mcp.hosts.switches import elsewhere
from flux2_mcp.hosts.table import SCOPES, TABLE, Host, Scope, host

EPILOG = f"""
\b
Hosts: {", ".join(row.name for row in TABLE[:7])},
       {", ".join(row.name for row in TABLE[7:])}

\b
Examples:
  flux2-mcp install                          lists what is on this machine, and asks
  flux2-mcp install claude-code codex        only these
  flux2-mcp install --detect --dry-run       what would change, in all that are found
  flux2-mcp install cursor --scope project   for the folder you are in
  flux2-mcp install cursor --uninstall       takes it out again

No key is ever written. A file that does not parse is left alone; what was there before stays beside it as *{files.BACKUP_SUFFIX}.
"""
DEFAULT_NAME = "flux-2"
MAX_LINE_CHARS = 2000
"""The longest line of a file in a diff; the longest of an entry, Codex's list of variables, has 700."""
COLORS = {"+": "green", "-": "red"}


def _name(_: click.Context, __: click.Parameter, text: str) -> str:
    if NAME.fullmatch(text) is None:
        raise click.BadParameter("a server's name is 1 to 64 letters, digits, - and _.")
    return text


@click.command(epilog=EPILOG)
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option("--scope", type=click.Choice(SCOPES), default="user", help="For you (default), or the folder you are in.")
@click.option("--detect", is_flag=True, help="All hosts that are found, without asking.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--uninstall", is_flag=True, help="Take the entry out again.")
@click.option(
    "--name", default=DEFAULT_NAME, callback=_name, metavar="NAME", help=f"The entry's; default {DEFAULT_NAME}."
)
@click.pass_obj
def install(
    invocation: Invocation,
    *,
    hosts: tuple[str, ...],
    scope: Scope,
    detect: bool,
    dry_run: bool,
    uninstall: bool,
    name: str,
) -> int:
    """Put this server into agent hosts: HOST by name, all that are found, or those you choose."""
    if hosts and detect:
        raise click.UsageError("Name hosts or let them be found with --detect, not both.")
    machine = installation.machine(invocation)
    command = None if uninstall else installation.server(invocation)
    found = [] if hosts else _found(machine, scope, name, uninstall=uninstall)
    if not hosts and not found:
        later = f"; later: {output.PROGRAM} install NAME, one of {_names(TABLE)}."
        output.echo(f"No agent host found{', so no entry to take out.' if uninstall else later}")
        return 0
    chosen = [host(each) for each in hosts] or (found if detect else _asked(found, machine, name, uninstall=uninstall))
    work = partial(_one, invocation, scope=scope, name=name, command=command, dry_run=dry_run)
    code = 0
    for row in dict.fromkeys(row.name for row in chosen):
        try:
            output.echo(work(host(row)))
        except Flux2Error as exc:
            code = exc.exit_code
            color = click.get_current_context().color
            output.complain(f"{host(row).title}: {exc.message}", exc.cost, exc.next_step, color=color)
    if not code and not dry_run and not uninstall:
        output.echo(f"{_key_hint(invocation)}\n{output.PROGRAM} doctor looks whether all of it works.")
    return code


def _names(rows: Sequence[Host]) -> str:
    return ", ".join(row.name for row in rows)


def _asked(found: list[Host], machine: Machine, name: str, *, uninstall: bool) -> list[Host]:
    output.echo("Found on this machine:")
    marks = ["installed" if _is_there(row, machine, "user", name) else "" for row in found]
    rows = [
        (f"  {number}", row.title, row.name, mark)
        for number, (row, mark) in enumerate(zip(found, marks, strict=True), 1)
    ]
    output.echo("\n".join(output.columns(rows)))
    question = f"{'Take it out of' if uninstall else 'Put it into'} which? Numbers or names"
    try:
        answer = click.prompt(question, default="all")
    except click.Abort as exc:
        output.echo()
        raise click.UsageError(
            f"No host was chosen. Name hosts, or --detect for all of these: {_names(found)}."
        ) from exc
    words = str(answer).replace(",", " ").split()
    if words == ["all"]:
        return found
    return [found[int(word) - 1] if word.isdecimal() and 0 < int(word) <= len(found) else host(word) for word in words]


def _found(machine: Machine, scope: Scope, name: str, *, uninstall: bool) -> list[Host]:
    """Return the detected hosts that support this scope; to uninstall, also hosts that are gone but have the entry."""
    rows = [row for row in TABLE if scope == "user" or (row.project and machine.workspace)]
    return [row for row in rows if machine.has(row) or (uninstall and _is_there(row, machine, scope, name))]


def _is_there(row: Host, machine: Machine, scope: Scope, name: str) -> bool:
    return any(host_plan.may_hold(path, row, name) for path in machine.files(row, scope))


def _one(
    invocation: Invocation, row: Host, *, scope: Scope, name: str, command: list[str] | None, dry_run: bool
) -> str:
    """Install into one host, or plan it for a dry run, and report in words. Without a command, remove the entry."""
    machine = installation.machine(invocation)
    if command is None:
        plan = host_plan.to_remove(machine, row, scope, name)
    else:
        plan = host_plan.to_install(machine, row, scope, name, command)
    path = plan.file.path
    if not plan.changes:
        if command is None and not dry_run:
            host_plan.tidy(plan, machine)
        state = f"nothing to take out of {path}" if command is None else f"stands in {path} as it should"
        return "\n".join([f"{_bold(row.title)}: {state}.", *_off(plan, machine, scope)])
    details = [*_diff(plan, command or _installed(invocation)), *_switched(plan), *_off(plan, machine, scope)]
    if dry_run:
        return "\n".join([f"{_bold(row.title)}: would change {path} by {plan.way}.", *details])
    way, backup = host_plan.carry_out(plan, machine)
    done = "removed from" if command is None else "added to" if plan.old is None else "changed in"
    lines = [f"{_bold(row.title)}: {name} {done} {path} {way}.", *details]
    if backup is not None:
        lines.append(f"Before: {backup}")
    return "\n".join(lines if command is None else [*lines, *_next(invocation, row, scope, name, command)])


def _switched(plan: HostPlan) -> Iterator[str]:
    """Report the switches in this file that kept the host from starting the entry, and that are on now."""
    if plan.new is not None:
        off = entry.off(plan.host, plan.file.text or "", plan.name, plan.old or plan.new)
        yield from (f"Switched on: {switch} kept {plan.name} from being started." for switch in off)


def _off(plan: HostPlan, machine: Machine, scope: Scope) -> Iterator[str]:
    """Report the switches in other files that keep the host from starting the entry. Only the user may change those."""
    if plan.new is not None:
        file = File(plan.file.path, plan.after)
        for switch, path in elsewhere(machine, plan.host, scope, file, plan.name, plan.new):
            yield f"Still switched off: {switch} in {path} keeps {plan.name} from being started."


def _next(invocation: Invocation, row: Host, scope: Scope, name: str, command: list[str]) -> Iterator[str]:
    """Report the next step in the host, and other ways to install."""
    yield f"{_bold('Next:')} {row.then}"
    if scope == "project":
        yield "The entry holds a path of this machine: keep the file out of version control."
    if _key_in_environment(invocation) and row.from_env:
        yield f"To hand on the key from the environment, add to the entry: {row.from_env}"
    if row.name in LINKS:
        yield f"Or with a click: {LINKS[row.name](name, entry.whole(row, command))}"


def _installed(invocation: Invocation) -> list[str]:
    """Return the command of this installation; of a temporary one, which no entry points to, the program's name."""
    try:
        return installation.server(invocation)
    except HostFileError:
        return [output.PROGRAM]


def _diff(plan: HostPlan, command: Sequence[str]) -> list[str]:
    """Return the change as a diff of the file. Any value, also in a comment, may be a key: only our own are shown.

    A file that is one long line has no context worth reading; of such a file, the entry alone is shown.
    """
    plain = entry.own_values(plan.host, command, plan.old, plan.new)
    path, before, after = str(plan.file.path), _veiled(plan, plan.file.text, plain), _veiled(plan, plan.after, plain)
    lines = list(unified_diff(before, after, fromfile=path, tofile=path, lineterm=""))
    if any(len(line) > MAX_LINE_CHARS for line in lines[2:]):
        old, new = _shown(plan, plan.old, plain), _shown(plan, plan.new, plain)
        lines = list(unified_diff(old, new, fromfile=path, tofile=path, n=len(old), lineterm=""))
    return [output.style(line, fg=COLORS.get(line[:1])) for line in lines]


def _veiled(plan: HostPlan, text: str | None, plain: Collection[Json]) -> list[str]:
    row = plan.host
    veiled = entry.EDITORS[row.format].veiled(text or "", row.servers, plan.name, plain)
    return veiled.removeprefix(BOM).splitlines()


def _shown(plan: HostPlan, standing: Object | None, plain: Collection[Json]) -> list[str]:
    if standing is None:
        return []
    veiled = {key: masked(value, plain) for key, value in standing.items()}
    return entry.EDITORS[plan.host.format].shown(plan.host.servers, plan.name, veiled).splitlines()


def _key_in_environment(invocation: Invocation) -> bool:
    return not isinstance(invocation.read, SettingsError) and invocation.read.key_source in {
        "RUNAPI_API_KEY",
        "RUNAPI_KEY",
    }


def _key_hint(invocation: Invocation) -> str:
    settings = invocation.read
    if isinstance(settings, SettingsError):
        return f"{settings.message} {settings.next_step}"
    if settings.api_key is None:
        return f"There is no key yet: the sandbox draws the images until {output.PROGRAM} login has brought one."
    if _key_in_environment(invocation):
        return (
            "The key stands in the environment only, where not every host sees it:"
            f" {output.PROGRAM} login keeps it in RunAPI's own file, for all of them."
        )
    return "The key is in RunAPI's own file, which every host's server reads."


def _bold(text: str) -> str:
    return output.style(text, bold=True)
