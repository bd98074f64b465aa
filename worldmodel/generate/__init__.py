"""The language model's part of a world: prompts, retrieval, outcome and body. Start with `holes.py`."""
