"""Completion: what is offered can be chosen, given what else was."""

from __future__ import annotations

import itertools
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, Completion, PromptReference, ResourceTemplateReference

from flux2_mcp.domain import catalog
from flux2_mcp.domain.models import MAKING, Action
from flux2_mcp.engine.backend import account_name
from flux2_mcp.server import completion
from flux2_mcp.server.docs import examples, uris
from flux2_mcp.settings import Settings
from tests.server.conftest import BOTH_ERAS
from tests.support.journals import failed
from tests.support.rows import each_row

pytestmark = pytest.mark.anyio

VARIANTS = list(catalog.variants())
BESIDE_PRO = [f"pro, {variant}" for variant in VARIANTS if variant != "pro"]
RATIOS = ["1:1", "4:3", "3:4", "16:9", "9:16", "3:2", "2:3"]


async def offered(client: Client, of: str, name: str, value: str = "", **given: str) -> Completion:
    ref = ResourceTemplateReference(uri=of) if "://" in of else PromptReference(name=of)
    return (await client.complete(ref, {"name": name, "value": value}, given or None)).completion


OFFERED: list[tuple[str, str, str, dict[str, str], list[str]]] = [
    ("generate", "variant", "", {}, VARIANTS),
    ("generate", "variant", "F", {}, [variant for variant in VARIANTS if variant.startswith("f")]),
    ("generate", "variant", "ultra", {}, []),
    ("generate", "aspect_ratio", "", {}, RATIOS),
    ("generate", "aspect_ratio", "1", {"variant": "pro"}, ["1:1", "16:9"]),
    ("remix", "aspect_ratio", "", {}, [*RATIOS, "auto"]),
    ("remix", "aspect_ratio", "a", {"variant": "flex"}, ["auto"]),
    ("remix", "aspect_ratio", "a", {"variant": "max"}, []),
    ("remix", "aspect_ratio", "a", {"variant": "flux-2-pro-remix-image"}, ["auto"]),
    ("remix", "aspect_ratio", "a", {"variant": "ultra"}, ["auto"]),
    ("remix", "aspect_ratio", "a", {"variant": " "}, ["auto"]),
    ("generate", "output_resolution", "", {}, ["1k", "2k"]),
    ("generate", "output_resolution", "", {"variant": "max"}, ["1k"]),
    ("compare_variants", "output_resolution", "", {}, ["1k"]),
    ("compare_variants", "output_resolution", "", {"variants": "pro, flex"}, ["1k", "2k"]),
    ("compare_variants", "output_resolution", "", {"variants": "pro, max"}, ["1k"]),
    ("compare_variants", "variants", "", {}, VARIANTS),
    ("compare_variants", "variants", "pro, ", {}, BESIDE_PRO),
    ("compare_variants", "variants", "pro,", {}, BESIDE_PRO),
    ("compare_variants", "variants", "pro, m", {}, [both for both in BESIDE_PRO if both.startswith("pro, m")]),
    ("add_to_app", "language", "", {}, list(examples.LANGUAGES)),
    ("add_to_app", "language", "p", {}, ["python", "php"]),
    ("add_to_app", "action", "", {}, list(MAKING)),
    ("add_to_app", "feature", "", {}, []),
    ("generate", "prompt", "a", {}, []),
    (uris.request_schema("{model}"), "model", "flux-2-max", {}, [m for m in catalog.models() if "-max-" in m]),
    (uris.quickstart("{language}", "{model}"), "language", "ty", {}, ["typescript"]),
    (uris.quickstart("{language}", "{model}"), "model", "", {"language": "php"}, list(catalog.models())),
    ("flux2://images/{id}{?max}", "max", "1", {}, []),
]


@BOTH_ERAS
async def test_what_can_be_chosen_is_offered(client: Client) -> None:
    with each_row() as row:
        for of, name, value, given, values in OFFERED:
            with row((of, name, value, given)):
                found = await offered(client, of, name, value, **given)
                assert (found.values, found.total, found.has_more) == (values, len(values), False)


async def test_for_each_variant_exactly_what_the_catalogue_takes_is_offered(client: Client) -> None:
    prompts = {Action.TEXT_TO_IMAGE: "generate", Action.REMIX_IMAGE: "remix"}
    for model, field in itertools.product(catalog.models().values(), ["aspect_ratio", "output_resolution"]):
        found = await offered(client, prompts[model.action], field, variant=model.variant)
        assert found.values == list(model.fields[field].enum), (model.id, field)


async def made(client: Client, **arguments: object) -> str:
    with anyio.fail_after(30):
        result = await client.call_tool("generate", {"prompt": "a red fox in snow"} | arguments)
    assert isinstance(result.structured_content, dict)
    found: dict[str, Any] = result.structured_content["tasks"][0]
    return str(found["task_id"])


async def test_recent_tasks_are_offered_newest_first_and_as_sources_only_those_with_an_image(client: Client) -> None:
    first, second = await made(client), await made(client)
    open_ = await made(client, prompt="a red fox [sandbox:stuck]", wait_seconds=0)
    assert (await offered(client, "remix", "source_images")).values == [f"task:{second}", f"task:{first}"]
    assert (await offered(client, "remix", "source_images", f"task:{first[:8]}")).values == [f"task:{first}"]
    assert (await offered(client, "remix", "source_images", f"task:{first}, ")).values == [
        f"task:{first}, task:{second}"
    ]
    assert (await offered(client, "flux2://tasks/{id}", "id")).values == [open_, second, first]
    assert (await offered(client, "flux2://images/{id}{?max}", "id", second[:8])).values == [second]


async def test_where_there_may_be_more_tasks_it_says_so(client: Client, sandbox_settings: Settings) -> None:
    tasks = await failed(sandbox_settings.home, account_name(sandbox_settings), completion.MAX_CHOICES + 1)
    found = await offered(client, "flux2://tasks/{id}", "id")
    assert (found.values, found.total, found.has_more) == (tasks[:0:-1], None, True)


async def test_with_nothing_made_no_task_is_offered(client: Client) -> None:
    assert (await offered(client, "remix", "source_images")).values == []


UNKNOWN = [
    ("paint", "variant", "prompt: there is none called paint; there are generate, "),
    ("generate", "seed", "argument: there is none called seed; there are prompt, variant, "),
    ("flux2://elsewhere/{id}", "id", "uri: is no template of ours; resources/templates/list has them."),
    ("flux2://tasks/{id}", "model", "argument: there is none called model; there are id."),
    ("generate", "x" * 5000, "argument: there is none called xxx"),
]


@BOTH_ERAS
async def test_what_does_not_exist_can_not_be_completed(client: Client) -> None:
    for of, name, message in UNKNOWN:
        with pytest.raises(MCPError) as caught:
            await offered(client, of, name)
        assert caught.value.error.code == INVALID_PARAMS
        assert caught.value.error.message.startswith(message)
        assert len(caught.value.error.message) < 300
