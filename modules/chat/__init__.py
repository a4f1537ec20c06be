"""Conversations: messages, their durable store, prompts, and replies in progress."""
