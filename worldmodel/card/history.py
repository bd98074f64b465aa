"""The cards of earlier worlds in short, one JSON line a world, kept beside a world and handed on by the next fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ingest.atomic import write_text

FILE = "cards.jsonl"
SHOWN_VERSIONS = 5
MEASURES = ("n", "exact_match", "exact_ci", "derivable", "outcome_f1", "log_loss", "errors", "read_after_write")


def in_short(card: Mapping[str, Any]) -> dict[str, Any]:
    """What of a card is kept for the comparison with later worlds."""
    tools = {
        tool: {"n": entry["n"], "exact_match": entry["exact_match"], "status": entry["status"]}
        for tool, entry in card["tools"].items()
    }
    return {"world": card["world"], **{name: card["overall"][name] for name in MEASURES}, "tools": tools}


def earlier(path: Path, world: str | None) -> list[dict[str, Any]]:
    """The cards of the worlds before this one, oldest first."""
    file = path / FILE
    lines = file.read_text().splitlines() if file.exists() else []
    return [one for one in map(json.loads, lines) if one["world"] != world]


def keep(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write the history of a world that was measured."""
    write_text(path / FILE, "".join(json.dumps(one) + "\n" for one in history))


def hand_on(last: Path | None, out: Path) -> None:
    """Copy the history of the world before a new one; a world that is fitted in the same place has it already."""
    if last is not None and (last / FILE).exists() and not (out / FILE).exists():
        shutil.copyfile(last / FILE, out / FILE)
