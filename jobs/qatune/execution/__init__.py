"""Runs the code of answers against tests: by nobody trusted, so with nothing within its reach."""

MOST_PARALLEL = 64
"""So many programs at a time a sandbox may offer: evaluate starts a thread for each."""
