"""Every example in docs/files.md is a line that can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ingest.lake import Lake

DOCUMENT = (Path(__file__).parents[3] / "docs" / "files.md").read_text()
EXAMPLES = [line for block in re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_is_read_to_a_conversation(tmp_path: Path, number: int) -> None:
    (tmp_path / "example.jsonl").write_text(EXAMPLES[number] + "\n")
    lake = Lake.create(tmp_path / "lake")
    done = lake.ingest([tmp_path / "example.jsonl"])
    lake.describe(done)
    assert not done.problems and done.new and done.conversations and not done.unread_log_records
    assert all(c.messages for c in lake.conversations())
