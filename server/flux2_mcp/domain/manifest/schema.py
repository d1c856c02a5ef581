"""The JSON Schema of flux2.toml, from the same tables that its reader has; editors complete and check with it."""

from __future__ import annotations

from typing import Any, Final

from flux2_mcp.domain import catalog, finishing
from flux2_mcp.domain.manifest.entries import FORMATS, SUFFIXES
from flux2_mcp.domain.manifest.reading import MAX_ENTRIES, MAX_WIDTH_PX, MAX_WIDTHS

URI: Final = "flux2://docs/flux2.schema.json"
FILE: Final = "flux2.schema.json"
"""The name under which the documents keep the schema beside flux2.toml."""
COMMENT: Final = f"#:schema ./{FILE}"
"""The first line of a flux2.toml from which Taplo, and editors with it, know the schema."""
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """Return the schema."""
    return {
        "$schema": DIALECT,
        "$id": URI,
        "title": "flux2.toml: the pictures of a project",
        "description": "flux2-mcp plan tells what is to do, flux2-mcp apply does it.",
        "type": "object",
        "properties": {
            "style": _table(
                "Goes into the request of each picture that has a prompt, unless that says style = false.",
                {
                    "prompt": _text("Stands after each picture's own prompt."),
                    "sources": _sources("Makes each picture a remix of these, too."),
                    "embed_prompt": _flag("Files that are made from a picture hold its prompt.", default=False),
                },
            ),
            "images": {
                "description": "By the path of the picture, from the folder of this file.",
                "type": "object",
                "maxProperties": MAX_ENTRIES,
                "propertyNames": {"pattern": _suffixed(), "not": {"pattern": r"^[/~]|\\|(^|/)\.\.?(/|$)"}},
                "additionalProperties": _table("One picture.", _image()),
            },
        },
        "additionalProperties": False,
    }


def _image() -> dict[str, Any]:
    steps = finishing.arguments()
    prompt = next(iter(catalog.models().values())).fields["prompt"]
    return {
        "prompt": _text("What to make. Without one, the only source is finished as it is.")
        | {"minLength": prompt.low, "maxLength": prompt.high},
        "sources": _sources("Makes it a remix: files in the project, pictures of other entries, https URLs."),
        "style": _flag("Whether [style] goes into it.", default=True),
        "variant": _text("A variant's name, or a model id.")
        | {"examples": list(catalog.variants()), "default": catalog.DEFAULT_VARIANT},
        "aspect_ratio": _one_of("Its shape; without sources 1:1.", catalog.allowed_values("aspect_ratio")),
        "output_resolution": _one_of("Its size.", catalog.allowed_values("output_resolution"))
        | {"default": catalog.DEFAULT_RESOLUTION},
        "background": _one_of("transparent: only the subject; paid.", steps["background"]),
        "upscale": _one_of("So many times larger; paid.", steps["upscale"]),
        "enable_safety_checker": _flag("Moderation; not every variant has it."),
        "widths": {
            "description": "Copies of these widths in pixels, made on this machine for nothing: hero-640.webp. None is enlarged.",
            "type": "array",
            "maxItems": MAX_WIDTHS,
            "uniqueItems": True,
            "items": {"type": "integer", "minimum": 1, "maximum": MAX_WIDTH_PX},
        },
        "formats": {
            "description": "The formats of the copies.",
            "type": "array",
            "uniqueItems": True,
            "items": {"enum": list(FORMATS)},
        },
        "icons": _flag(
            "Make an icon set of it: favicon, apple-touch-icon, the sizes that web apps name.", default=False
        ),
    }


def _table(description: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": description,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _text(description: str) -> dict[str, Any]:
    return {"description": description, "type": "string", "pattern": r"\S"}


def _flag(description: str, *, default: bool | None = None) -> dict[str, Any]:
    return {"description": description, "type": "boolean"} | ({} if default is None else {"default": default})


def _one_of(description: str, values: list[Any]) -> dict[str, Any]:
    return {"description": description, "enum": values}


def _sources(description: str) -> dict[str, Any]:
    return {"description": description, "type": "array", "items": {"type": "string", "minLength": 1}}


def _suffixed() -> str:
    """Return a pattern of paths that end as pictures do, in upper or lower case."""
    ends = ("".join(f"[{char}{char.upper()}]" for char in suffix[1:]) for suffix in SUFFIXES)
    return rf"\.({'|'.join(ends)})$"
