"""Functions of days."""

from __future__ import annotations

from typing import Any

import pytest

from worldmodel.derive.functions import apply
from worldmodel.derive.values import UNKNOWN


@pytest.mark.parametrize(
    ("name", "of", "found"),
    [
        ("weekdays", ["2025-03-23", "2025-03-27"], 4),  # from a Sunday on
        ("weekdays", ["2025-03-22", "2025-03-23"], 0),
        ("weekdays", ["2025-03-27", "2025-03-23"], 0),
        ("weekdays", ["2025-03-23", "soon"], UNKNOWN),
        ("day %d.%m.%Y", ["2025-03-04"], "04.03.2025"),
        ("day %-d %b", ["2025-03-04T10:00"], "4 Mar"),
        ("day %-d %b", ["2025-03-04abc"], UNKNOWN),
        ("iso %d.%m.%Y", ["04.03.2025"], "2025-03-04"),
        ("iso %d.%m.%Y", ["2025-03-04"], UNKNOWN),
    ],
)
def test_days(name: str, of: list[Any], found: Any) -> None:
    assert apply(name, of) == found
