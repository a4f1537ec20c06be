"""Checkpoints: what they are, whether they are safe, how they arrive and become models."""
