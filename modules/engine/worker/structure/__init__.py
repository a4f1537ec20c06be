"""Replies that keep to a form: a JSON schema, a regular expression, a grammar."""
