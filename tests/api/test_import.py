"""An import of the package loads next to nothing, and a client loads no server. In milliseconds: python -m bench.api."""

from __future__ import annotations

import subprocess
import sys


def loaded_by(code: str) -> set[str]:
    """The modules that a line of code loads beside those of a bare interpreter."""
    bare, ours = (
        subprocess.run(
            [sys.executable, "-c", f"import sys\n{line}\nprint(*sys.modules)"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.split()
        for line in ("", code)
    )
    return set(ours) - set(bare)


def test_an_import_of_the_package_loads_itself_alone() -> None:
    assert loaded_by("import flux2_mcp") == {"flux2_mcp", "__future__"}
    assert loaded_by("import flux2_mcp; dir(flux2_mcp); flux2_mcp.__all__") == {"flux2_mcp", "__future__"}


def test_a_client_loads_neither_the_server_nor_what_only_that_needs() -> None:
    loaded = loaded_by("from flux2_mcp import Flux2Client; client = Flux2Client(environ={'HOME': '/tmp'})")
    assert not {name for name in loaded if name.startswith(("flux2_mcp.server", "flux2_mcp.cli", "flux2_mcp.sandbox"))}
    assert not loaded & {
        "mcp",
        "pydantic",
        "starlette",
        "uvicorn",
        "click",
        "httpx",
        "httpx2",
        "sqlite3",
        "psycopg",
        "obstore",
        "PIL.Image",
        "trio",
    }
