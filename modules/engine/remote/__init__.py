"""The engine whose model a server elsewhere has: vLLM, SGLang, another Lantern, and their like."""
