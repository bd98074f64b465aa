"""The engine protocol: token ids in, token ids and log-probabilities out. Adapters have versioned names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ingest.errors import UserError
from training.engines.grammar import Grammar


class TooLong(UserError):
    """A request is longer than the base's context. Beyond it a model answers without an error, and at random."""


@dataclass(frozen=True)
class Sampling:
    """How to sample. Temperature 0 is greedy. Tokens whose probability is below `min_p` times the largest one are not
    sampled (arXiv 2407.01082). Equal seeds give equal samples, whatever else is in the batch.

    `learned`: the log-probabilities are used for training, so they must be those of the sampling distribution,
    temperature and min_p included. An engine that cannot provide them raises UserError. `grammar`: only tokens that its
    JSON schema allows are sampled; the log-probabilities are still the model's own."""

    max_tokens: int = 256
    temperature: float = 1.0
    stop_ids: tuple[int, ...] = ()
    seed: int | None = None
    min_p: float = 0.0
    learned: bool = False
    grammar: Grammar | None = None

    def check_whole(self, engine: str) -> None:
        """Raise UserError unless sampling is at temperature 1 over all tokens; for engines that only report that."""
        if self.learned and (self.temperature != 1.0 or self.min_p):
            raise UserError(
                f"{engine} gives log-probabilities at temperature 1 over all tokens, but practice samples at "
                f"temperature {self.temperature} with min_p {self.min_p}; gradients would be of another distribution. "
                "Set train.temperature to 1 and train.min_p to 0, or run vLLM in this process (no vllm.server)"
            )


@dataclass(frozen=True)
class Sample:
    """A sampled continuation. `ids` ends with the stop id if one was sampled. `logprobs` are the log-probabilities of
    these ids: if `learned`, of the sampling distribution; otherwise the model's own (temperature 1, all tokens) where
    the engine can tell them apart. `adapter` is the version that sampled them."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    adapter: str | None


class Engine(Protocol):
    """A base model with run-time adapters. All calls can run concurrently; the engine batches them."""

    async def sample(self, prompt_ids: Sequence[int], *, adapter: str | None, sampling: Sampling) -> Sample:
        """Continue a prompt until a stop id or `max_tokens`."""
        ...

    async def next_token_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: str | None
    ) -> tuple[float, ...]:
        """Log-probabilities of the given tokens as the next token."""
        ...

    async def score(
        self, prompt_ids: Sequence[int], completion_ids: Sequence[int], *, adapter: str | None
    ) -> tuple[float, ...]:
        """Log-probabilities of each token of a given continuation."""
        ...

    def load_adapter(self, name: str, path: Path) -> None:
        """Load a peft directory under a versioned name such as `policy@12`."""
        ...

    def unload_adapter(self, name: str) -> None:
        """Unload an adapter. Running requests keep it."""
        ...

    def clear_cache(self) -> None:
        """Remove stored prefixes. Later results then depend on later requests only, to the last digit (transformers);
        vLLM's batches vary in the last digit anyway."""
        ...

    async def close(self) -> None:
        """Stop the engine. Waiting requests fail."""
        ...
