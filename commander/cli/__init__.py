"""The `commander` command: thin, over the HTTP API; it never opens the database."""
