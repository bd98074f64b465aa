"""Learning: base model, sampling engines, the LoRA learner, rollouts, RULER, GRPO, evaluation, adapters."""

import logging
import os

# oneDNN caches a compiled primitive (up to 1 MiB) per shape. Without a bound a process with batches of many shapes grew
# past 10 GiB. The learner uses few shapes (LENGTHS in learner.py), and this capacity holds the common ones; with 64, a
# fifth of the time went into recompilation. Both variables are read at the first matrix product, so they are set here.
COMPILED = 256
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(COMPILED))
os.environ.setdefault("LRU_CACHE_CAPACITY", str(COMPILED))

# If bitsandbytes is installed, peft imports it, and it then warns about an optional CPU kernel on every start.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
