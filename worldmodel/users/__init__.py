"""The human side of a world."""
