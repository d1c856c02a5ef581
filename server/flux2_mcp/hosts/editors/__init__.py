"""Editors of JSON, JSONC and TOML that keep the rest of a file as it is."""
