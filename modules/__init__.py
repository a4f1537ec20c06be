"""Lantern: chat with local language models, and train LoRAs on them, in a web page."""
