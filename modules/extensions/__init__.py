"""Extensions: the hooks that they may declare, and the manager that keeps them apart."""
