"""A fused forward pass for small Llama-like models on a CPU, where transformers spends most time between the products.

One product for queries, keys and values and one for gate and up, in bfloat16 if the CPU multiplies it fast (residual
stream, norms and rotations stay in float32, as under the learner's autocast). Keys and values are written directly into
the padded block. A norm's weights are folded into the next product. Rows of a batch can use different adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from training.models.devices import plain_weights
from training.models.kv_cache import BatchCache
from training.models.lora_layers import Factors, Span

ARCHITECTURES = ("llama", "mistral", "qwen2")
WIDEST = 2048
"""Maximum width of a model that runs with folded weights. Each adapter in use holds a copy of the layers (SmolLM2-135M:
212 MB in bfloat16, 425 MB in float32). `benchmarks.training.decoding` and `benchmarks.training.learning` compare this
with transformers."""


@dataclass(frozen=True)
class _Layer:
    """One layer's weights with an adapter folded in, W + B A, in the precision of the products."""

    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    out: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class SmallDecoder:
    """`model`'s forward pass with fewer operations. `fits` tells which models are supported."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        self.dtype, self.config = dtype, model.config
        body = model.model
        self.embedding = body.embed_tokens.weight
        self.norms = [(b.input_layernorm.weight, b.post_attention_layernorm.weight) for b in body.layers]
        self.last_norm, self.head = body.norm.weight, model.get_output_embeddings().weight.to(dtype)
        self.eps = self.config.rms_norm_eps
        self.heads, self.kv_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        self.size = body.layers[0].self_attn.head_dim
        self.rotary = body.rotary_emb
        self._linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
        self._bare: list[_Layer] | None = None

    @staticmethod
    def fits(model: PreTrainedModel) -> bool:
        """Whether the model is a plain Llama-like decoder on a CPU in float32, at most `WIDEST` wide."""
        c = model.config
        plain = c.model_type in ARCHITECTURES and getattr(c, "hidden_act", "") == "silu"
        rope = (getattr(c, "rope_parameters", None) or {}).get("rope_type", "default") == "default"
        windows = getattr(c, "sliding_window", None) and getattr(c, "use_sliding_window", True)
        biased = getattr(c, "mlp_bias", False) or (c.model_type == "llama" and getattr(c, "attention_bias", False))
        weight = model.get_input_embeddings().weight
        here = weight.device.type == "cpu" and weight.dtype == torch.float32
        here = here and plain_weights(model)
        return plain and rope and here and not windows and not biased and _widest(c) <= WIDEST

    def __call__(
        self, cache: BatchCache, ids_BT: torch.Tensor, positions_BT: torch.Tensor, spans: Sequence[Span]
    ) -> torch.Tensor:
        """Logits [B, V] of each row's last token. The cache's `place` was called before. Several spans need T = 1."""
        rows, length = ids_BT.shape
        layers = [self._layers(span.factors) for span in spans]
        reach = [(s.start, s.stop, int(positions_BT[s.start : s.stop].max()) + 1) for s in spans]
        cuts = [(span.start * length, span.stop * length) for span in spans]
        angles_BTD = positions_BT[..., None].float() * self.rotary.inv_freq
        angles_BT1D = torch.cat((angles_BTD, angles_BTD), -1)[:, :, None]
        cos, sin = angles_BT1D.cos(), angles_BT1D.sin()
        bias_B1TK = torch.zeros(rows, 1, length, cache.visible, dtype=self.dtype)
        columns_K = torch.arange(cache.visible)
        bias_B1TK.masked_fill_(columns_K > positions_BT[:, None, :, None], -torch.inf)
        x_ND = self.embedding[ids_BT.reshape(-1)]
        rotated = self.heads + self.kv_heads
        for number in range(len(self.norms)):
            here = [layer[number] for layer in layers]
            h_ND = F.rms_norm(x_ND, (x_ND.shape[-1],), None, self.eps).to(self.dtype)
            qkv = _linear(h_ND, cuts, [(w.qkv, w.qkv_bias) for w in here]).view(rows, length, -1, self.size)
            qk = qkv[:, :, :rotated].float()
            low, high = qk.chunk(2, -1)
            qk = torch.addcmul(qk * cos, torch.cat((-high, low), -1), sin).to(self.dtype).transpose(1, 2)
            keys, values = cache.append(number, qk[:, self.heads :], qkv[:, :, rotated:].transpose(1, 2))
            y_ND = self._attend(qk[:, : self.heads], keys, values, bias_B1TK, reach)
            x_ND = x_ND + _linear(y_ND, cuts, [(w.out, None) for w in here])
            h_ND = F.rms_norm(x_ND, (x_ND.shape[-1],), None, self.eps).to(self.dtype)
            gate, up = _linear(h_ND, cuts, [(w.gate_up, None) for w in here]).chunk(2, -1)
            x_ND = x_ND + _linear(F.silu(gate) * up, cuts, [(w.down, None) for w in here])
        last_BD = x_ND.view(rows, length, -1)[:, -1]
        last_BD = F.rms_norm(last_BD, (last_BD.shape[-1],), self.last_norm, self.eps)
        return F.linear(last_BD.to(self.dtype), self.head).float()

    def _attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        bias_B1TK: torch.Tensor,
        reach: Sequence[tuple[int, int, int]],
    ) -> torch.Tensor:
        """Attention [B T, heads * size] of the rows [start, stop) over their first columns only, since all keys and
        values are read from memory for every token.
        """
        attend = self._attend_one if queries.shape[2] == 1 else self._attend_many
        found = [
            attend(queries[a:b], keys[a:b, :, :k], values[a:b, :, :k], bias_B1TK[a:b, ..., :k]) for a, b, k in reach
        ]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _attend_many(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        grouped = self.heads != self.kv_heads
        found = F.scaled_dot_product_attention(queries, keys, values, bias, enable_gqa=grouped)
        return found.transpose(1, 2).flatten(0, 1).flatten(1)

    def _attend_one(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Of one token a row, by plain products. The fused kernel is slow for a single query: in bfloat16 several times
        slower, as is the product of queries and transposed keys. The heads that share keys are positions of one head,
        since `enable_gqa` would repeat the keys in memory.
        """
        queries = queries.reshape(len(queries), self.kv_heads, -1, self.size) * self.size**-0.5
        scores = (keys @ queries.transpose(-1, -2)).transpose(-1, -2) + bias
        return (scores.softmax(-1) @ values).flatten(1)

    # ----- weights

    def _layers(self, factors: Factors | None) -> list[_Layer]:
        """All layers with one adapter (None: without), folded at first use."""
        if factors is None:
            if self._bare is None:
                self._bare = self._fold(None)
            return self._bare
        if factors.fused is None:
            factors.fused = self._fold(factors)
        return factors.fused

    def _fold(self, factors: Factors | None) -> list[_Layer]:
        layers = []
        for number in range(len(self.norms)):
            attention = [f"model.layers.{number}.self_attn.{name}_proj" for name in "qkvo"]
            biases = [self._linear[name].bias for name in attention[:3]]
            mlp = [f"model.layers.{number}.mlp.{name}_proj" for name in ("gate", "up", "down")]
            layers.append(
                _Layer(
                    self._weight(factors, *attention[:3], norm=self.norms[number][0]),
                    None if biases[0] is None else torch.cat([*biases]).to(self.dtype),
                    self._weight(factors, attention[3]),
                    self._weight(factors, *mlp[:2], norm=self.norms[number][1]),
                    self._weight(factors, mlp[2]),
                )
            )
        return layers

    def _weight(self, factors: Factors | None, *names: str, norm: torch.Tensor | None = None) -> torch.Tensor:
        """The concatenated weights of some linear layers, with those of the norm before them."""
        found = []
        for name in names:
            weight = self._linear[name].weight
            pair = factors.modules.get(name) if factors is not None else None
            found.append(weight if pair is None else torch.addmm(weight, pair[1], pair[0]))
        whole = torch.cat(found)
        return (whole if norm is None else whole * norm).to(self.dtype)


def _widest(config: PreTrainedConfig) -> int:
    return max(config.hidden_size, config.intermediate_size)


def _linear(
    x_ND: torch.Tensor,
    cuts: Sequence[tuple[int, int]],
    weights: Sequence[tuple[torch.Tensor, torch.Tensor | None]],
) -> torch.Tensor:
    """Apply to each span of rows its own weight."""
    if len(cuts) == 1:
        return F.linear(x_ND, *weights[0])
    return torch.cat([F.linear(x_ND[a:b], *w) for (a, b), w in zip(cuts, weights, strict=True)])
