"""What customers and the agent say, and how each understands the other."""
