"""The journal in a SQLite file under FLUX2_HOME."""
