"""The tool that makes images."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from mcp.server.mcpserver import AcceptedElicitation, CancelledElicitation, Elicit, ElicitationResult, Resolve
from mcp_types import CallToolResult
from msgspec.structs import asdict, replace
from pydantic import BaseModel, Field

from flux2_mcp.domain import catalog, finishing
from flux2_mcp.domain.models import RequestArgs
from flux2_mcp.engine.confirmation import Confirmation, Quotation
from flux2_mcp.engine.manifest_quotes import ManifestQuote
from flux2_mcp.engine.project import Project
from flux2_mcp.engine.service import MAX_COUNT
from flux2_mcp.engine.submission import CheckedRequest, Terms
from flux2_mcp.server import sealed
from flux2_mcp.server.results.tasks import GenerationResult
from flux2_mcp.server.tools import answers
from flux2_mcp.server.tools.context import (
    Roots,
    ToolContext,
    can_ask,
    client_name,
    folders,
    progress_of,
    project_of,
    service_of,
    wait_of,
)
from flux2_mcp.settings import MAX_WAIT_SECONDS

FINISH = finishing.arguments()
RATIOS = catalog.allowed_values("aspect_ratio")
RESOLUTIONS = catalog.allowed_values("output_resolution")
VARIANTS = ", ".join(f"{name} ({catalog.variant_notes(name)['best_for']})" for name in catalog.variants())


_USUAL = {("variant", catalog.DEFAULT_VARIANT)}
"""What an argument is where the call does not have it."""


async def _checked(
    context: ToolContext,
    roots: Roots,
    prompt: str | None,
    variant: str,
    source_images: list[str] | None,
    aspect_ratio: str | None,
    output_resolution: str | None,
    background: str | None,
    upscale: int | None,
    enable_safety_checker: bool | None,
    callback_url: str | None,
    count: int,
    save_to: str | None,
    overwrite: bool,
    max_cost_usd: float | None,
    idempotency_key: str | None,
    manifest: str | None,
) -> CheckedRequest | Project:
    args = RequestArgs(
        prompt=prompt,
        variant=variant,
        source_images=source_images,
        aspect_ratio=aspect_ratio,
        output_resolution=output_resolution,
        enable_safety_checker=enable_safety_checker,
        callback_url=callback_url,
        background=background,
        upscale=upscale,
    )
    if manifest is not None:
        unused = {**asdict(args), "save_to": save_to, "idempotency_key": idempotency_key}
        others = [name for name, value in unused.items() if value is not None and (name, value) not in _USUAL]
        return project_of(context, roots, manifest, [*others, *(["count"] if count != 1 else [])])
    terms = Terms(
        count=count,
        save_to=save_to,
        overwrite=overwrite,
        max_cost_usd=_usd(max_cost_usd),
        idempotency_key=idempotency_key,
    )
    return await service_of(context).request(args, folders=folders(context, roots), terms=terms)


def _usd(stated: float | None) -> Decimal | None:
    return None if stated is None else Decimal(str(stated))


class Approval(BaseModel):
    """What the user is asked to fill in. Nothing is spent on a form that was merely sent."""

    spend: bool = Field(default=False, title="Spend it", description="Make these images and pay for them.")


async def _offer(
    context: ToolContext,
    checked: Annotated[CheckedRequest | Project, Resolve(_checked)],
    count: int,
    overwrite: bool,
    max_cost_usd: float | None,
    idempotency_key: str | None,
) -> Quotation | ManifestQuote:
    if isinstance(checked, Project):
        return await service_of(context).manifests.quote(
            checked, overwrite=overwrite, stated_usd=_usd(max_cost_usd), balance=False, consent=sealed.consent()
        )
    return await service_of(context).offer(
        checked,
        count=count,
        max_cost_usd=_usd(max_cost_usd),
        idempotency_key=idempotency_key,
        consent=sealed.consent(),
    )


async def _approval(
    context: ToolContext, offer: Annotated[Quotation | ManifestQuote, Resolve(_offer)]
) -> Approval | Elicit[Approval]:
    """Ask the user to confirm the call, if its price needs that and the client can ask."""
    if (needed := offer.to_ask) is None:
        return Approval()
    if not can_ask(context):
        raise needed.refused("The user was not asked, and can't be through this client.", _again(needed))
    return Elicit(needed.question, Approval)


def _again(confirmation: Confirmation) -> str:
    stated = ", " if confirmation.quoted_usd is None else ": "
    return f"Ask the user. If the answer is yes, call again with max_cost_usd{stated}{confirmation.stated}."


async def generate(
    context: ToolContext,
    roots: Roots,
    offer: Annotated[Quotation | ManifestQuote, Resolve(_offer)],
    approval: Annotated[ElicitationResult[Approval], Resolve(_approval)],
    prompt: Annotated[str | None, Field(description="3-5000 characters; none to only finish a source image")] = None,
    variant: Annotated[
        str,
        Field(description=f"{VARIANTS}, or model id"),
    ] = catalog.DEFAULT_VARIANT,
    source_images: Annotated[
        list[str] | None,
        Field(description="1-8 images to remix (max: 1): paths in the workspace, https URLs, task:ID, data: URIs"),
    ] = None,
    aspect_ratio: Annotated[
        str | None,
        Field(
            description="default 1:1, for a remix auto (the source's shape)",
            json_schema_extra={"enum": RATIOS},
        ),
    ] = None,
    output_resolution: Annotated[
        str | None, Field(description="default 1k; max: 1k only", json_schema_extra={"enum": RESOLUTIONS})
    ] = None,
    background: Annotated[
        str | None,
        Field(description="transparent PNG of the subject; paid", json_schema_extra={"enum": FINISH["background"]}),
    ] = None,
    upscale: Annotated[
        int | None, Field(description="times larger; paid", json_schema_extra={"enum": FINISH["upscale"]})
    ] = None,
    enable_safety_checker: Annotated[bool | None, Field(description="moderation; not for max")] = None,
    count: Annotated[int, Field(ge=1, le=MAX_COUNT, description="each is paid")] = 1,
    wait_seconds: Annotated[
        float | None,
        Field(ge=0, le=int(MAX_WAIT_SECONDS), description="then return; the task runs on"),
    ] = None,
    save_to: Annotated[str | None, Field(description="save a copy in the workspace: file, or folder/")] = None,
    overwrite: Annotated[bool, Field(description="replace files")] = False,
    preview: Annotated[bool, Field(description="attach small pictures")] = True,
    max_cost_usd: Annotated[
        float | None,
        Field(ge=0, le=10_000, description="refuse if all costs more; confirms the price up to it"),
    ] = None,
    callback_url: Annotated[str | None, Field(description="https URL that gets the result")] = None,
    idempotency_key: Annotated[
        str | None,
        Field(min_length=1, max_length=500, description="same key, same task, paid once"),
    ] = None,
    manifest: Annotated[str | None, Field(description="flux2.toml, not prompt: makes its plan")] = None,
) -> Annotated[CallToolResult, GenerationResult]:
    """Make images with FLUX.2 from a prompt, remix source images, or only finish one (background, upscale). Costs money. Files land on disk.

    If status is processing, call check_task; don't generate again.
    """
    approved = isinstance(approval, AcceptedElicitation) and approval.data.spend
    if (needed := offer.to_ask) is not None and not approved:
        if isinstance(approval, CancelledElicitation):
            raise needed.refused("The user did not answer.", _again(needed))
        raise needed.refused("The user declined.", "Don't call again unless the user asks for it.")
    if isinstance(offer, ManifestQuote):
        applied = await service_of(context).manifests.apply(
            offer,
            approved=approved,
            wait_seconds=wait_of(context, wait_seconds),
            client=client_name(context),
            on_progress=progress_of(context),
        )
        return await answers.project(context, applied, preview=preview)
    if offer.repeated:
        keys = [record.key for record in offer.repeated]
        outcome = await service_of(context).check(
            keys, wait_seconds=wait_of(context, wait_seconds), on_progress=progress_of(context)
        )
        return await answers.generation(context, replace(outcome, repeated=True), preview=preview, makes=True)
    outcome = await service_of(context).generate(
        offer,
        approved=approved,
        wait_seconds=wait_of(context, wait_seconds),
        client=client_name(context),
        workspace=next(iter(folders(context, roots)), None),
        save_to=save_to,
        overwrite=overwrite,
        on_progress=progress_of(context),
    )
    return await answers.generation(context, outcome, preview=preview, makes=True)
