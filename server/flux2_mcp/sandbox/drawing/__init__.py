"""The pictures of the sandbox: drawn from a prompt, cut out, enlarged.

Face: `cut_out`, `draw`, `enlarge`.
"""
