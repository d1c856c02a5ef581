"""The pictures of the sandbox.

Face: `draw`.
"""
