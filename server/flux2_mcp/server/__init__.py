"""The MCP server. `early` is imported through this file, so it imports nothing.

Face: `app`, `results.account`, `results.catalog`, `results.tasks`, `transports.bearer`, `transports.early`, `transports.readable`, `transports.stdio`, `viewer.app`.
"""
