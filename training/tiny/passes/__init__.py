"""Forward and backward passes for small Llama-like models on a CPU."""
