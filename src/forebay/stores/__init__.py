"""The stores: memory, SQLite, Redis. Each is imported only when a URL asks for it."""
