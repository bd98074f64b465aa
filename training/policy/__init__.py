"""The policy: clone, rollouts, GRPO, evaluation, gate and registry. Start with `grpo.py`."""
