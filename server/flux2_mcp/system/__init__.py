"""The machine: files, logs, a SQLite file, local HTTP. Knows nothing of images or tasks.

Face: all of it.
"""
