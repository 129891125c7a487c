"""Pure algorithms and the nouns they speak: no I/O, no clock, no global randomness."""
