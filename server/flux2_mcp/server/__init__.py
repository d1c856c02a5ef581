"""The MCP server. `early` is imported through this file, so it imports nothing.

Face: `app`, `http`, `results.account`, `results.apply`, `results.catalog`, `results.plan`, `results.task_words`, `results.tasks`, `results.team`, `sdk`, `team.serve`, `transports.bearer`, `transports.early`, `transports.sleep`, `transports.stdio`, `viewer.app`.
"""
