"""The language model's part of a world: prompts, retrieval, outcome and body. Start with `by_model.py`."""
