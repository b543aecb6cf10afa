"""Prefect flows: the slow loops around the stream; thin."""
