"""The embedded RunAPI: the same paths, shapes, headers and state machine, over loopback HTTP, without key or network.

Other rooms start `server.Sandbox`. Before that, they import only `scenarios`.

Face: `scenarios`, `server`.
"""
