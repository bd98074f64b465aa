"""Batches, losses, the LoRA learner and supervised fits. Start with `learner.py`."""
