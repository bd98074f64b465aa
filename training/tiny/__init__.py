"""Everything that exists only for the shipped tiny base: weights, fused passes, pre-training."""
