"""`flux2-mcp generate`: the tool of the same name, for people."""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import click

from flux2_mcp.cli import output, task_output
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.cli.task_output import NO_CANCEL
from flux2_mcp.domain import catalog, finishing
from flux2_mcp.domain.models import RequestArgs
from flux2_mcp.engine.confirmation import Confirmation, Quotation
from flux2_mcp.engine.service import MAX_COUNT, Service
from flux2_mcp.engine.submission import Terms
from flux2_mcp.engine.waiting import OnProgress, Outcome, Progress
from flux2_mcp.settings import MAX_WAIT_SECONDS

WAIT_SECONDS = 300
MAX_KEY_CHARS = 500
"""Characters. RunAPI accepts 512, and the key of each further task of a call ends with its number."""

SENT = "RunAPI has no cancel: a task that was sent runs on, and is charged when it completes. A failed one is not."
EPILOG = f"""
\b
Examples:
  flux2-mcp generate "A lighthouse at dusk" --aspect-ratio 16:9 --count 2
  flux2-mcp generate "The sign says OPEN" --variant flex --max-cost 0.30
  flux2-mcp generate "Make it night" --source https://example.com/lighthouse.png
  flux2-mcp generate "A flat fox logo" --background transparent --save-to logo.png
  flux2-mcp generate --source hero.png --upscale 4 --max-cost 0.20
  flux2-mcp generate "A red fox" --json | jq -r '.tasks[].images[].path'

{SENT}
"""
AGAIN = "The same command again, from the same folder, joins it and pays nothing more."
AGAIN_PAID = "The same command again would make new ones and pay for them; with --idempotency-key it would not."


def _prompt(_: click.Context, __: click.Parameter, words: tuple[str, ...]) -> str | None:
    if len(words) > 1:
        raise click.UsageError(
            f'The prompt is one argument, in quotes: {output.PROGRAM} generate "A lighthouse at dusk".'
        )
    return words[0] if words else None


def _seconds(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):
        raise click.BadParameter("that is not a number.")
    return value


def _key(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    if text is not None and not (
        text.isascii() and text.isprintable() and 0 < len(text.strip()) == len(text) <= MAX_KEY_CHARS
    ):
        raise click.BadParameter(f"it must be 1 to {MAX_KEY_CHARS} printable ASCII characters.")
    return text


def ask(needed: Confirmation) -> None:
    """Ask the user on the terminal to confirm a call.

    Raises:
        BudgetError: The user declines, or there is no terminal.
    """
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        amount = "--max-cost, the most it may cost" if needed.quoted_usd is None else f"--max-cost {needed.stated}"
        raise needed.refused(
            "The user was not asked: there is no terminal.",
            f"To confirm it, run this again with --yes or {amount}.",
        )
    output.echo(needed.question, err=True)
    if not click.confirm("Spend it?", err=True):
        raise needed.refused("The user declined.", "Run this again if it shall be made after all.")


@click.command(epilog=EPILOG)
@click.argument("prompt", nargs=-1, metavar='"PROMPT"', callback=_prompt)
@click.option(
    "--variant", default=catalog.DEFAULT_VARIANT, metavar="NAME", help=f"{catalog.variant_names()}, or a model id."
)
@click.option(
    "--source", "source_images", multiple=True, metavar="IMAGE",
    help="File, URL or task:ID to work on; repeat for more.",
)  # fmt: skip
@click.option(
    "--aspect-ratio", metavar="RATIO", help="1:1 (default), 4:3, 3:4, 16:9, 9:16, 3:2, 2:3; remix: auto (default)."
)
@click.option("--output-resolution", metavar="SIZE", help="1k (default) or 2k; max: 1k only.")
@click.option("--background", metavar="KIND", help="transparent: only the subject; paid.")
@click.option("--upscale", type=int, metavar="FACTOR", help="2, 4 or 8: so many times larger; paid.")
@click.option("--safety-checker/--no-safety-checker", "enable_safety_checker", default=None, help="Not for max.")
@click.option(
    "--count", type=click.IntRange(1, MAX_COUNT), default=1, metavar="N", help="Images, each paid; default 1."
)
@click.option("--save-to", metavar="PATH", help="File, or folder/, below the working directory to put the image into.")
@click.option("--overwrite", is_flag=True, help="Let --save-to replace a file.")
@click.option(
    "--max-cost", "max_cost_usd", metavar="USD", callback=output.amount, help="Refuse if all would cost more."
)
@click.option("--yes", is_flag=True, help="Don't ask, whatever it costs; --max-cost asks neither.")
@click.option(
    "--wait", "wait_seconds", type=click.FloatRange(0, int(MAX_WAIT_SECONDS)), metavar="SECONDS", callback=_seconds,
    help=f"Then return; the tasks run on. Default FLUX2_WAIT_SECONDS, else {WAIT_SECONDS}.",
)  # fmt: skip
@click.option("--callback-url", metavar="URL", help="Webhook for the result.")
@click.option("--idempotency-key", metavar="KEY", callback=_key, help="Same key, same task, paid once.")
@task_output.verbose_option
@task_output.no_picture_option
@output.as_json_option
@click.pass_obj
def generate(
    invocation: Invocation,
    /,
    *,
    source_images: tuple[str, ...],
    count: int,
    save_to: str | None,
    overwrite: bool,
    max_cost_usd: Decimal | None,
    yes: bool,
    wait_seconds: float | None,
    idempotency_key: str | None,
    verbose: bool,
    no_picture: bool,
    as_json: bool,
    **request: Any,  # noqa: ANN401  # the options that have the names of RequestArgs' fields
) -> int:
    """Make images from a PROMPT, remix source images, or finish one as it is. Prints the file of each first."""
    finishes = any(request[name] is not None for name in finishing.arguments()) or (
        request["variant"] in catalog.finishers()
    )
    if request["prompt"] is None and not finishes:
        raise click.UsageError("Missing argument '\"PROMPT\"'.")
    settings = invocation()
    folders = [] if settings.workspace is None else [Path(settings.workspace)]
    args = RequestArgs(source_images=source_images or None, **request)
    terms = Terms(
        count=count,
        save_to=save_to,
        overwrite=overwrite,
        max_cost_usd=max_cost_usd,
        idempotency_key=idempotency_key,
    )
    waits = (wait_seconds, settings.wait_seconds, WAIT_SECONDS)

    @asynccontextmanager
    async def running() -> AsyncIterator[tuple[Service, OnProgress]]:
        line = task_output.WaitLine()
        with output.progress() as show:
            show("starting")

            async def on_progress(progress: Progress) -> None:
                show(line(progress))

            async with Service.opened(settings) as service:
                yield service, on_progress

    async def make(service: Service, offer: Quotation, on_progress: OnProgress, *, approved: bool) -> Outcome:
        return await service.generate(
            offer,
            approved=approved,
            wait_seconds=next(seconds for seconds in waits if seconds is not None),
            client=output.PROGRAM,
            workspace=next(iter(folders), None),
            save_to=save_to,
            overwrite=overwrite,
            on_progress=on_progress,
        )

    async def work() -> Outcome | Quotation:
        """Make the images; or return the offer if the user must confirm it, so that no open service waits for that."""
        async with running() as (service, on_progress):
            checked = await service.request(args, folders=folders, terms=terms)
            offer = await service.offer(
                checked, count=count, max_cost_usd=max_cost_usd, idempotency_key=idempotency_key
            )
            return offer if offer.to_ask and not yes else await make(service, offer, on_progress, approved=yes)

    async def agreed(offer: Quotation) -> Outcome:
        async with running() as (service, on_progress):
            return await make(service, offer, on_progress, approved=True)

    again = AGAIN if count == 1 or idempotency_key is not None else AGAIN_PAID
    stopped = f"{NO_CANCEL}\n{again}"
    done = output.run(work, stopped=stopped)
    if isinstance(done, Quotation):
        if (needed := done.to_ask) is not None:
            ask(needed)
        done = output.run(partial(agreed, done), stopped=stopped)
    return task_output.tell(done, again, as_json=as_json, verbose=verbose, env=None if no_picture else invocation.env)
