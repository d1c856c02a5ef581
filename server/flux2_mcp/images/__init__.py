"""Picture files: stores a finished image whole, checked and under a readable name, and copies it into the workspace.

Face: `derive`, `download`, `names`, `preview`, `size_check`, `store`, `thumbnails`, `upright`, `workspace`.
"""

from __future__ import annotations
