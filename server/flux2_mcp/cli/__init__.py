"""The command line: one file for each command, over the same service as the tools.

Face: `main`.
"""

from __future__ import annotations
