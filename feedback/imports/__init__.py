"""Other systems' logs as decisions, outcomes and feedback; each format is one module, and pure."""
