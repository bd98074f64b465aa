"""Real agents in real environments: what the demo runs and what the proof is measured on."""
