"""How rehearsal-tiny came to be: a copying curriculum, then procedurally generated tool worlds (docs/tiny.md)."""
