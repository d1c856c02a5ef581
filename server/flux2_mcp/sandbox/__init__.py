"""The embedded RunAPI: the same paths, shapes, headers and state machine, over loopback HTTP, without a key or a network.

`server.Sandbox` is what others start; nothing but the scenarios is imported before that.

Face: `scenarios`, `server`.
"""
