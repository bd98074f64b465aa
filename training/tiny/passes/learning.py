"""A fused forward and backward pass for training a small Llama-like model, or an adapter of it, on a CPU.

At a width of a few hundred, transformers and autograd spend most time between the products: casts, scaling, masks,
additions. Here one layer is one autograd function: products in bfloat16 (or float32), one for queries, keys and values
and one for gate and up; residual stream, norms and rotations in float32, as under autocast. Weights are folded,
W + s B A, and the gradients of A and B equal those of peft's layers. In a narrow model they come from the gradient of
the folded weight. In a wide one (`LOW_RANK_FROM`) that product is a third of the work, so they come from products with
A and B.

Axes: B rows, T tokens, N = B T, D width, R rank, H heads, S a head's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from training.models.lora_layers import FOLDED_UP_TO

FLASH_FROM = 576
"""From this length on, the fused attention kernel is faster than plain products on CPUs (measured)."""
PACKED = 2
"""Parts of packed rows need a mask. With one, the kernel is faster only from this many times as many scores on."""
LOW_RANK_FROM = FOLDED_UP_TO + 1
"""Models of this width or more have their factors' gradients from products with the factors."""

_Factors = list[torch.Tensor]
"""Per layer of a product that has an adapter: A [R, in] with the norm's weights, s B [out, R]."""


class SmallBody:
    """`model`'s decoder without its head: ids [B, T] to hidden states [B, T, D].

    `SmallDecoder.fits` tells which models are supported.
    """

    def __init__(self, model: PeftModel | PreTrainedModel, dtype: torch.dtype) -> None:
        self.dtype = dtype
        adapted = cast(PreTrainedModel, model.base_model.model if isinstance(model, PeftModel) else model)
        body, config = adapted.model, adapted.config
        self.embedding, self.last_norm, self.eps = body.embed_tokens.weight, body.norm.weight, config.rms_norm_eps
        self.rotary, self.layers = body.rotary_emb, list(body.layers)
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.size = body.layers[0].self_attn.head_dim
        widest = max(config.hidden_size, config.intermediate_size)
        self.wide = isinstance(model, PeftModel) and widest >= LOW_RANK_FROM

    def __call__(self, ids_BT: torch.Tensor, shared: int = 0, members: Sequence[int] = ()) -> torch.Tensor:
        """`shared`, `members`: of a packed row (`training.learning.batch.Layout`), the number of tokens that all
        members begin with, and the number of further tokens of each. Without members, a token sees all before it.
        """
        rows, length = ids_BT.shape
        shape = _Shape(rows, length, self.heads, self.kv_heads, self.size, self.eps, self.rotary.inv_freq, self.dtype,
                       shared, members)  # fmt: skip
        x_ND = F.embedding(ids_BT.reshape(-1), self.embedding)  # unlike indexing, its gradient is reproducible
        for layer in self.layers:
            attention, mlp = layer.self_attn, layer.mlp
            biases = [_base(m).bias for m in (attention.q_proj, attention.k_proj, attention.v_proj)]
            bias = None if biases[0] is None else torch.cat([*biases]).to(self.dtype)
            mixing, out = (attention.q_proj, attention.k_proj, attention.v_proj), (attention.o_proj,)
            opening, down = (mlp.gate_proj, mlp.up_proj), (mlp.down_proj,)
            before, between = layer.input_layernorm, layer.post_attention_layernorm
            qkv, both = self._folded(*mixing, norm=before), self._folded(*opening, norm=between)
            low = [self._factors(*mixing, norm=before), self._factors(*out)] if self.wide else [[], []]
            x_ND = _Attention.apply(x_ND, qkv, bias, self._folded(*out), shape, *map(len, low), *low[0], *low[1])
            low = [self._factors(*opening, norm=between), self._factors(*down)] if self.wide else [[], []]
            x_ND = _Mlp.apply(x_ND, both, self._folded(*down), shape, *map(len, low), *low[0], *low[1])
        return F.rms_norm(x_ND, x_ND.shape[-1:], self.last_norm, self.eps).view(rows, length, -1)

    def _folded(self, *layers: nn.Module, norm: nn.Module | None = None) -> torch.Tensor:
        """The concatenated weights of some linear layers, with their adapters and the norm before them folded in."""
        weights: list[torch.Tensor] = []
        for layer in layers:
            weight: torch.Tensor = _base(layer).weight
            if isinstance(layer, LoraLinear) and not layer.disable_adapters:
                name = layer.active_adapters[0]
                first, second = layer.lora_A[name].weight, layer.lora_B[name].weight
                weight = torch.addmm(weight, cast(Any, second), cast(Any, first), alpha=layer.scaling[name])
            weights.append(weight)
        whole = weights[0] if len(weights) == 1 else torch.cat(weights)
        whole = (whole if norm is None else whole * cast(torch.Tensor, norm.weight)).to(self.dtype)
        return whole.detach() if self.wide else whole

    def _factors(self, *layers: nn.Module, norm: nn.Module | None = None) -> _Factors:
        """The factors of some linear layers, two for each: an empty pair for a layer without an adapter."""
        found: _Factors = []
        for layer in layers:
            if not isinstance(layer, LoraLinear) or layer.disable_adapters:
                found += [torch.empty(0), torch.empty(_base(layer).weight.shape[0], 0)]
                continue
            name = layer.active_adapters[0]
            first, second = cast(Any, layer.lora_A[name].weight), cast(Any, layer.lora_B[name].weight)
            first = first if norm is None else first * cast(torch.Tensor, norm.weight)
            found += [first.to(self.dtype), (second * layer.scaling[name]).to(self.dtype)]
        return found


def _base(layer: nn.Module) -> nn.Linear:
    return cast(nn.Linear, layer.base_layer if isinstance(layer, LoraLinear) else layer)


class _Shape:
    """Shapes and tables shared by the layers of one pass. Attention uses axes [H, B, T, S], so heads are views."""

    def __init__(
        self, rows: int, length: int, heads: int, kv_heads: int, size: int, eps: float, inv_freq: torch.Tensor,
        dtype: torch.dtype, shared: int, members: Sequence[int],
    ) -> None:  # fmt: skip
        self.rows, self.length, self.heads, self.kv_heads, self.size = rows, length, heads, kv_heads, size
        self.eps, self.dtype, self.shared = eps, dtype, shared
        owns = [slice(start, end) for start, end in pairwise(accumulate(members, initial=shared))]
        self.parts = [slice(0, shared), *owns] if members else [slice(0, length)]
        positions_T = torch.cat([torch.arange(shared), *(torch.arange(shared, shared + count) for count in members)])
        angles_TS = (positions_T if members else torch.arange(length))[:, None].float() * inv_freq
        scale_H1 = torch.ones(heads + kv_heads, 1)
        scale_H1[:heads] = size**-0.5  # queries are scaled
        self.cos, self.sin = angles_TS.cos()[:, None] * scale_H1, angles_TS.sin()[:, None] * scale_H1
        width = max((part.stop - part.start for part in self.parts if members or self.plain(part)), default=0)
        self.causal_TT = torch.full((width, width), -torch.inf, dtype=dtype).triu_(1)
        widest = max(members, default=0)
        self.after_TT = torch.cat((torch.zeros(widest, shared, dtype=dtype), self.causal_TT[:widest, :widest]), 1)

    def plain(self, part: slice) -> bool:
        """Whether plain products are faster for a part than the fused kernel."""
        size, before = part.stop - part.start, self.shared if part.start else 0
        return size * (before + size) < FLASH_FROM**2 * (PACKED if len(self.parts) > 1 else 1)

    def mask(self, part: slice) -> torch.Tensor | None:
        """What the queries of a part do not see, as -inf; None: the fused kernel knows it."""
        size = part.stop - part.start
        if part.start:
            return self.after_TT[:size, : self.shared + size]
        return self.causal_TT[:size, :size] if self.plain(part) else None

    def seen(self, x: torch.Tensor, part: slice) -> torch.Tensor:
        """The keys or values [H, B, K, S] that a part may see: the shared ones and its own."""
        return torch.cat((x[:, :, : self.shared], x[:, :, part]), 2) if part.start else x[:, :, part]

    def rotated(self, mixed_BTHS: torch.Tensor) -> torch.Tensor:
        """Scaled queries, and keys, with rotary positions, [H, B, T, S]."""
        low, high = mixed_BTHS[:, :, : self.heads + self.kv_heads].float().chunk(2, -1)
        out = mixed_BTHS.new_empty(self.heads + self.kv_heads, self.rows, self.length, self.size)
        self._turn(low, high, out.permute(1, 2, 0, 3), 1.0)
        return out

    def rotated_back(self, d_qk_HBTS: torch.Tensor, d_mixed_BTHS: torch.Tensor) -> None:
        """The gradient before rotation, written into its part of `d_mixed_BTHS`."""
        low, high = d_qk_HBTS.permute(1, 2, 0, 3).float().chunk(2, -1)
        self._turn(low, high, d_mixed_BTHS[:, :, : self.heads + self.kv_heads], -1.0)

    def _turn(self, low: torch.Tensor, high: torch.Tensor, out: torch.Tensor, sign: float) -> None:
        half = low.shape[-1]
        out[..., :half] = torch.addcmul(low * self.cos, high, self.sin, value=-sign)
        out[..., half:] = torch.addcmul(high * self.cos, low, self.sin, value=sign)


def _normed(x_ND: torch.Tensor, shape: _Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """x divided by its root mean square, in the products' precision, and the factor [N, 1]."""
    norm_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True)
    scale_N1 = norm_N1.square_().div_(x_ND.shape[-1]).add_(shape.eps).rsqrt_()
    return (x_ND * scale_N1).to(shape.dtype), scale_N1


def _norm_backward(
    d_h_ND: torch.Tensor, x_ND: torch.Tensor, scale_N1: torch.Tensor, past_ND: torch.Tensor
) -> torch.Tensor:
    """The gradient of a norm's input, plus the gradient of the residual."""
    d_h_ND = d_h_ND.float()
    dot_N1 = torch.linalg.vecdot(d_h_ND, x_ND)[:, None]
    dot_N1.mul_(scale_N1.pow(3)).div_(-x_ND.shape[-1])
    return torch.addcmul(past_ND, x_ND, dot_N1).addcmul_(d_h_ND, scale_N1)


class _Attention(torch.autograd.Function):
    """x + out(attention(qkv(norm(x))))."""

    @staticmethod
    def forward(ctx: Any, x_ND: torch.Tensor, qkv: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor,
                shape: _Shape, mixing: int, last: int, *low: torch.Tensor) -> torch.Tensor:  # fmt: skip
        h_ND, scale_N1 = _normed(x_ND, shape)
        mixed = F.linear(h_ND, qkv, bias).view(shape.rows, shape.length, -1, shape.size)
        turned = shape.rotated(mixed)
        v = mixed[:, :, shape.heads + shape.kv_heads :].permute(2, 0, 1, 3).contiguous()
        y, saved = _attend(turned[: shape.heads], _spread(turned[shape.heads :], shape), _spread(v, shape), shape)
        y_ND = y.permute(1, 2, 0, 3).reshape(h_ND.shape[0], -1)
        ctx.save_for_backward(x_ND, scale_N1, h_ND, qkv, out, turned, v, y_ND, *low, *saved)
        ctx.shape, ctx.low = shape, (mixing, mixing + last)
        return x_ND + F.linear(y_ND, out)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_ND, scale_N1, h_ND, qkv, out, turned, v, y_ND, *saved = ctx.saved_tensors
        shape, g_ND = ctx.shape, gradients[0]
        middle, end = ctx.low
        mixing, last, saved = saved[:middle], saved[middle:end], saved[end:]
        g16_ND = g_ND.to(shape.dtype)
        d_last = _low_rank(g16_ND, y_ND, last)
        d_out = g16_ND.T @ y_ND if ctx.needs_input_grad[3] else None
        d_y = (g16_ND @ out).view(shape.rows, shape.length, shape.heads, shape.size).permute(2, 0, 1, 3).contiguous()
        keys, values = _spread(turned[shape.heads :], shape), _spread(v, shape)
        d_q, d_k, d_v = _attend_backward(d_y, turned[: shape.heads], keys, values, saved, shape)
        d_mixed = g16_ND.new_empty(shape.rows, shape.length, shape.heads + 2 * shape.kv_heads, shape.size)
        shape.rotated_back(torch.cat((d_q, _gathered(d_k, shape))), d_mixed)
        d_mixed[:, :, shape.heads + shape.kv_heads :] = _gathered(d_v, shape).permute(1, 2, 0, 3)
        d_mixed = d_mixed.view(g_ND.shape[0], -1)
        d_qkv = d_mixed.T @ h_ND if ctx.needs_input_grad[1] else None
        d_bias = d_mixed.sum(0) if ctx.needs_input_grad[2] else None
        d_x = _norm_backward(d_mixed @ qkv, x_ND, scale_N1, g_ND) if ctx.needs_input_grad[0] else None
        return d_x, d_qkv, d_bias, d_out, None, None, None, *_low_rank(d_mixed, h_ND, mixing), *d_last


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, shape: _Shape
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Causal attention over scaled queries, [H, B, T, S], and the tensors for its backward pass."""
    found: list[torch.Tensor] = []
    saved: list[torch.Tensor] = []
    for part in shape.parts:
        query, keys, values = q[:, :, part], shape.seen(k, part), shape.seen(v, part)
        mask = shape.mask(part)
        if shape.plain(part) and mask is not None:
            scores = torch.bmm(query.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2)).add_(mask)
            weights = scores.softmax(-1)
            found.append(torch.bmm(weights, values.flatten(0, 1)).view(query.shape))
            saved.append(weights)
        else:
            y, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *(t.transpose(0, 1) for t in (query, keys, values)), 0.0, not part.start,
                attn_mask=mask, scale=1.0,
            )  # fmt: skip
            found.append(y.transpose(0, 1))
            saved += [y, sums]
    return found[0] if len(found) == 1 else torch.cat(found, 2), saved


def _attend_backward(
    d_y: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, saved: list[torch.Tensor], shape: _Shape
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of scaled queries, keys and values, [H, B, T, S]."""
    at = 0
    found = []
    for part in shape.parts:
        count = 1 if shape.plain(part) else 2
        found.append(_part_backward(d_y[:, :, part], q[:, :, part], shape.seen(k, part), shape.seen(v, part),
                                    saved[at : at + count], shape, part))  # fmt: skip
        at += count
    if len(found) == 1:
        return found[0]
    d_q, d_k, d_v = torch.cat([d[0] for d in found], 2), torch.empty_like(k), torch.empty_like(v)
    for whole, which in ((d_k, 1), (d_v, 2)):
        total = found[0][which].float()  # over all members, so not in bfloat16
        for part, d in zip(shape.parts[1:], found[1:], strict=True):
            total = total + d[which][:, :, : shape.shared]
            whole[:, :, part] = d[which][:, :, shape.shared :]
        whole[:, :, : shape.shared] = total
    return d_q, d_k, d_v


def _part_backward(
    d_y: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, saved: list[torch.Tensor], shape: _Shape,
    part: slice,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of the queries of a part and of the keys and values that it sees."""
    if not shape.plain(part):
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *(t.transpose(0, 1) for t in (d_y, q, k, v)), *saved, 0.0, not part.start,
            attn_mask=shape.mask(part), scale=1.0,
        )  # fmt: skip
        d_q, d_k, d_v = (t.transpose(0, 1) for t in found)
        return d_q, d_k, d_v
    (weights,) = saved
    d_flat = d_y.flatten(0, 1)
    d_v = torch.bmm(weights.transpose(1, 2), d_flat)
    d_weights = torch.bmm(d_flat, v.flatten(0, 1).transpose(1, 2))
    d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, shape.dtype)
    d_q, d_k = torch.bmm(d_scores, k.flatten(0, 1)), torch.bmm(d_scores.transpose(1, 2), q.flatten(0, 1))
    return d_q.view(q.shape), d_k.view(k.shape), d_v.view(v.shape)


def _spread(x: torch.Tensor, shape: _Shape) -> torch.Tensor:
    """Repeat keys or values for each query head that shares them."""
    return x if shape.heads == shape.kv_heads else x.repeat_interleave(shape.heads // shape.kv_heads, 0)


def _gathered(x: torch.Tensor, shape: _Shape) -> torch.Tensor:
    """The gradient of `_spread`: the sum over query heads that share keys or values."""
    if shape.heads == shape.kv_heads:
        return x
    return x.reshape(shape.kv_heads, -1, *x.shape[1:]).sum(1)


class _Mlp(torch.autograd.Function):
    """x + down(silu(gate(norm(x))) * up(norm(x)))."""

    @staticmethod
    def forward(ctx: Any, x_ND: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, shape: _Shape,
                opening: int, last: int, *low: torch.Tensor) -> torch.Tensor:  # fmt: skip
        h_ND, scale_N1 = _normed(x_ND, shape)
        both = F.linear(h_ND, gate_up)
        gate, up = both.chunk(2, -1)
        opened = F.silu(gate)
        product = opened * up
        ctx.save_for_backward(x_ND, scale_N1, h_ND, gate_up, down, both, opened, product, *low)
        ctx.shape, ctx.opening = shape, opening
        return x_ND + F.linear(product, down)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_ND, scale_N1, h_ND, gate_up, down, both, opened, product, *low = ctx.saved_tensors
        shape, g_ND = ctx.shape, gradients[0]
        g16_ND = g_ND.to(shape.dtype)
        d_last = _low_rank(g16_ND, product, low[ctx.opening :])
        d_down = g16_ND.T @ product if ctx.needs_input_grad[2] else None
        d_product = g16_ND @ down
        gate, up = both.chunk(2, -1)
        d_both = torch.empty_like(both)
        d_gate, d_up = d_both.chunk(2, -1)
        torch.mul(d_product, opened, out=d_up)
        torch.ops.aten.silu_backward.grad_input(d_product.mul_(up), gate, grad_input=d_gate)
        d_gate_up = d_both.T @ h_ND if ctx.needs_input_grad[1] else None
        d_x = _norm_backward(d_both @ gate_up, x_ND, scale_N1, g_ND) if ctx.needs_input_grad[0] else None
        return d_x, d_gate_up, d_down, None, None, None, *_low_rank(d_both, h_ND, low[: ctx.opening]), *d_last


def _low_rank(d_NO: torch.Tensor, h_ND: torch.Tensor, factors: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    """The gradients of the factors (A, B, A, B, ...) of layers that read `h_ND` and whose outputs, side by side, have
    the gradient `d_NO`."""
    found: list[torch.Tensor | None] = []
    at = 0
    for first_RD, second_OR in zip(factors[::2], factors[1::2], strict=True):
        d_own = d_NO[:, at : at + second_OR.shape[0]]
        at += second_OR.shape[0]
        if second_OR.shape[1]:
            found += [(d_own @ second_OR).T @ h_ND, d_own.T @ (h_ND @ first_RD.T)]
        else:
            found += [None, None]
    return found
