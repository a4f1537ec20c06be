"""Quantized linear layers: their formats on disk, their one form in memory, their quantizers."""
