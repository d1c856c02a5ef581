"""Programs from npm that test the server from outside: fetched once into the user's cache, in the versions that are named."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import platformdirs

INSTALL_SECONDS = 180
NODE = {"node": "22.23.3"}
"""A Node for what wants a newer one than many systems have. Its package fetches the binary by a script."""
NODE_BINARY = Path("node", "bin", "node")


def fetched(packages: Mapping[str, str], *, scripts: bool = False) -> Path | str:
    """The folder with the packages, or why there is none.

    Args:
        packages: Names and exact versions.
        scripts: Whether their install scripts may run.
    """
    return _fetched(json.dumps(dict(packages), sort_keys=True), scripts=scripts)


@cache
def _fetched(named: str, *, scripts: bool) -> Path | str:
    if (npm := shutil.which("npm")) is None:
        return "npm is not installed"
    folder = platformdirs.user_cache_path("flux2-mcp-tests") / hashlib.sha256(named.encode()).hexdigest()[:16]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder.parent))
        options = [
            "--no-audit",
            "--no-fund",
            "--no-save",
            "--fetch-retries=1",
            *([] if scripts else ["--ignore-scripts"]),
        ]
        packages = [f"{package}@{version}" for package, version in json.loads(named).items()]
        try:
            subprocess.run(
                [npm, "install", "--prefix", str(fresh), *options, *packages],
                check=True,
                capture_output=True,
                timeout=INSTALL_SECONDS,
            )
            fresh.rename(folder)
        except (subprocess.SubprocessError, OSError) as exc:
            shutil.rmtree(fresh, ignore_errors=True)
            if not folder.exists():  # else another worker was faster
                return f"npm could not fetch {', '.join(packages)}: {exc}"
    return folder / "node_modules"
