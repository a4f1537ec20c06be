"""The logits processors of the engine, and the chain that a request makes of them."""
