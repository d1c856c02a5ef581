"""`flux2-mcp variants`: the tool `list_variants` as a command."""

from __future__ import annotations

from itertools import groupby

import click

from flux2_mcp.cli import output
from flux2_mcp.cli.output import NAMES, own_words, usd
from flux2_mcp.cli.pricing import ACTIONS
from flux2_mcp.domain import catalog
from flux2_mcp.server.results import catalog as catalog_results
from flux2_mcp.server.results.catalog import ConstraintResult, VariantResult, VariantsResult

EPILOG = """
\b
Examples:
  flux2-mcp variants
  flux2-mcp variants --action remix_image --variant max
"""


@click.command(epilog=EPILOG)
@click.option("--variant", metavar="NAME", help=f"Only {', '.join(catalog.variants())}, or a model id.")
@click.option("--action", type=ACTIONS, help="Only models doing this.")
@output.as_json_option
def variants(*, action: str | None, variant: str | None, as_json: bool) -> None:
    """List the variants, what they take and when to choose which."""
    output.tell(catalog_results.variants(action=action, variant=variant), _words, as_json=as_json)


def _words(result: VariantsResult) -> str:
    lines = []
    for name, group in groupby(result.variants, key=lambda each: each.variant):
        models = list(group)
        price = "price known only live" if models[0].from_usd is None else f"from {usd(models[0].from_usd)}"
        lines += [f"{output.style(name, bold=True)}, {price}", _wrapped(own_words(models[0].choose))]
        lines += [line for model in models for line in _model(model)]
    uses = dict.fromkeys(each.commercial_use for each in result.variants)
    return "\n".join([*lines, *(f"Commercial use: {use}." for use in uses)])


def _model(model: VariantResult) -> list[str]:
    needs = [
        f"{_option(each.name)}{_span(each)}" for each in model.constraints if each.required and each.name != "prompt"
    ]
    takes = [f"{_option(each.name)} {' '.join(map(str, each.allowed))}" for each in model.constraints if each.allowed]
    refuses = [f"not {_option(name)}" for name in model.not_accepted]
    head = f"  {model.model}{', needs ' if needs else ''}{', '.join(needs)}"
    return [head, _wrapped("; ".join([*takes, *refuses]), "    ")]


def _option(name: str) -> str:
    return NAMES.get(name, name)


def _span(constraint: ConstraintResult) -> str:
    """Return the allowed number of items of a list, in brackets."""
    if constraint.kind != "array":
        return ""
    low, high = constraint.low, constraint.high
    return f" ({low})" if low == high else f" ({low} to {high})"


def _wrapped(text: str, indent: str = "  ") -> str:
    return click.wrap_text(text, output.WIDTH_COLUMNS, indent, indent)
