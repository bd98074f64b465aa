"""Ids that somebody mentioned, however they were written."""

from __future__ import annotations

import pytest

from worldmodel.generate.unknown import Heard


@pytest.mark.parametrize(
    ("text", "key", "known"),
    [
        ("meter 1EM 659 813 please", "1EM659813", True),
        ("meter 1em659813", "1EM659813", True),
        ("card 4111-1111.1111/1111", "4111111111111111", True),
        ("meter 1EM659813", "1EM 659 813", True),
        ("order 4821", "#W4821", True),
        ("meter 1EM 659 814", "1EM659813", False),
        ("meter 11EM 659 813", "1EM659813", False),
        ("1EM659, and 813", "1EM659813", False),
        ("1 2 3 4 5", "12345", False),  # too short: any numbers in a row would be one
        ("", "1EM659813", False),
    ],
)
def test_a_long_id_is_mentioned_in_any_grouping(text: str, key: str, known: bool) -> None:
    assert Heard([text]).has((key,)) is known
