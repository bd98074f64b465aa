"""Keys and values: one padded block for the rows that decode together, and a store of prefixes between turns."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache


class BatchCache(Cache):
    """Keys and values of B rows with lengths of their own: [layers][B, heads, capacity, size].

    `place` says where the next forward pass writes: `columns_BT` per row and token. The last column is a bin for
    padding; nothing may attend to it. Attention sees the first `visible` columns (and the mask of the caller).
    """

    def __init__(self, config: PreTrainedConfig, rows: int, capacity: int, dtype: torch.dtype, device: Any) -> None:
        self.capacity = capacity + 1
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, rows, heads, self.capacity, size)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.layers: list[Any] = []  # what transformers' own caches keep here is not used
        self.layer_class_to_replicate = None
        self.offloading = False

    def place(self, columns_BT: torch.Tensor, rows_B: torch.Tensor | None, visible: int) -> None:
        """Rows default to the first B."""
        count = columns_BT.shape[0]
        self._rows_B = torch.arange(count, device=columns_BT.device) if rows_B is None else rows_B
        self._whole = rows_B is None
        self._columns_BT, self._visible = columns_BT, visible

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        rows = self._rows_B[:, None]
        keys[rows, :, self._columns_BT] = key_states.transpose(1, 2).to(keys.dtype)
        values[rows, :, self._columns_BT] = value_states.transpose(1, 2).to(values.dtype)
        if self._whole:
            count = len(self._rows_B)
            return keys[:count, :, : self._visible], values[:count, :, : self._visible]
        return keys[self._rows_B, :, : self._visible], values[self._rows_B, :, : self._visible]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions and masks are always given by the caller

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
        """Room for `by` more columns in every row; the bin moves to the new end."""
        self.keys, self.values = (F.pad(block, (0, 0, 0, by)) for block in (self.keys, self.values))
        self.capacity += by

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Drop all rows but these, in this order."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


@dataclass(frozen=True)
class Prefix:
    """A stored prefix: its ids, and keys and values for all of them."""

    ids: tuple[int, ...]
    block: torch.Tensor


class PrefixStore:
    """Prefixes by (adapter, ids), the least recently used thrown out beyond `most_tokens`."""

    _PRIME, _MASK = 1_000_003, (1 << 61) - 1

    def __init__(self, most_tokens: int) -> None:
        self.most_tokens = most_tokens
        self._held: OrderedDict[tuple[object, int], Prefix] = OrderedDict()
        self._tokens = 0

    def longest(self, owner: object, ids: Sequence[int]) -> Prefix | None:
        """The longest stored proper prefix of `ids` (at least one id is left to run)."""
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
        if len(ids) > self.most_tokens:
            return
        state = 0
        for token in ids:
            state = (state * self._PRIME + token + 1) & self._MASK
        old = self._held.pop((owner, state), None)
        self._tokens += len(ids) - (len(old.ids) if old else 0)
        self._held[(owner, state)] = Prefix(ids, block)
        while self._tokens > self.most_tokens:
            _, gone = self._held.popitem(last=False)
            self._tokens -= len(gone.ids)

    def drop(self, owner: object) -> None:
        for key in [k for k in self._held if k[0] is owner]:
            self._tokens -= len(self._held.pop(key).ids)
