"""Editors of JSON, JSONC and TOML that leave the rest of a file unchanged."""
