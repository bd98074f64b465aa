"""All that exists only for the shipped tiny base: its weights, fused passes, and pre-training."""
