"""`flux2-mcp pricing`: the tool `check_pricing` as a command."""

from __future__ import annotations

from collections.abc import Callable

import click

from flux2_mcp.cli import output
from flux2_mcp.cli.output import own_words, usd
from flux2_mcp.domain import catalog
from flux2_mcp.domain.models import Action
from flux2_mcp.engine.service import MAX_COUNT, Service
from flux2_mcp.server.results import catalog as catalog_results
from flux2_mcp.server.results.catalog import PricingResult
from flux2_mcp.settings import Settings

EPILOG = """
\b
Examples:
  flux2-mcp pricing
  flux2-mcp pricing --variant flex --output-resolution 2k --count 4
"""
ACTIONS = click.Choice([action.value for action in Action])


@click.command(epilog=EPILOG)
@click.option("--variant", metavar="NAME", help=f"Only {', '.join(catalog.variants())}, or a model id.")
@click.option("--action", type=ACTIONS, help="Only models doing this.")
@click.option("--output-resolution", type=click.Choice(["1k", "2k"]), help="Only this size.")
@click.option(
    "--count", type=click.IntRange(1, MAX_COUNT), default=1, metavar="N", help="Images to estimate for; default 1."
)
@output.as_json_option
@click.pass_obj
def pricing(
    read_settings: Callable[[], Settings],
    *,
    variant: str | None,
    action: str | None,
    output_resolution: str | None,
    count: int,
    as_json: bool,
) -> None:
    """Show prices in USD an image, an estimate, and the balance. Costs nothing."""
    settings = read_settings()

    async def work() -> PricingResult:
        async with Service.opened(settings, keep=False) as service:
            found = await service.prices.listed(
                variant=variant, action=Action(action) if action else None, output_resolution=output_resolution
            )
        return catalog_results.price_list(
            found, variant=variant, action=action, output_resolution=output_resolution, count=count
        )

    output.tell(output.run(work, stopped="Stopped."), _words, as_json=as_json)


def _words(result: PricingResult) -> str:
    rows = [("MODEL", "SIZE", "USD", "SOURCE")]
    for price in result.prices:
        as_of = "" if price.source in {"invented", "charged"} else (price.as_of or result.as_of or "")[:10]
        origin = ", ".join(filter(None, (price.source, as_of)))
        source = origin if price.note is None else "not published"
        rows.append((price.model, price.output_resolution, usd(price.usd), source))
    sources = {True: "invented", False: "live"}
    for step, amount in (result.finishing or {}).items():
        argument, _, value = step.partition(" ")
        source = sources[result.sandbox] if amount is not None else "not published"
        rows.append((f"then {output.NAMES[argument]}", value or "any", usd(amount), source))
    estimate = result.estimate
    assert estimate is not None  # noqa: S101  # only a manifest has none
    notes = dict.fromkeys(price.note for price in result.prices)
    return "\n".join(
        [
            *output.columns(rows),
            f"Estimate: {estimate.count} x {estimate.model} at {estimate.output_resolution}: {usd(estimate.usd)}",
            f"Balance: {usd(result.balance_usd)}",
            *(own_words(note) for note in (*notes, result.notice) if note),
        ]
    )
