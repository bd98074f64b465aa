"""Pre-training of rehearsal-tiny: a copying curriculum, then procedurally generated tool worlds (docs/tiny.md)."""
