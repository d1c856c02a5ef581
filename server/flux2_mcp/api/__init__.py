"""The client for Python programs: an async one, a sync one over it, and their results.

`flux2_mcp` itself shows it: `from flux2_mcp import Flux2Client`. docs/python.md shows how it is used.

Face: `client`, `errors`, `results`, `sync`.
"""
