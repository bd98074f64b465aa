"""Everything that learns: base model, sampling, the LoRA learner, rollouts, RULER, GRPO, evaluation, adapters."""

import os

# oneDNN keeps a compiled primitive for every shape it has met. The learner's shapes are few (LENGTHS in learner.py) and
# all fit here: with 64 a fifth of the time went into compiling them again. Without a bound, and with batches of any
# shape, a training process grew past 10 GiB. Both are read at the first product, so they are set here.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "1024")
os.environ.setdefault("LRU_CACHE_CAPACITY", "1024")
