"""The language of customers and agent: what they write, and how their messages are read."""
