"""Tests hand in what they control: none reaches into a private of ours, and none patches a name of ours.

A test that needs either shows an argument that is missing in the product. What stands in `LEFT` has its reason beside it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

TESTS = Path(__file__).parents[1]
OURS = "flux2_mcp"
SDKS_OWN = "the vendor's SDK gives no other way to close the connections that it opened"
A_PLACE_OF_ITS_OWN = "subprocess has no public place to make a process in another way, and to hear of its end"
LEFT: dict[str, str] = {
    "contract/test_vendor_sdk.py: made._http": SDKS_OWN,
    "contract/test_vendor_sdk.py: keyless._http": SDKS_OWN,
    "process/test_cli.py: client._http": SDKS_OWN,
    "process/test_team_http.py: client._http": SDKS_OWN,
    "support/forked.py: base._execute_child": A_PLACE_OF_ITS_OWN,
    "support/forked.py: base._internal_poll": A_PLACE_OF_ITS_OWN,
    "process/test_cli.py: monkeypatch.setattr(catalog_results, 'variants', None)": "a crash in the middle of a command of ours",
    "process/test_canary.py: flux2_mcp.runapi.client.RunApi.me": "a crash in the middle of a call, with the key in hand",
}
"""By file and text of the place: why it has to reach in."""
MAY_REACH = re.compile(r"\._(?!_)|\bsetattr\b|\bimport\b[^\n]*\b_(?!_)|^ +_(?!_)\w+( as \w+)?,$", re.MULTILINE)
"""A file without any of this is not read as code: that takes two seconds for all."""


def our_names(nodes: Sequence[ast.AST]) -> set[str]:
    """Names in a test that stand for modules or classes of ours."""
    return {
        alias.asname or alias.name.partition(".")[0]
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == OURS
        for alias in node.names
    }


def private_reaches(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Attributes with a leading underscore of anything but `self` and `cls`; names that the standard library gives are none."""
    given = {"_replace", "_asdict", "_fields", "_make"}
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            if not own and node.attr not in given:
                yield ast.unparse(node)


def private_imports(nodes: Sequence[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == OURS:
            yield from (
                alias.name
                for alias in node.names
                if alias.name.startswith("_") and alias.name not in {"__version__", "__main__"}
            )


def patches(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """`setattr(...)` on what is ours: a dotted path as text, or a module or class that the test imports."""
    ours = our_names(nodes)
    for node in nodes:
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr"):
            continue
        target = node.args[0] if node.args else None
        if isinstance(target, ast.Constant) and str(target.value).startswith(f"{OURS}."):
            yield str(target.value)
        elif target is not None and isinstance(root := root_of(target), ast.Name) and root.id in ours:
            yield ast.unparse(node)


def root_of(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node


def found() -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("*.py")):
        if not MAY_REACH.search(text := path.read_text("utf-8")):
            continue
        nodes = [*ast.walk(ast.parse(text))]
        reaches = [*private_reaches(nodes), *private_imports(nodes), *patches(nodes)]
        if reaches:
            places[str(path.relative_to(TESTS))] = reaches
    return places


def test_no_test_reaches_into_a_private_or_patches_what_is_ours() -> None:
    left = {f"{file}: {place}" for file, places in found().items() for place in places}
    assert left - LEFT.keys() == set()
    assert LEFT.keys() - left == set(), "what is mended goes out of the list"


def test_what_it_looks_for_is_found() -> None:
    text = (
        "from flux2_mcp.engine import runner\nfrom flux2_mcp.images.decode import _hidden\n"
        "monkeypatch.setattr('flux2_mcp.engine.runner.X', 1)\nmonkeypatch.setattr(runner, 'X', 1)\n"
        "monkeypatch.setattr(os, 'link', 1)\nservice._journal.find()\nself._own\n"
    )
    assert [line.rpartition(" ")[2] for line in text.splitlines() if not MAY_REACH.search(line)] == ["runner"]
    assert MAY_REACH.search("from flux2_mcp.images.decode import (\n    Picture,\n    _hidden as hidden,\n)\n")
    nodes = [*ast.walk(ast.parse(text))]
    assert [*private_reaches(nodes)] == ["service._journal"]
    assert [*private_imports(nodes)] == ["_hidden"]
    assert [*patches(nodes)] == ["flux2_mcp.engine.runner.X", "monkeypatch.setattr(runner, 'X', 1)"]
