"""One task from the request to the file on disk: submit, poll, fetch, wait, resume.

Face: `account`, `adopt`, `applied`, `apply`, `audited`, `backend`, `confirmation`, `health`, `live_prices`, `manifest_quotes`, `project`, `pruning`, `remote_files`, `seam`, `service`, `submission`, `team`, `waiting`.
"""
