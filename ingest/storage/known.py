"""A set of row hashes with 16 bytes per row, where a Python set needs a hundred."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

HASH = np.dtype("S16")  # bytes; comparison ignores trailing zeros, which does not matter at equal length


def as_array(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Row hashes as ``S16``, without one Python object per row."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    whole = whole.cast(pa.binary(16))
    if not len(whole):
        return np.empty(0, HASH)
    return np.frombuffer(whole.buffers()[1], HASH)[whole.offset : whole.offset + len(whole)]


class Known:
    """Sorted runs. A run is merged into the previous one when it is no longer much smaller, so a row moves about
    log(rows) times at most."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    @classmethod
    def of(cls, columns: Iterable[pa.ChunkedArray]) -> Known:
        """All hashes in these columns."""
        known = cls()
        arrays = [as_array(column) for column in columns]
        if arrays:
            known._runs.append(np.sort(np.concatenate(arrays)))
        return known

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def add(self, hashes: np.ndarray) -> np.ndarray:
        """Add hashes (``S16``); return the ascending positions of the new ones. Of equal ones only the first is new."""
        batch, first = np.unique(hashes, return_index=True)
        new = np.ones(len(batch), bool)
        for run in self._runs:
            at = np.searchsorted(run, batch)
            at[at == len(run)] = 0
            if len(run):
                new &= run[at] != batch
        if new.any():
            self._push(batch[new])
        return np.sort(first[new])

    def _push(self, run: np.ndarray) -> None:
        self._runs.append(run)
        while len(self._runs) > 1 and 2 * len(self._runs[-1]) >= len(self._runs[-2]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")
