"""The transports of this server. `early` is imported through this file, so this file imports nothing."""
