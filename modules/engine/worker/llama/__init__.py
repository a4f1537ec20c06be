"""The fast runner for models of the Llama family."""
