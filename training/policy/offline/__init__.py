"""Training without a world: from recorded conversations and their outcomes."""
