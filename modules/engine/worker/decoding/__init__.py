"""Methods of decoding: what becomes of the logits that the runner computes."""
