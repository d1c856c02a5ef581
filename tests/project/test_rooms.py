"""Each room shows its face, and other rooms import nothing else of it. The layers are import-linter's; this is what they leave open."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import flux2_mcp
from tests.support.rows import rows

PACKAGE = "flux2_mcp"
HERE = Path(flux2_mcp.__file__).parent
ROOT = Path(__file__).parents[2]
ALL = ("all of it",)
IMPORT = re.compile(rf"from ({PACKAGE}[\w.]*) import (\w+(?: as \w+)?(?:, \w+(?: as \w+)?)*)")
FACES: Mapping[str, tuple[str, ...]] = {
    "cli": ("main",),
    "api": ("client", "errors", "results", "sync"),
    "server": (
        "app", "http", "results.account", "results.apply", "results.catalog", "results.plan", "results.task_words", "results.tasks", "results.team",
        "sdk",        "team.serve", "transports.bearer", "transports.early", "transports.sleep", "transports.stdio", "viewer.app",
    ),
    "engine": (
        "account", "adopt", "applied", "apply", "audited", "backend", "confirmation", "health", "live_prices", "manifest_quotes", "project", "pruning", "remote_files", "seam",
        "service", "submission", "team", "waiting",
    ),
    "runapi": (
        "causes", "client", "exchange", "key_file", "key_place", "login.callback", "login.pkce", "login.provider", "login.redeem", "responses", "retry", "transport", "wire",
    ),
    "images": ("derive", "download", "names", "preview", "size_check", "store", "thumbnails", "upright", "workspace"),
    "journal": ("journal", "contract", "team_contract", "listed", "records", "watch"),
    "sandbox": ("scenarios", "server"),
    "sandbox.drawing": ("cut_out", "draw", "enlarge"),
    "hosts": ("command", "editors.jsonc", "entry", "files", "links", "places", "plan", "switches", "table"),
    "domain": ALL,
    "system": ALL,
}  # fmt: skip
"""What other rooms may import of a room: modules, its own name for what its `__init__` holds. A room's docstring says the same."""


@cache
def modules() -> Mapping[str, Path]:
    """Every module by its name below the package."""
    found = {".".join(path.relative_to(HERE).with_suffix("").parts): path for path in HERE.rglob("*.py")}
    return {name.removesuffix("__init__").removesuffix("."): path for name, path in found.items()}


@cache
def imports() -> tuple[tuple[str, str, str], ...]:
    """Who imports which module of ours, and what of it; nothing where it is the module itself."""
    return tuple(each for name, path in modules().items() for each in _imports(name, path))


def _imports(name: str, path: Path) -> Iterator[tuple[str, str, str]]:
    for node in _statements(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((name, _below(alias.name), "") for alias in node.names if _ours(alias.name))
        elif isinstance(node, ast.ImportFrom) and _ours(node.module or ""):
            module = _below(node.module or "")
            for alias in node.names:
                inner = f"{module}.{alias.name}".removeprefix(".")
                yield (name, inner, "") if inner in modules() else (name, module, alias.name)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every statement below: of all nodes they are one in ten, and the others import nothing."""
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        below = getattr(node, part, ())
        for each in below if isinstance(below, list) else ():
            yield each
            yield from _statements(each)


def _ours(module: str) -> bool:
    return module.split(".", maxsplit=1)[0] == PACKAGE


def _below(module: str) -> str:
    return module.removeprefix(PACKAGE).removeprefix(".")


def _in(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


@rows("room", FACES)
def test_of_a_room_others_import_its_face_alone(room: str) -> None:
    face = {room if name == room else f"{room}.{name}" for name in FACES[room]}
    hidden = [
        f"{importer} imports {module}"
        for importer, module, _ in imports()
        if _in(module, room) and not _in(importer, room) and module not in face and FACES[room] != ALL
    ]
    assert hidden == []


def test_what_begins_with_an_underscore_is_imported_nowhere_else() -> None:
    found = [
        f"{importer} imports {name or 'all'} of {module}"
        for importer, module, name in imports()
        if any(part.startswith("_") and not part.endswith("__") for part in (*module.split("."), name))
        and importer.split(".")[0] != module.split(".")[0]
    ]
    assert found == []


@rows("room", FACES)
def test_a_room_says_what_its_face_is(room: str) -> None:
    docstring = ast.get_docstring(ast.parse((HERE / room.replace(".", "/") / "__init__.py").read_text("utf-8"))) or ""
    [said] = re.findall(r"Face: (.+)\.$", docstring, re.MULTILINE)
    assert said == ", ".join(FACES[room] if FACES[room] == ALL else [f"`{name}`" for name in FACES[room]])


def test_every_folder_at_the_top_is_a_room_and_every_face_is_there() -> None:
    folders = {name.split(".")[0] for name, path in modules().items() if path.parent != HERE}
    assert folders == {room for room in FACES if "." not in room}
    shown = {f"{room}.{name}" for room, face in FACES.items() for name in face if face != ALL and name != room}
    assert shown - set(modules()) == set()


def test_code_that_stands_as_text_imports_what_is_there() -> None:
    """Tests and benches start processes with lines of code: no linter reads them. What it does read is looked at here, too."""
    lost = []
    for path in (path for folder in ("bench", "packages", "tests") for path in (ROOT / folder).rglob("*.py")):
        for module, names in set(IMPORT.findall(path.read_text("utf-8"))):
            for name in names.split(","):
                wanted = name.split(" as ")[0].strip()
                if _below(f"{module}.{wanted}") not in modules() and not hasattr(import_module(module), wanted):
                    lost.append(f"{path.relative_to(ROOT)}: {module}.{wanted}")
    assert [each for each in lost if not each.endswith("._hidden")] == []


def test_no_file_of_the_package_is_longer_than_a_reader_keeps_in_mind() -> None:
    """Data is not read from top to bottom."""
    code = [path for path in (ROOT / "server").rglob("*") if path.suffix in {".py", ".html", ".css", ".js"}]
    assert len(code) > 200
    lines = {str(path.relative_to(ROOT)): path.read_text("utf-8").count("\n") for path in code}
    assert {name: count for name, count in lines.items() if count > 500} == {}


@pytest.mark.deep  # test_nothing_heavy_is_imported_before_it_is_needed looks for these, too
def test_a_server_for_one_person_loads_nothing_of_a_team() -> None:
    """It would cost each start of a host's server."""
    code = "import sys, flux2_mcp.server.app, flux2_mcp.engine.service; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "flux2_mcp.engine.service" in loaded
    team = {
        "prometheus_client", "jwt", "psycopg", "obstore", "flux2_mcp.images.object_store", "flux2_mcp.domain.people", "flux2_mcp.domain.audit", "flux2_mcp.engine.health",
        "flux2_mcp.engine.audited", "flux2_mcp.engine.team", "flux2_mcp.journal.team_contract", "flux2_mcp.journal.sql.audit", "flux2_mcp.system.turns",
    }  # fmt: skip
    assert [name for name in loaded if name in team or name.startswith("flux2_mcp.server.team")] == []
