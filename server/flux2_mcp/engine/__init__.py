"""One task from the wish to the file: submit, poll, fetch, wait, resume."""
