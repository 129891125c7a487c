"""A simulated model pool: tables of real outcomes, a synthetic world, and a server that plays it."""
