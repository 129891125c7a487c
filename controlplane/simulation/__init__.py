"""A simulated model pool, the worlds that it plays, and the traffic that asks it."""
