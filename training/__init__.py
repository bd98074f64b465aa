"""Everything that learns: base model, sampling, the LoRA learner, rollouts, RULER, GRPO, evaluation, adapters."""

import os

# oneDNN keeps a compiled primitive for every shape it has met; with batches of many shapes a training process grew
# past 10 GiB (1.6 GiB with these, at the same speed). Both are read at the first product, so they are set here.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
