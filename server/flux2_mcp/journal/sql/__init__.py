"""The parts of the journal whose SQL both databases read. What differs stands in `sqlite` and `postgres`."""
