"""`make dist`: what was built holds what it must and no more, and the demo runs from the wheel alone.

Usage: python -m packages.dist FOLDER
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

from flux2_mcp.hosts.entry import PROGRAM
from packages import facts

PROMPT = "Generate a photorealistic studio portrait of an astronaut holding a cat, dramatic rim lighting, 8K detail."
OURS = "flux2_mcp"
MINUTES = 5


def check(wheel: Path, sdist: Path) -> str:
    """Hold both to the source. Tells what they hold in one line.

    Raises:
        AssertionError: A file is missing, or one too many.
    """
    source = facts.ROOT / "server" / OURS
    wanted = {
        f"{OURS}/{path.relative_to(source).as_posix()}"
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == wanted, f"the wheel and {source} differ in {sorted((names - about) ^ wanted)}"
    assert any(name.endswith("/licenses/LICENSE") for name in about), "the wheel has no LICENSE"
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    missing = {f"server/{name}" for name in wanted} - packed
    assert not missing, f"the sdist lacks {sorted(missing)}"
    return f"{wheel.name}: {len(names)} files; {sdist.name}: {len(packed)} files"


def demo(wheel: Path, folder: Path) -> str:
    """Install the wheel into an empty environment and make one image with an empty home. Gives what it printed."""
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    install = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel.resolve()]
    subprocess.run(list(map(str, install)), check=True, timeout=MINUTES * 60)
    (home := folder / "home").mkdir()
    done = subprocess.run(
        [str(programs / PROGRAM), "generate", PROMPT],
        env={"HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home), "FLUX2_SANDBOX_SPEED": "20"},
        cwd=folder, check=True, capture_output=True, text=True, timeout=MINUTES * 60,
    )  # fmt: skip
    images = [path for path in home.rglob("*.png") if "images" in path.parts]
    assert images, f"no image below {home}: {done.stdout}"
    return done.stdout


def main(folder: Path) -> None:
    [wheel], [sdist] = list(folder.glob("*.whl")), list(folder.glob("*.tar.gz"))
    print(check(wheel, sdist))
    with tempfile.TemporaryDirectory() as empty:
        print(demo(wheel, Path(empty)), end="")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
