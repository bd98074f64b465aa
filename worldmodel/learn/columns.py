"""The sources of a situation as columns of numbers, one for all rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from worldmodel.derive.functions import apply
from worldmodel.derive.values import ABSENT, UNKNOWN, freeze, is_date, is_number

IS_UNKNOWN, IS_ABSENT, IS_NULL, IS_TRUE, IS_FALSE, IS_WHOLE = -1, -2, -3, -4, -5, -6
_CODES: dict[Any, int] = {UNKNOWN: IS_UNKNOWN, ABSENT: IS_ABSENT, None: IS_NULL, True: IS_TRUE, False: IS_FALSE}


class Column:
    """One source over all rows, as numbers: equal texts and numbers have equal codes, counted from 0 as they come; what
    is neither has a code below 0. `shared` numbers the texts of all columns of a table."""

    def __init__(self, column: Sequence[Any], shared: dict[str, int]) -> None:
        self.column = column
        numbered: dict[Any, int] = {}
        values: list[Any] = []
        codes: list[int] = []
        for value in column:
            kind = value.__class__
            if kind is str or kind is int:
                frozen = value
            elif kind is float:
                frozen = freeze(value)
            else:
                codes.append(IS_WHOLE if kind is list or kind is dict else _CODES[value])
                continue
            code = numbered.get(frozen)
            if code is None:
                code = numbered[frozen] = len(values)
                values.append(value)
            elif kind is not str:
                values[code] = value
            codes.append(code)
        self.frozen, self.values = list(numbered), values
        self.codes = np.array(codes, dtype=np.int64)
        self.counts = np.bincount(self.codes[self.codes >= 0], minlength=len(values))
        self._shared = [shared.setdefault(v, len(shared)) if isinstance(v, str) else -1 for v in values]
        kinds = {v.__class__ for v in values}
        self.has_texts = str in kinds
        self.has_numbers = int in kinds or float in kinds
        special = set(np.unique(self.codes[self.codes < 0]).tolist())
        self.has_booleans = IS_TRUE in special or IS_FALSE in special
        self.has_nulls, self.has_wholes = IS_NULL in special, IS_WHOLE in special

    @cached_property
    def numbers(self) -> np.ndarray:
        """The numbers of the column, NaN elsewhere."""
        of = np.array([*(v if is_number(v) else np.nan for v in self.values), np.nan], dtype=float)
        found: np.ndarray = of[self.codes.clip(min=-1)]
        return found

    @cached_property
    def texts(self) -> np.ndarray:
        """The table's numbers of the texts of the column, -1 elsewhere."""
        found: np.ndarray = np.array([*self._shared, -1], dtype=np.int64)[self.codes.clip(min=-1)]
        return found


def days_of(texts: dict[str, int]) -> np.ndarray:
    """By the number of a text: the day that it names, counted from any day; NaN where it names none."""
    counted = (apply("days_between", (text, "2000-01-01")) if is_date(text) else UNKNOWN for text in texts)
    return np.array([*(v if is_number(v) else np.nan for v in counted), np.nan], dtype=float)


def date_ranks(texts: dict[str, int]) -> np.ndarray:
    """By the number of a text: its place among all dates; NaN where it is none, and at the end for no text."""
    dates = {text: at for at, text in enumerate(sorted(t for t in texts if is_date(t)))}
    return np.array([*(dates.get(text, np.nan) for text in texts), np.nan], dtype=float)
