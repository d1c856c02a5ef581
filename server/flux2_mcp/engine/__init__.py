"""One task from the request to the file on disk: submit, poll, fetch, wait, resume.

Face: `account`, `backend`, `confirmation`, `live_prices`, `pruning`, `seam`, `service`, `submission`, `waiting`.
"""
