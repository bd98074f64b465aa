"""Which record of a list the user named."""

from __future__ import annotations

import json

import pytest

from training.tiny.focus import named

ROWS = [
    {"no": "A-1", "month": "May 2027", "cost": 4},
    {"no": "A-2", "month": "June 2027", "cost": 9},
    {"no": "A-3", "month": "June 2028", "cost": 9},
]


@pytest.mark.parametrize(
    ("said", "number"),
    [
        (["the one of may, please"], "A-1"),
        (["what did June 2028 cost?"], "A-3"),
        (["hello", "A-2"], "A-2"),
        (["June"], None),  # two of them
        (["2027 or so"], None),
        (["which are there?"], None),
    ],
)
def test_the_record_that_shares_most_with_what_was_said(said, number):
    found = named(json.dumps({"total": 3, "bills": ROWS}), said)
    assert (json.loads(found)["no"] if found else None) == number


@pytest.mark.parametrize(
    ("content", "record"),
    [
        ("No. Colour\n7 red\n8 blue", "8 blue"),
        ('["red door (7)","blue door (8)"]', "blue door (8)"),
        ('{"7":{"colour":"red"},"8":{"colour":"blue"}}', '{"8":{"colour":"blue"}}'),
        ('{"pages":[{"rows":[{"colour":"red"},{"colour":"blue"}]}]}', '{"colour":"blue"}'),
        ('{"colour":"blue"}', ""),
        ("blue", ""),
        ("", ""),
    ],
)
def test_forms_of_lists(content, record):
    assert named(content, ["the Blue one"]) == record
