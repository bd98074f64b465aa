"""The output head over learned positions only, in chunks, to save memory with large vocabularies.

Positions are selected before the head. Chunks of them go through head and log-softmax one after another and are
recomputed in the backward pass, so at most one chunk's logits exist at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ingest.errors import UserError

HEAD_ROWS = 64
"""The number of positions is padded to a multiple of this: on CPUs each new shape costs tens of milliseconds."""

CHUNK_NUMBERS = 64 * 1024 * 1024
"""Maximum number of logits in a chunk (256 MiB in float32). A smaller chunk would not be worth a recomputation."""

SAME = 0.02
"""Logits differ by less than this share of the largest one in bfloat16."""

Normalize = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits [N, V] and sampled ids [N] to log-probabilities [N, V]."""


def plain_log_softmax(logits_NV: torch.Tensor, ids_N: torch.Tensor) -> torch.Tensor:
    return logits_NV.log_softmax(-1)


Finish = Callable[[torch.Tensor], torch.Tensor]
"""The head's output to the model's logits."""


@torch.no_grad()
def finish_of(model: PreTrainedModel) -> Finish:
    """What a model applies to its head's output: a soft cap (Gemma), a scale (Granite, Cohere), or nothing.

    Models give the same setting opposite meanings, so each reading of the configuration is compared with the model's
    own logits. Raises UserError if none equals them.
    """
    config = model.config.get_text_config()
    cap, shrink, grow = (
        getattr(config, name, None) for name in ("final_logit_softcapping", "logits_scaling", "logit_scale")
    )
    readings: list[Finish] = [
        *([lambda x: cap * torch.tanh(x / cap)] if cap else []),
        *([lambda x: x / shrink, lambda x: x * shrink] if shrink else []),
        *([lambda x: x * grow] if grow else []),
        lambda x: x,
    ]
    ids_BT = torch.arange(1, 5, device=model.device)[None]
    hidden_BTD = model.get_decoder()(input_ids=ids_BT, use_cache=False).last_hidden_state
    given = model.get_output_embeddings()(hidden_BTD).float()
    wanted = model(input_ids=ids_BT, use_cache=False).logits.float()
    for finish in readings:
        if (finish(given) - wanted).abs().max() <= SAME * wanted.abs().max():
            return finish
    raise UserError(
        f"the logits of {type(model).__name__} are not its head's output, nor that with a known scale or soft cap, so "
        "its adapters cannot be trained; choose another base model"
    )


def logprobs_of_learned(
    hidden_BTD: torch.Tensor,
    head: nn.Module,
    ids_BT: torch.Tensor,
    trained_BT: torch.Tensor,
    normalize: Normalize = plain_log_softmax,
    chunk_numbers: int = CHUNK_NUMBERS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [N] of the learned tokens, and the distributions' entropies [N] (without gradient).

    `hidden_BTD` are the hidden states of all positions but the last. `trained_BT` can be on the CPU, so that selecting
    positions needs no synchronisation with the device.
    """
    chosen_N = trained_BT[:, 1:].flatten().nonzero()[:, 0].to(hidden_BTD.device)
    hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, chosen_N)
    targets_N = ids_BT[:, 1:].flatten().index_select(0, chosen_N)
    size = max(HEAD_ROWS, chunk_numbers // vocabulary(head) // HEAD_ROWS * HEAD_ROWS)
    if len(hidden_ND) <= size:
        return _chunk(hidden_ND, head, targets_N, normalize)
    found = [
        checkpoint(_chunk, hidden_ND[at : at + size], head, targets_N[at : at + size], normalize, use_reentrant=False)
        for at in range(0, len(hidden_ND), size)
    ]
    return torch.cat([logprobs for logprobs, _ in found]), torch.cat([entropy for _, entropy in found])


def vocabulary(head: nn.Module) -> int:
    """The number of logits per position."""
    weight = head.weight
    assert isinstance(weight, torch.Tensor)
    return getattr(head, "out_features", None) or weight.shape[0]


def _chunk(
    hidden_ND: torch.Tensor, head: nn.Module, targets_N: torch.Tensor, normalize: Normalize
) -> tuple[torch.Tensor, torch.Tensor]:
    count = len(hidden_ND)
    padded_ND = nn.functional.pad(hidden_ND, (0, 0, 0, -count % HEAD_ROWS))
    logprobs_NV = normalize(head(padded_ND)[:count].float(), targets_N)
    logprobs_N = logprobs_NV.gather(-1, targets_N[:, None])[:, 0]
    with torch.no_grad():
        entropy_N = torch.special.entr(logprobs_NV.exp()).sum(-1)
    return logprobs_N, entropy_N
