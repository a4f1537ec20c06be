"""The process that trains: everything of a run that needs torch."""
