"""Training LoRAs: what a run learns from, and the run itself."""
