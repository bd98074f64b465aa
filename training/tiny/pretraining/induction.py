"""Initial weights with an induction circuit, so that the model can copy from the start.

A small model learns copying late or never (prototype: 0 % of ids after 3 M tokens of traces), and with a vocabulary
that grows step by step it learns token by token. The circuit is known (Olsson et al. 2022, "In-context Learning and
Induction Heads"): one head attends to the previous token and writes it to the residual stream; a later head attends to
positions whose *previous* token equals the current one and copies the token there. Both can be constructed for a model
with rotary positions and biased queries and keys (Qwen2). The first head needs only biases, since a constant query and
key score by distance alone. The second matches in the slowly rotating dimensions, which hardly depend on distance. All
other weights are random, and training can change all weights.
"""

from __future__ import annotations

import torch
from transformers import Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention

EMBEDDING_STD = 0.1
SHARPNESS = 6.3  # amplitude of the look-back heads' queries and keys; the runner-up gets e^-5 of the weight
WRITE_BACK = 0.12
LOOK_BACKS = 3
MATCH = 1.9
WRITE_COPY = 0.3
SLOW = 0.002  # radians per token: slower dimensions match at any distance up to a few hundred tokens


@torch.no_grad()
def plant_induction(model: Qwen2ForCausalLM, seed: int = 0) -> None:
    """Write the circuit into layers 0 and 1 of a newly initialised model with at least LOOK_BACKS heads.

    Layer 0: head j attends to the token j+1 positions before and writes it into its own subspace. Layer 1: every head
    compares the current token with the token before each earlier position and copies the token at the match. Digits are
    single tokens, so numbers that share a digit need a longer context. The additional look-back heads provide it, and
    training uses them after about 150 steps. Starting with all three in the match was worse (accuracy .85 against .96
    after that many steps), because they interfere.
    """
    config = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    size = width // heads
    if config.num_key_value_heads != heads or heads < LOOK_BACKS:
        raise ValueError(f"the circuit needs {LOOK_BACKS} heads or more, and as many key heads as query heads")
    generator = torch.Generator().manual_seed(seed)
    turn_F = model.model.rotary_emb.inv_freq  # radians a token, one per pair of dimensions (i, i + size/2)
    basis = _orthonormal(width, width, generator)
    seen = basis[:size]
    written = [_orthonormal(width, size, generator) for _ in range(LOOK_BACKS)]

    model.model.embed_tokens.weight.normal_(0, EMBEDDING_STD, generator=generator)
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    for head in range(LOOK_BACKS):
        part = slice(head * size, (head + 1) * size)
        _look_back(first, head, head + 1, turn_F, size)
        first.v_proj.weight[part] = seen
        first.o_proj.weight[:, part] = WRITE_BACK * written[head]

    slow = (turn_F < SLOW).nonzero().flatten()
    rows = torch.cat([slow, slow + size // 2])
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        second.q_proj.weight[part].zero_()
        second.k_proj.weight[part].zero_()
        second.q_proj.weight[head * size + rows] = MATCH * seen[rows]
        second.k_proj.weight[head * size + rows] = MATCH * written[0].T[rows]
        second.v_proj.weight[part] = basis[part]
        second.o_proj.weight[:, part] = WRITE_COPY * basis[part].T


def _look_back(attention: Qwen2Attention, head: int, back: int, turn_F: torch.Tensor, size: int) -> None:
    """The head attends `back` tokens before: its score is the sum of cos((distance - back) * turn) over fast pairs."""
    start, half, fast = head * size, size // 2, (turn_F > 0.01).float()
    query, key = attention.q_proj, attention.k_proj
    query.weight[start : start + size].zero_()
    key.weight[start : start + size].zero_()
    query.bias[start : start + half] = SHARPNESS * torch.cos(back * turn_F) * fast
    query.bias[start + half : start + size] = -SHARPNESS * torch.sin(back * turn_F) * fast
    key.bias[start : start + half] = SHARPNESS * fast
    key.bias[start + half : start + size] = 0.0


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    basis, _ = torch.linalg.qr(torch.randn(rows, columns, generator=generator))
    return basis
