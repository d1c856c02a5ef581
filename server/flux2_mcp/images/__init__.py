"""Picture files: a finished image comes to disk whole, checked, under a name a person can read, and from there to where it is wanted.

Face: `download`, `names`, `preview`, `size_check`, `upright`, `workspace`.
"""

from __future__ import annotations
