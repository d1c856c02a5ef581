"""`flux2-mcp tasks`, `open` and `prune`: the commands over the journal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import click
from msgspec.structs import replace

from flux2_mcp.cli import browser, output, task_output
from flux2_mcp.cli.completion import complete_ids
from flux2_mcp.cli.output import usd
from flux2_mcp.domain.lifecycle import STATUSES, TaskStatus
from flux2_mcp.engine.pruning import PrunePlan
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.waiting import Outcome
from flux2_mcp.errors import NotFoundError, shortened
from flux2_mcp.journal.records import MAX_QUERY_CHARS, TaskRecord
from flux2_mcp.server.results import task_words
from flux2_mcp.server.results import tasks as task_results
from flux2_mcp.server.results.tasks import GenerationResult, MatchedResult
from flux2_mcp.settings import Settings

MAX_TASKS = 1000
MAX_PROMPT_CHARS = 48
"""The maximum number of characters of a prompt in a list."""
MEGA = 1_000_000
NOTHING = f"There are no tasks yet. {output.PROGRAM} generate makes the first."
NO_VIEWER = (
    "No viewer on this machine opened it. Copy the file to where one is,\n"
    f"or look at it in a browser: {output.PROGRAM} gallery."
)
FAILED = 1
MIN_PRUNE_AGE = timedelta(days=1)
"""The minimum age of images that may be removed: images of today may still be in use."""


def _query(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    if text is not None and len(text) > MAX_QUERY_CHARS:
        raise click.BadParameter(
            f"no prompt has more than {MAX_QUERY_CHARS} characters, and this text has {len(text)}."
        )
    return text


@click.command(
    epilog="""
\b
Examples:
  flux2-mcp tasks --since 24h
  flux2-mcp tasks --status failed --json
  flux2-mcp tasks --workspace .
  flux2-mcp tasks --query "red fox"
  flux2-mcp tasks --file public/hero.png
"""
)
@click.option(
    "--limit", type=click.IntRange(1, MAX_TASKS), default=20, metavar="N", help="The newest so many; default 20."
)
@click.option("--status", type=click.Choice(sorted(set(STATUSES.values()))), help="Only tasks that stand so.")
@click.option("--since", metavar="WHEN", callback=output.moment, help="30m, 24h, 7d, or ISO 8601.")
@click.option("--workspace", metavar="FOLDER", help="Only what was asked for there; . is this folder.")
@click.option(
    "--query",
    metavar="TEXT",
    callback=_query,
    help="Only tasks with this text in their prompt, in upper or lower case.",
)
@click.option("--file", metavar="PATH", help="Only what made this file; it may have been copied or renamed since.")
@click.option("--before", metavar="ID", help="Only what is older than this task, for the next page.")
@output.as_json_option
@click.pass_obj
def tasks(
    read_settings: Callable[[], Settings],
    *,
    limit: int,
    status: TaskStatus | None,
    since: datetime | None,
    workspace: str | None,
    query: str | None,
    file: str | None,
    before: str | None,
    as_json: bool,
) -> None:
    """List what was made, newest first, with its files. Asks nobody and costs nothing."""
    settings = read_settings()
    folder = None if workspace is None else str(Path(workspace).absolute())

    async def work() -> Outcome:
        async with Service.opened(settings, keep=False) as service:
            return await service.recent(
                limit=limit,
                states=None if status is None else task_results.states(status),
                since=since,
                workspace=folder,
                query=query,
                file=file,
                before=before,
                folders=[] if settings.workspace is None else [Path(settings.workspace)],
            )

    outcome = output.run(work, stopped="Stopped.")
    filters = {
        "status": status,
        "since": None if since is None else task_results.stamp(since),
        "workspace": folder,
        "query": query,
        "file": file,
        "before": before,
    }
    given = {name: value for name, value in filters.items() if value is not None}
    outcome = replace(outcome, nothing=task_results.none_matches(given) if given else NOTHING)
    output.tell(task_output.generation(outcome), partial(listed, outcome=outcome), as_json=as_json)


def listed(result: GenerationResult, outcome: Outcome) -> str:
    """Format the list: a line for each task, and below it its id and its files."""
    remarks = [output.own_words(text) for text in task_results.remarks(outcome)]
    if not result.tasks:
        return "\n".join(remarks)
    rows = [("MADE", "STATUS", "MODEL", "WOULD CHARGE" if result.sandbox else "CHARGED", "PROMPT")]
    blocks = []
    for task, report in zip(result.tasks, outcome.tasks, strict=True):
        prompt = shortened(" ".join(report.record.request.prompt.split()), MAX_PROMPT_CHARS)
        made = report.record.created_at.astimezone().strftime("%Y-%m-%d %H:%M")
        rows.append((made, task.status, task.model.removeprefix("flux-2-"), usd(task.charged_usd), prompt))
        files = [image.saved or image.path for image in task.images if image.saved or image.path]
        why = [f"  {output.own_words(task.error)}"] if task.error else []
        blocks.append([f"  {task.task_id}", *(f"  {file}" for file in files), *why])
    head, *lines = output.columns(rows)
    matched = result.matched
    rest = [] if matched is None or matched.shown == matched.count else [_rest(matched, sandbox=result.sandbox)]
    return "\n".join(
        [
            output.style(head, bold=True),
            *(text for line, block in zip(lines, blocks, strict=True) for text in (line, *block)),
            *rest,
            *remarks,
        ]
    )


def _rest(matched: MatchedResult, *, sandbox: bool) -> str:
    cost = task_words.cost(matched.charged_usd, sandbox=sandbox, uncharged=matched.uncharged)
    charged = f"{'' if sandbox or matched.charged_usd is None else 'were '}{cost}"
    older = f" Older ones: --before {matched.before}" if matched.before else ""
    return f"{matched.shown} of {matched.count}; all {matched.count} {charged}.{older}"


@click.command(
    name="open",
    epilog="""
\b
Examples:
  flux2-mcp open 0193a5f0-7c1e-7d3a-9b21-4f60aa17c2de
""",
)
@click.argument("ident", metavar="ID", shell_complete=complete_ids)
@click.option("--folder", is_flag=True, help="Show the file in its folder instead.")
@click.pass_obj
def open_image(read_settings: Callable[[], Settings], *, ident: str, folder: bool) -> int:
    """Open the image of a task in the system's viewer. ID is a task's id, as `flux2-mcp tasks` shows it."""
    settings = read_settings()

    async def work() -> TaskRecord | None:
        async with Service.opened(settings, keep=False) as service:
            record = await service.known(ident)
            if record is not None and not _files(record):
                for image in record.images[:1]:
                    await service.images.here(image)
            return record

    record = output.run(work, stopped="Stopped.")
    paths = [] if record is None else _files(record)
    if not paths:
        what = (
            "The journal knows no such task."
            if record is None
            else f"The task is {STATUSES[record.state]}, and no file of it is there."
        )
        raise NotFoundError(what, status=404, next_step=f"{output.PROGRAM} tasks lists what was made.")
    output.echo(str(paths[0]))
    if not browser.show(paths[0], folder=folder):
        output.echo(NO_VIEWER, err=True)
        return FAILED
    return 0


def _files(record: TaskRecord) -> list[Path]:
    """The files of a task that are on this machine now."""
    places = [file for image in record.images for file in (image.saved, image.path) if file]
    return [path for path in map(Path, places) if path.is_file()]


@click.command(
    epilog="""
\b
Examples:
  flux2-mcp prune --older-than 30d
  flux2-mcp prune --older-than 90d --yes
"""
)
@click.option(
    "--older-than",
    "before",
    metavar="AGE",
    required=True,
    callback=output.moment,
    help="30d, 12w, or ISO 8601; at least 1d.",
)
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.pass_obj
def prune(read_settings: Callable[[], Settings], *, before: datetime, yes: bool) -> None:
    """Remove old images from FLUX2_HOME and from the store of images; asks first. Files saved into a workspace stay, and so does every task's record."""
    settings = read_settings()
    if before > datetime.now(UTC) - MIN_PRUNE_AGE:
        raise click.BadParameter("what is younger than a day is not removed.", param_hint="--older-than")

    async def find() -> PrunePlan:
        async with Service.opened(settings, keep=False) as service:
            return await service.pruner.find(before)

    old = output.run(find, stopped="Stopped.")
    if not old.names and not old.copies:
        output.echo(f"No image is older than {before.date()}.")
        return
    output.echo(
        f"{len(old.names)} images and {len(old.copies)} small copies of {len(old.records)} tasks, {old.size_bytes / MEGA:.1f} MB, made before {before.date()}."
    )
    if not yes:
        click.confirm("Remove them? RunAPI does not have them any more after 7 days", abort=True)

    async def remove() -> int:
        async with Service.opened(settings, keep=False) as service:
            return await service.pruner.remove(old)

    output.echo(f"{output.run(remove, stopped='Stopped.') / MEGA:.1f} MB freed.")
