"""Iterative PPO on recorded conversations: the value of turns, single-turn steps, resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_samples import adapter_of_all, conversation, conversations, tiny_base

from ingest.errors import UserError
from ingest.records import Conversation
from training.learning.batch import Row
from training.learning.learner import Learner, LearnerSettings
from training.models.base import Base
from training.models.lora import LoraSettings
from training.models.lora_layers import read_adapter
from training.policy.clone import policy_rows
from training.policy.offline.fit import OfflineSettings, fit_offline, rewarded
from training.policy.offline.iterative_ppo import IterativePpo
from training.policy.offline.values import Value, ValueSettings, auc, turn_ends, turn_starts

LORA = LoraSettings(rank=4, alpha=8)
LEARNER = LearnerSettings(lora=LORA, learning_rate=3e-3, warmup_steps=0, bf16=False)
VALUE = ValueSettings(lora=LORA, learning_rate=3e-3, max_tokens=10_000, max_epochs=100, step_tokens=800, evaluations=4)
METHOD = IterativePpo(value=VALUE, learner=LEARNER, steps=6, points=6, samples=6)


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


@pytest.fixture(scope="module")
def start(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter_of_all(base, LEARNER, 60, tmp_path_factory.mktemp("start") / "clone")


def fitted(base: Base, start: Path, out: Path, scored: list[Conversation] | None = None, **more: Any) -> dict[str, Any]:
    settings = OfflineSettings(loss=METHOD, held_out_share=0.25)
    return fit_offline(base, rewarded(scored or conversations(48)), start, out, settings, show_system=False, **more)


def test_turns_are_the_runs_of_learned_tokens() -> None:
    row = Row((1, 2, 3, 4, 5, 6), (False, True, True, False, False, True))
    assert turn_starts(row) == [1, 5] and turn_ends(row) == [2, 5]


def test_auc_counts_pairs_and_halves_ties() -> None:
    assert auc(torch.tensor([2.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 1.0])) == 0.75
    assert auc(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.0])) is None


def test_an_untrained_value_is_the_mean_outcome(base: Base) -> None:
    value = Value(base, VALUE, mean=0.3)
    assert value.scores([[9, 10, 11], [12, 13]]) == pytest.approx([0.3, 0.3])


def test_values_do_not_depend_on_the_batch(base: Base) -> None:
    value = Value(base, VALUE, mean=0.5)
    told = policy_rows(conversations(8), base.format, False)
    rows = [Row(row.ids, row.trained, float(k % 2)) for k, row in enumerate(told)]
    value.fit(rows, rows)
    together = value.scores([row.ids for row in rows])
    assert together == pytest.approx([value.scores([row.ids])[0] for row in rows], abs=1e-5)


def test_the_policy_moves_to_turns_that_ended_well(base: Base, start: Path, tmp_path: Path) -> None:
    manifest = fitted(base, start, tmp_path / "out")
    assert manifest["value"]["auc"] > 0.9 and manifest["partial"] is None and len(manifest["history"]) == METHOD.steps

    def likelihood(adapter: Path, colour: str) -> float:
        rows = policy_rows([conversation(k, colour) for k in range(4)], base.format, False)
        return -Learner(base, LEARNER, start=adapter).evaluate(rows)

    gap = [likelihood(adapter, "blue") - likelihood(adapter, "red") for adapter in (start, tmp_path / "out")]
    assert gap[1] > gap[0] + 0.05


def test_a_stopped_run_resumes_to_the_same_weights(base: Base, start: Path, tmp_path: Path) -> None:
    whole = fitted(base, start, tmp_path / "whole", checkpoint=tmp_path / "whole.pt")
    seen: list[float] = []
    stopped = fitted(
        base, start, tmp_path / "parts", checkpoint=tmp_path / "parts.pt",
        on_progress=lambda done, metrics: seen.append(done), stop=lambda: bool(seen) and seen[-1] > 0.6,
    )  # fmt: skip
    assert stopped["partial"].startswith("stopped after") and len(stopped["history"]) < METHOD.steps
    resumed = fitted(base, start, tmp_path / "parts", checkpoint=tmp_path / "parts.pt")
    assert json.dumps(resumed["history"]) != json.dumps(stopped["history"]) and resumed["partial"] is None
    assert resumed["value"] == whole["value"]
    first, second = read_adapter(tmp_path / "whole")[0], read_adapter(tmp_path / "parts")[0]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_values_that_are_noise_are_refused(base: Base, start: Path, tmp_path: Path) -> None:
    made = conversations(48)
    for k, c in enumerate(made):  # an outcome that no turn decides, and that is reversed in the held-out part
        c.outcomes[0]["score"] = float((c.messages[-1]["content"] == "done blue") == (k < 36))
    with pytest.raises(UserError, match="no better than their mean .* Record more conversations"):
        fitted(base, start, tmp_path / "out", made)
