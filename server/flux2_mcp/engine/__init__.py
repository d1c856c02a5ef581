"""One task from the wish to the file: submit, poll, fetch, wait, resume.

Face: `account`, `backend`, `confirmation`, `live_prices`, `pruning`, `seam`, `service`, `submission`, `waiting`.
"""
