"""Requests, sampling parameters, and the client that reaches a loaded model."""
