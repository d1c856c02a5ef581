"""Tests over made-up input, led by the coverage they reach: python -m bench.guided [--seconds 60]. Needs atheris (`make fuzz-guided`).

Each test of `tests/contract/test_hostile.py` in a process of its own, as libFuzzer wants it. Exits with 1 where one broke, after
printing what broke it.
"""

from __future__ import annotations

import argparse
import inspect
import subprocess
import sys

TESTS = "tests.contract.test_hostile"


def fuzz(name: str, seconds: int) -> None:
    """Run one test for so long; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["flux2_mcp"]):
        module = __import__(TESTS, fromlist=[name])
    # Short input makes no example: lengths are not to grow from nothing.
    atheris.Setup(
        [sys.argv[0], f"-max_total_time={seconds}", "-max_len=4096", "-len_control=0"],
        getattr(module, name).hypothesis.fuzz_one_input,
    )
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each test")
    parser.add_argument("--test", help="only this one, in this process")
    options = parser.parse_args()
    if options.test:
        fuzz(options.test, options.seconds)
        return
    module = __import__(TESTS, fromlist=["*"])
    # What is parametrised has an argument that only pytest gives.
    names = [
        name
        for name, test in vars(module).items()
        if name.startswith("test_") and not any(mark.name == "parametrize" for mark in getattr(test, "pytestmark", ()))
    ]
    assert all(inspect.isfunction(getattr(module, name)) for name in names)
    broke = [name for name in names if _run(name, options.seconds)]
    print(f"{len(names)} tests, {options.seconds} s each; broke: {', '.join(broke) or 'none'}")
    sys.exit(1 if broke else 0)


def _run(name: str, seconds: int) -> int:
    print(name, flush=True)
    return subprocess.run(
        [sys.executable, "-m", "bench.guided", "--test", name, "--seconds", str(seconds)], check=False
    ).returncode


if __name__ == "__main__":
    main()
