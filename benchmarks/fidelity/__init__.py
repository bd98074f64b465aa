"""How true worlds are, and what that costs: error rates, replay transfer, retrieval."""
