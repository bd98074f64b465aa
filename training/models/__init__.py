"""The base model, its chat format, and LoRA adapters on it. Start with `base.py`."""
