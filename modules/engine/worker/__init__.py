"""The engine worker: the process that holds the model. Nothing else imports this room."""
