"""Sampling for all rows of a decode step at once, on the device and without waiting for it."""
