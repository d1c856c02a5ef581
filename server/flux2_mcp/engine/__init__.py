"""One task from the request to the file on disk: submit, poll, fetch, wait, resume.

Face: `account`, `adopt`, `applied`, `apply`, `backend`, `confirmation`, `health`, `live_prices`, `manifest_quotes`, `project`, `pruning`, `seam`, `service`, `submission`, `team`, `waiting`.
"""
