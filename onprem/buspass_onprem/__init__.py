"""The on-prem host: server, SQLite, files, keys and secrets."""
