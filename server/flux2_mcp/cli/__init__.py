"""The command line: one command a file, over the same service as the tools.

Face: `main`.
"""

from __future__ import annotations
