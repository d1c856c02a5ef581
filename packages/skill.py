"""The skill for those who build on the API or write prompts: SKILL.md and the server's own documents as files beside it."""

from __future__ import annotations

import json
import re

from flux2_mcp.server.docs import examples, index, prompting, reference, uris
from flux2_mcp.server.docs.index import SCHEMA, Document
from packages import facts, words

FOLDER = f"skills/{facts.NAME}"
DESCRIPTION = (
    "Builds FLUX.2 image generation and remixing (Black Forest Labs' pro, flex and max, through the RunAPI HTTP API) into an"
    " application: exact JSON Schemas of every request, prices, runnable quickstarts in curl, Python, TypeScript, PHP and"
    " Ruby, idempotency, polling, webhooks, error handling and a free local sandbox. Teaches prompts for FLUX.2: lettering in"
    " quotes, hex colours, JSON prompts, ratios by use, no negatives, logos with a transparent ground. Use before writing or changing code that calls FLUX.2 or"
    " RunAPI, when asked to add AI images, text-to-image or image editing to an app with it, and before writing a FLUX.2 prompt."
)
"""At most 1,024 characters; hosts show it to the model at all times, so it says when to load the rest."""
_URI = re.compile(re.escape(f"{uris.DOCS}/") + r"([\w{}./-]*[\w}])")


def files(*, published: bool) -> dict[str, str]:
    """Every file of the skill by its path in the plugin's folder."""
    listed = [document for document in index.documents().values() if document.listed or document.mime_type == SCHEMA]
    found = {f"{FOLDER}/references/{_name(document.uri)}": _text(document) for document in listed}
    rows = "\n".join(
        f"| [{document.title}](references/{_name(document.uri)}) | {document.description} |" for document in listed
    )
    return {f"{FOLDER}/SKILL.md": _skill(rows, published=published)} | found


def _name(uri: str) -> str:
    """The file that holds what stands at an address; an address with a blank (`{model}`) gives a name with one."""
    *before, last = uri.removeprefix(f"{uris.DOCS}/").split("/")
    if before[:1] == ["models"]:
        return f"{before[1]}.{last}"
    stem = "-".join([*before, last])
    return stem if stem.endswith(".json") else f"{stem}.md"


def _text(document: Document) -> str:
    # A schema's address is its name, not a link.
    return document.text() if document.mime_type == SCHEMA else _linked(document.text(), "")


def _linked(text: str, folder: str) -> str:
    """The text with the server's addresses turned into the names of files."""
    return _URI.sub(lambda found: folder + _name(found[0]), text)


def _skill(rows: str, *, published: bool) -> str:
    model = examples.default_model()
    rules = "\n".join(f"- {rule}" for rule in prompting.RULES)
    languages = ", ".join(f"{language.title} (`quickstart-{name}.md`)" for name, language in examples.LANGUAGES.items())
    return f"""---
name: {facts.NAME}
description: {json.dumps(DESCRIPTION)}
license: {facts.project()["license"]}
metadata:
  version: {json.dumps(facts.project()["version"])}
---

# FLUX.2 in an application

Read the quickstart and the schema before you write a line: the quickstart runs as it is, and a field that the schema lacks
does not exist. All files are in `references/`.

## Set-up

1. **Key.** The user makes one at runapi.ai, API keys. It goes into `RUNAPI_API_KEY` of the server's environment: never into
   code, a browser, or the repository. The base URL is read from `RUNAPI_BASE_URL`, so that the sandbox can stand in.
2. **Model.** `{model.id}` unless there is a reason: see Models. Its body is `{model.id}.request.schema.json`, exactly.
3. **Code.** Start from the quickstart in the application's language: {languages}.
4. **Keep what it keeps.** One `Idempotency-Key` for each image, stored before the first call, and the same key on every
   retry: it is what makes a paid call safe. `Retry-After`. Only `completed` is success. Save each image at once: its URL dies.
5. **Waiting.** A web request must not wait for an image. Store action and id, then `polling.md` or `webhook.md`.
6. **Money.** Each image is paid: limit what users may spend, and show a price before. `prices.md`. Failed ones cost nothing.
7. **Test without spending.** `flux2-mcp sandbox` serves the same HTTP on loopback, and markers in a prompt play each fault:
   `sandbox.md`. {words.setup(published=published)}
8. **Errors.** `errors.md` says for each status whether to try again, and what to do.

## Models

{_linked(reference.models_table(), "references/")}

## Prompts

{rules}

More, with examples and ratios by use: `prompting.md`.

## References

| file | what it holds |
| --- | --- |
{rows}

## Images for this session

To make an image now instead of building something that makes them: with the tools of the server `{facts.NAME}`, where it is
connected. For more than three images, or "the project's images", write `flux2.toml` (`{_name(uris.MANIFEST_SCHEMA)}`) and call
`check_pricing`, then `generate` with `manifest`: the project keeps which prompt made which file.

{words.tools()}
"""
