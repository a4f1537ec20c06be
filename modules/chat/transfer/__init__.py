"""Chats in files: what is written, and what is read."""
