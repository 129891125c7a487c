"""Take in decisions, outcomes and feedback durably and once; compute rewards; join."""
