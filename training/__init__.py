"""Everything that learns: base model, sampling, the LoRA learner, rollouts, RULER, GRPO, evaluation, adapters."""
