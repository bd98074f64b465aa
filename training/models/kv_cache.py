"""Key-value caches: one padded block for rows that decode together, and a store of prefixes between turns."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache


class CacheMemory:
    """Memory that is reused for successive blocks, because allocating new pages is slow compared to a short round."""

    def __init__(self, dtype: torch.dtype, device: Any) -> None:
        self._held = torch.zeros(0, dtype=dtype, device=device)

    def take(self, shape: Sequence[int]) -> torch.Tensor:
        """A tensor of this shape with finite values. It invalidates the tensor that was taken before."""
        count = math.prod(shape)
        if count > len(self._held):
            self._held = torch.zeros(count + count // 4, dtype=self._held.dtype, device=self._held.device)
        return self._held[:count].view(*shape)


class BatchCache(Cache):
    """Keys and values of B rows with individual lengths: [layers][B, heads, capacity, size].

    `place` sets where the next forward pass writes: `columns_BT` per row and token. The last column collects padding
    and is never attended to. Attention sees the first `visible` columns (and the caller's mask).
    """

    def __init__(self, config: PreTrainedConfig, rows: int, capacity: int, memory: CacheMemory) -> None:
        self.capacity = capacity + 1
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.keys, self.values = memory.take((2, config.num_hidden_layers, rows, heads, self.capacity, size))
        self.layers: list[Any] = []  # transformers' own caches use it; this one does not
        self.layer_class_to_replicate = None
        self.offloading = False

    def place(self, columns_BT: torch.Tensor, start: int, visible: int) -> None:
        """Set the columns for the next pass over the B rows from `start` on."""
        rows, heads = columns_BT.shape[0], self.keys.shape[2]
        row_B11 = torch.arange(start, start + rows, device=columns_BT.device)[:, None, None]
        head_H1 = torch.arange(heads, device=columns_BT.device)[:, None]
        self._at_N = ((row_B11 * heads + head_H1) * self.capacity + columns_BT[:, None]).reshape(-1)
        self._rows, self.visible = slice(start, start + rows), visible

    def append(
        self, layer: int, keys_BHTD: torch.Tensor, values_BHTD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's keys and values; return all that its rows can attend to: two [B, heads, visible, size]."""
        seen = []
        for block, new in ((self.keys[layer], keys_BHTD), (self.values[layer], values_BHTD)):
            size = block.shape[-1]
            block.view(-1, size).index_copy_(0, self._at_N, new.reshape(-1, size).to(block.dtype))
            seen.append(block[self._rows, :, : self.visible])
        return seen[0], seen[1]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The method that transformers calls."""
        return self.append(layer_idx, key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # the caller always gives positions and masks

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        return self.capacity

    def write(self, row: int, block: torch.Tensor) -> None:
        """Put a stored prefix [2, layers, heads, length, size] into a row."""
        length = block.shape[3]
        self.keys[:, row, :, :length] = block[0]
        self.values[:, row, :, :length] = block[1]

    def read(self, row: int, length: int) -> torch.Tensor:
        return torch.stack((self.keys[:, row, :, :length], self.values[:, row, :, :length]))

    def grow(self, by: int) -> None:
        """Add `by` columns to every row; the padding column stays last."""
        self.keys, self.values = (F.pad(block, (0, 0, 0, by)) for block in (self.keys, self.values))
        self.capacity += by

    def keep_rows(self, rows: Sequence[int], lengths: Sequence[int]) -> None:
        """Keep only these rows (ascending), of which the first `lengths` columns are in use."""
        for to, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            if to != row:
                for block in (self.keys, self.values):
                    block[:, to, :, :length] = block[:, row, :, :length]

    def spread(self, source: torch.Tensor) -> None:
        """Replace the rows with copies of the rows that `source` names."""
        self.keys, self.values = self.keys[:, source], self.values[:, source]


@dataclass(frozen=True)
class Prefix:
    """A stored prefix: its ids, and keys and values for all of them."""

    ids: tuple[int, ...]
    block: torch.Tensor


class PrefixStore:
    """Prefixes by (adapter, ids). Beyond `max_tokens` the least recently used are removed."""

    _PRIME, _MASK = 1_000_003, (1 << 61) - 1

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._held: OrderedDict[tuple[object, int], Prefix] = OrderedDict()
        self._tokens = 0

    def longest(self, owner: object, ids: Sequence[int]) -> Prefix | None:
        """The longest stored proper prefix of `ids` (at least one id remains to run)."""
        best, state = None, 0
        for token in ids[:-1]:
            state = (state * self._PRIME + token + 1) & self._MASK
            if (owner, state) in self._held:
                best = (owner, state)
        if best is None:
            return None
        found = self._held[best]
        if tuple(ids[: len(found.ids)]) != found.ids:  # a hash collision
            return None
        self._held.move_to_end(best)
        return found

    def put(self, owner: object, ids: tuple[int, ...], block: torch.Tensor) -> None:
        if len(ids) > self.max_tokens:
            return
        state = 0
        for token in ids:
            state = (state * self._PRIME + token + 1) & self._MASK
        old = self._held.pop((owner, state), None)
        self._tokens += len(ids) - (len(old.ids) if old else 0)
        self._held[(owner, state)] = Prefix(ids, block)
        while self._tokens > self.max_tokens:
            _, gone = self._held.popitem(last=False)
            self._tokens -= len(gone.ids)

    def drop(self, owner: object) -> None:
        for key in [k for k in self._held if k[0] is owner]:
            self._tokens -= len(self._held.pop(key).ids)
