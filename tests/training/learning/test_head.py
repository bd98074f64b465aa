"""The output head in chunks: equal to the head in one piece, in values, gradients and entropies."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from training_samples import random_rows, tiny_base
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
)

from ingest.errors import UserError
from training.learning.head import HEAD_ROWS, finish_of, logprobs_of_learned
from training.learning.learner import Learner, LearnerSettings
from training.models.lora import LoraSettings

SHAPE = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "vocab_size": 340, "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize("vocabulary", [50, 400])
def test_chunks_change_neither_values_nor_gradients(vocabulary: int) -> None:
    torch.manual_seed(0)
    hidden_BTD = torch.randn(3, 120, 16, requires_grad=True)
    head = torch.nn.Linear(16, vocabulary, bias=False)
    ids_BT = torch.randint(vocabulary, (3, 121))
    trained_BT = torch.rand(3, 121) < 0.7
    weights_N = torch.randn(int(trained_BT[:, 1:].sum()))
    found = []
    for numbers in (1 << 40, HEAD_ROWS * vocabulary):  # one piece; chunks of HEAD_ROWS
        logprobs_N, entropy_N = logprobs_of_learned(hidden_BTD, head, ids_BT, trained_BT, chunk_numbers=numbers)
        gradients = torch.autograd.grad((weights_N * logprobs_N).sum(), [hidden_BTD, head.weight])
        found.append((logprobs_N, entropy_N, *gradients))
        assert not entropy_N.requires_grad
    assert len(weights_N) > 3 * HEAD_ROWS
    for whole, chunked in zip(*found, strict=True):
        assert torch.allclose(whole, chunked, atol=1e-5)
    plain = head(hidden_BTD).log_softmax(-1)
    wanted = plain.gather(-1, ids_BT[:, 1:, None])[..., 0][trained_BT[:, 1:]]
    assert torch.allclose(found[1][0], wanted, atol=1e-5)


def test_at_most_one_chunk_of_logits_is_in_memory() -> None:
    """What backward keeps is no bigger than hidden states: logits are made again, chunk by chunk."""
    vocabulary, kept = 3000, []
    hidden_BTD = torch.randn(1, 512, 8, requires_grad=True)
    head = torch.nn.Linear(8, vocabulary, bias=False)
    ids_BT = torch.randint(vocabulary, (1, 513))

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        found = logprobs_of_learned(
            hidden_BTD, head, ids_BT, torch.ones(1, 513, dtype=torch.bool), chunk_numbers=HEAD_ROWS * vocabulary
        )
    assert kept and max(kept) < HEAD_ROWS * vocabulary < 512 * vocabulary
    found[0].sum().backward()
    assert hidden_BTD.grad is not None


@pytest.mark.parametrize(
    "config",
    [
        GraniteConfig(logits_scaling=8.0, **SHAPE),
        CohereConfig(logit_scale=0.0625, **SHAPE),
        Gemma2Config(head_dim=8, final_logit_softcapping=3.0, **SHAPE),
        LlamaConfig(hidden_act="gelu", **SHAPE),
    ],
    ids=lambda config: config.model_type,
)
def test_log_probabilities_are_the_models_own_where_it_scales_or_caps_its_heads_output(
    config: PreTrainedConfig,
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    how = LearnerSettings(lora=LoraSettings(rank=2, alpha=4), learning_rate=1e-3, bf16=False)
    learner = Learner(replace(tiny_base(), model=model), how)
    ids = random_rows(1, config.vocab_size)[0].ids
    with torch.no_grad():
        plain_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    places = list(range(1, len(ids)))
    assert learner.logprobs_at(ids, places) == pytest.approx([plain_TV[k - 1, ids[k]].item() for k in places], abs=1e-5)


def test_a_model_that_changes_its_heads_output_in_another_way_is_refused() -> None:
    class Shifted(LlamaForCausalLM):
        def forward(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            found = super().forward(*args, **kwargs)
            found.logits = found.logits + torch.arange(found.logits.shape[-1])
            return found

    with pytest.raises(UserError, match="Shifted"):
        finish_of(Shifted(LlamaConfig(**SHAPE)).eval())
