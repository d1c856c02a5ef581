"""The machine: files, logs, a SQLite file, local HTTP, turns. This room knows nothing of images or tasks.

Face: all of it.
"""
