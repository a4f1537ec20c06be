"""Tools that a model calls in chat: what there is, who may run it, and the rounds of a reply."""
