"""The output head in chunks: equal to the head in one piece, in values, gradients and entropies."""

from __future__ import annotations

import pytest
import torch

from training.learning.head import HEAD_ROWS, logprobs_of_learned


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
