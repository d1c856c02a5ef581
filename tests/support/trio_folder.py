"""trio, fetched once into the user's cache: httpcore2 imports it wherever it is installed, for 0.1 s at each start."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import platformdirs

TRIO = "trio==0.35.0"
INSTALL_SECONDS = 120


@cache
def fetched() -> Path | str:
    """The folder for PYTHONPATH, or why there is none."""
    folder = (
        platformdirs.user_cache_path("flux2-mcp-tests") / f"{TRIO}-{sys.version_info.major}.{sys.version_info.minor}"
    )
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder.parent))
        uv = Path(sys.executable).with_name("uv")
        try:
            subprocess.run(
                [uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", fresh, TRIO],
                check=True,
                capture_output=True,
                timeout=INSTALL_SECONDS,
            )
            fresh.rename(folder)
        except (subprocess.SubprocessError, OSError) as exc:
            shutil.rmtree(fresh, ignore_errors=True)
            if not folder.exists():  # else another worker was faster
                return f"uv could not fetch {TRIO}: {exc}"
    return folder
