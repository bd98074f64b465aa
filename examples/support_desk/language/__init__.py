"""The messages of customers and agent, and the rules that read them."""
