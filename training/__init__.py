"""Everything that learns: base model, sampling, the LoRA learner, rollouts, RULER, GRPO, evaluation, adapters."""

import logging
import os

# oneDNN keeps a compiled primitive, up to a MiB, for every shape it has met: without a bound, and with batches of any
# shape, a process grew past 10 GiB. The learner's shapes are few (LENGTHS in learner.py), and this many hold the common
# ones: with 64 a fifth of the time went into compiling them again. Both are read at the first product, so they are set
# here.
COMPILED = 256
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(COMPILED))
os.environ.setdefault("LRU_CACHE_CAPACITY", str(COMPILED))

# peft imports bitsandbytes where it is installed, which then warns about an optional kernel for CPUs on every start.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
