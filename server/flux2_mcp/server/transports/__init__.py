"""The ways to this server. `early` is imported through this file, so it imports nothing."""
