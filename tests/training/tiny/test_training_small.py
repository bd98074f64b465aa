"""The learner's own forward and backward pass gives what transformers and peft give."""

from __future__ import annotations

import pytest
import torch
from training_samples import random_rows, stir, tiny_base
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from training.learning.batch import Row, collate
from training.learning.learner import Learner, LearnerSettings, _Work
from training.learning.losses import Sft
from training.models.base import Base
from training.models.lora import LoraSettings
from training.tiny.passes import learning as small

EXACT = LearnerSettings(lora=LoraSettings(rank=4, alpha=8), bf16=False)


def gradients(learner: Learner, rows: list[Row]) -> tuple[list[torch.Tensor], dict[str, float]]:
    return learner._gradients(rows, _Work(Sft(), 100, {}))


def both(base: Base, settings: LearnerSettings) -> tuple[Learner, Learner]:
    """A learner as it is, and one that goes the way of transformers and peft, with the same adapter."""
    ours, theirs = Learner(base, settings, seed=1), Learner(base, settings, seed=1)
    assert ours._body is not None
    theirs._body = None
    for learner in (ours, theirs):
        stir(learner, seed=4)
    return ours, theirs


def shapes(base: Base) -> dict[str, Base]:
    """The shipped architecture, and one with fewer key heads than heads, biases and its own output head."""
    common = {
        "vocab_size": base.model.config.vocab_size, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    torch.manual_seed(3)
    made = {
        "grouped": Qwen2ForCausalLM(Qwen2Config(**common, tie_word_embeddings=False)),
        "llama": LlamaForCausalLM(LlamaConfig(**common)),
    }
    for model in made.values():
        model.eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.data.uniform_(0.5, 1.5)
            if "bias" in name:
                parameter.data.normal_()
    return {"shipped": base, **{name: Base(model, base.format, name, name) for name, model in made.items()}}


@pytest.mark.parametrize("name", ["shipped", "grouped", "llama"])
@pytest.mark.parametrize("flash_from", [8, 10_000])
def test_gradients_are_those_of_transformers_and_peft(
    name: str, flash_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "FLASH_FROM", flash_from)
    base = shapes(tiny_base())[name]
    ours, theirs = both(base, EXACT)
    rows = random_rows(5, base.model.config.vocab_size)
    (found, told), (expected, said) = gradients(ours, rows), gradients(theirs, rows)
    assert told == pytest.approx(said, rel=1e-4)
    for mine, other in zip(found, expected, strict=True):
        assert (mine - other).norm() <= 1e-4 * other.norm() + 1e-7


@pytest.mark.parametrize("name", ["shipped", "grouped", "llama"])
def test_gradients_by_products_with_the_factors_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "LOW_RANK_FROM", 1)
    base = shapes(tiny_base())[name]
    ours, theirs = both(base, EXACT)
    assert ours._body is not None and ours._body.wide
    rows = random_rows(5, base.model.config.vocab_size)
    (found, told), (expected, said) = gradients(ours, rows), gradients(theirs, rows)
    assert told == pytest.approx(said, rel=1e-4)
    for mine, other in zip(found, expected, strict=True):
        assert (mine - other).norm() <= 1e-4 * other.norm() + 1e-7


@pytest.mark.parametrize("low_rank_from", [1, 10_000])
def test_layers_without_an_adapter_pass_gradients_on(low_rank_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "LOW_RANK_FROM", low_rank_from)
    base = tiny_base()
    part = EXACT.model_copy(update={"lora": LoraSettings(rank=4, alpha=8, target_modules=["q_proj", "down_proj"])})
    ours, theirs = both(base, part)
    rows = random_rows(4, base.model.config.vocab_size)
    for mine, other in zip(gradients(ours, rows)[0], gradients(theirs, rows)[0], strict=True):
        assert (mine - other).norm() <= 1e-4 * other.norm() + 1e-7


def test_in_bfloat16_it_is_as_near_the_truth_as_autocast() -> None:
    base = tiny_base()
    ours, theirs = both(base, EXACT.model_copy(update={"bf16": True}))
    exact, _ = both(base, EXACT)
    rows = random_rows(6, base.model.config.vocab_size)
    flat = [torch.cat([g.flatten() for g in gradients(learner, rows)[0]]) for learner in (exact, ours, theirs)]
    assert (flat[1] - flat[0]).norm() <= 1.5 * (flat[2] - flat[0]).norm()


def test_what_a_row_learns_does_not_depend_on_the_rows_beside_it() -> None:
    base = tiny_base()
    learner, _ = both(base, EXACT)
    rows = random_rows(6, base.model.config.vocab_size)
    together = gradients(learner, rows)[0]
    alone = [sum(parts) for parts in zip(*(gradients(learner, [row])[0] for row in rows), strict=True)]
    for mine, other in zip(together, alone, strict=True):
        assert torch.allclose(mine, other, rtol=1e-3, atol=1e-6)


def test_batches_are_padded_to_few_lengths() -> None:
    rows = random_rows(3, 100)
    batch = collate(rows, 0, multiple=32)
    assert (batch.ids_BT.shape[1] - 1) % 32 == 0
    assert batch.ids_BT.shape[1] >= max(len(r.ids) for r in rows)
    assert int(batch.trained_BT.sum()) == sum(r.learned for r in rows)


@pytest.mark.parametrize("name", ["shipped", "grouped"])
def test_gradients_of_a_whole_model_are_those_of_transformers(name: str) -> None:
    model = shapes(tiny_base())[name].model.float().requires_grad_(True)
    ids_BT = torch.randint(0, model.config.vocab_size, (3, 32), generator=torch.Generator().manual_seed(0))
    found = []
    for body in (small.SmallBody(model, torch.float32), lambda ids: model.model(ids).last_hidden_state):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model.lm_head(body(ids_BT)).flatten(0, 1), ids_BT.flatten()).backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    ours, theirs = found
    assert ours.keys() == theirs.keys() and any("bias" in n for n in ours) and any("norm" in n for n in ours)
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient, rtol=1e-3, atol=1e-5)
