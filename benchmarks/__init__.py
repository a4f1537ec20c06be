"""Measurements; each is run by itself, as `python -m benchmarks.decode` or by its file's path."""
