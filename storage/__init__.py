"""Every SQL statement, the engine, and the embedded Postgres and Redis."""
