"""The results of calls: typed, and in words."""
