"""`python -m tests.support.timed COMMAND ...` runs a command, and says at its end what it took.

Processor time is user and system time of the command and of everything that it started and waited for.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time


def main(command: list[str]) -> int:
    """Run the command; gives its exit code."""
    began = time.monotonic()
    code = subprocess.run(command, check=False).returncode
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    sys.stderr.write(
        f"{time.monotonic() - began:.0f} s, and {used.ru_utime + used.ru_stime:.0f} s of processor time"
        f" ({used.ru_utime:.0f} user, {used.ru_stime:.0f} system)\n"
    )
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
