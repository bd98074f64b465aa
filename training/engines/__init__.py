"""Sampling behind one protocol: token ids in, token ids and log-probabilities out, adapters by versioned name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ingest.errors import UserError
from training.engines.grammar import Grammar


@dataclass(frozen=True)
class Sampling:
    """How to sample. Temperature 0 is greedy; tokens less likely than `min_p` times the likeliest are never drawn
    (arXiv 2407.01082); equal seeds give equal draws, whatever else is in the batch.

    `learned` says that the log-probabilities will be learned from: they must be those of the distribution that the
    tokens are drawn from, temperature and min_p included. An engine that cannot give them raises UserError. With a
    `grammar`, only tokens that its JSON schema allows are drawn; the log-probabilities are still the model's own."""

    max_tokens: int = 256
    temperature: float = 1.0
    stop_ids: tuple[int, ...] = ()
    seed: int | None = None
    min_p: float = 0.0
    learned: bool = False
    grammar: Grammar | None = None

    def check_whole(self, engine: str) -> None:
        """For engines whose log-probabilities are always of the whole distribution at temperature 1."""
        if self.learned and (self.temperature != 1.0 or self.min_p):
            raise UserError(
                f"{engine} gives log-probabilities at temperature 1 over all tokens, but practice draws at temperature "
                f"{self.temperature} with min_p {self.min_p}: the policy gradient would be of another distribution. "
                "Set train.temperature to 1 and train.min_p to 0, or use the engine 'transformers'"
            )


@dataclass(frozen=True)
class Sample:
    """What was sampled. `ids` ends with the stop id where there was one; `logprobs` are the model's own, at
    temperature 1 and over all tokens (those drawn from, where the sampling is `learned`), of exactly these ids;
    `adapter` is the version that wrote them."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    adapter: str | None


class Engine(Protocol):
    """A base model with run-time adapters. All calls may run concurrently; the engine batches them."""

    async def sample(self, prompt_ids: Sequence[int], *, adapter: str | None, sampling: Sampling) -> Sample:
        """Continue a prompt until a stop id or `max_tokens`."""
        ...

    async def next_token_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: str | None
    ) -> tuple[float, ...]:
        """Log-probabilities of the named tokens as the next one."""
        ...

    async def score(
        self, prompt_ids: Sequence[int], completion_ids: Sequence[int], *, adapter: str | None
    ) -> tuple[float, ...]:
        """Log-probabilities of a given continuation, token by token."""
        ...

    def load_adapter(self, name: str, path: Path) -> None:
        """Make a peft directory available under a versioned name such as `policy@12`."""
        ...

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Requests that already run keep it."""
        ...

    def clear_cache(self) -> None:
        """Forget stored prefixes, so that the next answers follow from the next requests alone, to the last digit
        where the engine can promise that (transformers; vLLM's own batches vary in it)."""
        ...

    async def close(self) -> None:
        """Stop; waiting requests fail."""
        ...
