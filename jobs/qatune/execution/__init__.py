"""Runs the code of answers against tests: by nobody trusted, so with nothing within its reach."""
