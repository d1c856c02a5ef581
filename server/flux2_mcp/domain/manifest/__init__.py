"""Images as code: which pictures a project has (flux2.toml), which request made which file (flux2.lock), what is to do.

All of it is pure: the caller reads the files, and hands in what is on disk.
"""

from __future__ import annotations
