"""The users of a world."""
