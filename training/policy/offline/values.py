"""The value of an agent's turn: the expected outcome of the conversation, given everything up to the turn's end.

A LoRA adapter on the policy's base with one linear head. It is fitted by regression on recorded outcomes (Monte Carlo
returns of the agent that wrote the conversations), so it is that agent's multi-turn Q function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from training.learning.batch import Row, by_length, collate, epochs
from training.learning.deadline import Stop, never
from training.learning.presets import learning_rate
from training.models.base import Base
from training.models.devices import sharing_weights
from training.models.lora import LoraSettings, new_adapter


class ValueSettings(BaseModel):
    """The value model's adapter and budget."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lora: LoraSettings = Field(default_factory=LoraSettings, description="The adapter's shape.")
    learning_rate: float | None = Field(None, gt=0, description="Peak rate; null: a third of the base's preset.")
    max_tokens: int = Field(1_000_000, gt=0, description="Tokens to train on, prompts included, padding excluded.")
    max_epochs: float = Field(4.0, gt=0, description="Maximum number of epochs.")
    step_tokens: int = Field(4096, ge=64, description="Padded tokens per step.")
    evaluations: int = Field(6, ge=1, description="Number of held-out evaluations; the best weights are kept.")


@dataclass(frozen=True)
class ValueReport:
    """Quality on held-out turns: cross-entropy in nats of the model and of the training outcomes' mean, and the
    probability that a turn of a better conversation has the higher value (AUC; None if all outcomes are equal)."""

    turns: int
    cross_entropy: float
    base_rate_cross_entropy: float
    auc: float | None


class Value:
    """Q(history and turn) in [0, 1]. Rows have the conversation's outcome as their `advantage`."""

    def __init__(self, base: Base, settings: ValueSettings, mean: float, seed: int = 0) -> None:
        """`mean` is the mean outcome, which an untrained model predicts."""
        self.settings, self.pad_id = settings, base.format.pad_id
        self.model = new_adapter(sharing_weights(base.model), settings.lora, seed)
        own = cast(PreTrainedModel, self.model.base_model.model)
        embedding = cast(torch.Tensor, own.get_input_embeddings().weight)
        width, self.device, self.body = embedding.shape[1], embedding.device, own.get_decoder()
        self.head = nn.Linear(width, 1).to(self.device)
        nn.init.zeros_(self.head.weight)
        bounded = min(max(mean, 0.01), 0.99)
        nn.init.constant_(self.head.bias, math.log(bounded / (1 - bounded)))
        self.parameters = [*(p for p in self.model.parameters() if p.requires_grad), *self.head.parameters()]
        self.rate = settings.learning_rate or learning_rate(base.model, "supervised") / 3

    def fit(
        self,
        rows: Sequence[Row],
        held_out: Sequence[Row],
        seed: int = 0,
        on_progress: Callable[[float, dict[str, float]], None] = lambda done, metrics: None,
        stop: Stop = never,
    ) -> ValueReport:
        """Train on `rows`; keep the weights with the lowest cross-entropy on `held_out`, the start included."""
        adam = torch.optim.AdamW(self.parameters, self.rate, betas=(0.9, 0.98), weight_decay=0.0)
        settings, spent, evaluated = self.settings, 0, 0
        budget = min(settings.max_tokens, settings.max_epochs * sum(len(r.ids) for r in rows))
        best = (self.cross_entropy(held_out), self._copy())
        for group in epochs(rows, settings.step_tokens, seed):
            done = spent / budget
            if done >= (evaluated + 1) / settings.evaluations or stop():
                evaluated = math.floor(min(done, 1.0) * settings.evaluations + 1e-9)
                found = self.cross_entropy(held_out)
                if found < best[0]:
                    best = (found, self._copy())
            if done >= 1 or stop():
                break
            for options in adam.param_groups:
                options["lr"] = self.rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
            self.model.train()
            adam.zero_grad()
            loss = F.binary_cross_entropy_with_logits(self._logits(group), self._outcomes(group))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            adam.step()
            spent += sum(len(r.ids) for r in group)
            on_progress(min(1.0, spent / budget), {"loss": loss.item()})
        self.load(best[1])
        return self._report(rows, held_out)

    @torch.no_grad()
    def cross_entropy(self, rows: Sequence[Row]) -> float:
        """Mean cross-entropy in nats over the ends of the agent's turns; 0 without rows."""
        logits_N, outcomes_N = self._evaluate(rows)
        return F.binary_cross_entropy_with_logits(logits_N, outcomes_N).item() if len(logits_N) else 0.0

    @torch.no_grad()
    def scores(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """The value at the last token of each sequence, in order."""
        rows = [Row(tuple(ids), (*[False] * (len(ids) - 1), True), float(k)) for k, ids in enumerate(sequences)]
        logits_N, places_N = self._evaluate(rows)
        found = dict(zip((int(k) for k in places_N.tolist()), logits_N.sigmoid().tolist(), strict=True))
        return [found[k] for k in range(len(rows))]

    def state(self) -> dict[str, Any]:
        """The weights, for a checkpoint."""
        return self._copy()

    def load(self, state: dict[str, Any]) -> None:
        for parameter, values in zip(self.parameters, state["factors"], strict=True):
            parameter.data.copy_(values)

    def _copy(self) -> dict[str, Any]:
        return {"factors": [p.detach().clone() for p in self.parameters]}

    def _evaluate(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        self.model.eval()
        groups = by_length(rows, self.settings.step_tokens)
        empty = torch.zeros(0, device=self.device)
        with torch.no_grad():
            logits = [self._logits(group) for group in groups]
        return torch.cat([empty, *logits]), torch.cat([empty, *(self._outcomes(group) for group in groups)])

    def _logits(self, rows: Sequence[Row]) -> torch.Tensor:
        """Logits [N] at the ends of the agent's turns, in row order."""
        batch = collate(rows, self.pad_id).to(self.device)
        hidden_BTD = self.body(input_ids=batch.ids_BT, use_cache=False).last_hidden_state
        place_N, end_N = zip(*((k, end) for k, row in enumerate(rows) for end in turn_ends(row)), strict=True)
        return self.head(hidden_BTD[list(place_N), list(end_N)].float())[:, 0]

    def _outcomes(self, rows: Sequence[Row]) -> torch.Tensor:
        return torch.tensor([row.advantage for row in rows for _ in turn_ends(row)], device=self.device)

    def _report(self, rows: Sequence[Row], held_out: Sequence[Row]) -> ValueReport:
        logits_N, outcomes_N = self._evaluate(held_out)
        mean = self._outcomes(rows).mean().clamp(0.01, 0.99)
        flat_N = torch.full_like(outcomes_N, torch.logit(mean).item())
        return ValueReport(
            len(logits_N),
            F.binary_cross_entropy_with_logits(logits_N, outcomes_N).item(),
            F.binary_cross_entropy_with_logits(flat_N, outcomes_N).item(),
            auc(logits_N, outcomes_N),
        )


def turn_ends(row: Row) -> list[int]:
    """Positions of the last tokens of the agent's turns."""
    last = len(row.trained) - 1
    return [k for k, mark in enumerate(row.trained) if mark and not (k < last and row.trained[k + 1])]


def turn_starts(row: Row) -> list[int]:
    """Positions of the first tokens of the agent's turns."""
    return [k for k, mark in enumerate(row.trained) if mark and not (k and row.trained[k - 1])]


def auc(values_N: torch.Tensor, outcomes_N: torch.Tensor) -> float | None:
    """The share of pairs with different outcomes in which the better outcome has the higher value; ties count half."""
    gap_NN = values_N[:, None] - values_N[None, :]
    better_NN = outcomes_N[:, None] > outcomes_N[None, :]
    pairs = int(better_NN.sum())
    if not pairs:
        return None
    return float(((gap_NN > 0) & better_NN).sum() + 0.5 * ((gap_NN == 0) & better_NN).sum()) / pairs
