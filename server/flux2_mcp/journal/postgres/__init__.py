"""The journal in a PostgreSQL database, shared by every process that has its address."""
