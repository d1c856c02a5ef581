"""Facts and rules about images, tasks and money. No I/O, no clock.

Face: all of it.
"""
