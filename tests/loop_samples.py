"""Homes of the loop with finished stages in them, whose work took no time."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from conftest import conversation_request

from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import Settings
from dagster_project.loop.stages import MANIFEST, Done, run_stage
from ingest.journal import segments as journal
from training.models.lora import save_weights


def measured(n: int, exact: float, **more: Any) -> dict[str, Any]:
    """An entry of a fidelity card."""
    return {
        "n": n, "exact_match": exact, "field_f1": 0.9, "outcome_f1": 0.8, "schema_validity": None, "coverage": 1.0,
        "errors": {"simulated": 0.1, "real": 0.12}, "read_after_write": {"n": 3, "exact_match": None},
        "baselines": {
            "nearest_copy": {"exact_match": 0.5, "outcome_f1": 0.5},
            "replay_cache": {"exact_match": 0.4, "outcome_f1": 0.4},
        },
        **more,
    }  # fmt: skip


FACTS: dict[str, dict[str, Any]] = {
    "world": {"counts": {"rows": 12}, "history": {}},
    "card": {
        "overall": measured(60, 0.7),
        "tools": {"get_order": measured(60, 0.7, status="warn", why=["only 60 <held-out> calls"])},
        "held_out": {"calls": 60},
    },
    "judge": {"labelled": 9, "form": "score", "agreement": 0.75, "interval": [0.6, 0.9], "pairs": 20},
    "clone": {"rows": 12, "history": [], "mean_tokens": 9.0},
    "candidate": {"history": [{"step": 1, "episodes": 6, "reward": 0.5}], "steps": 1, "best_step": 1},
}


def finish(home: Path, stage: str, facts: dict[str, Any], inputs: dict[str, Any], weight: float | None = None) -> Done:
    """A finished stage of 30 seconds; with `weight` it holds an adapter."""

    def work(directory: Path) -> dict[str, Any]:
        if weight is not None:
            save_adapter(directory / "adapter", weight)
        return facts

    done = run_stage(home / stage, inputs, work)
    manifest = done.directory / MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "seconds": 30.0}))
    return done


def save_adapter(path: Path, weight: float) -> None:
    """An adapter whose weights are all one number."""
    save_weights({"lora_A": torch.full((2, 2), weight)}, {"r": 2}, path, {"kind": "policy"})


def practised_home(home: Path, **changes: Any) -> Settings:
    """A home with twelve conversations in which every stage before the gate is finished; returns its settings."""
    shutil.copytree(_practised(), home, symlinks=True, dirs_exist_ok=True)
    return Settings(home=home, **{"gate": {"scenarios": 8}, **changes})


@cache
def _practised() -> Path:
    """The home that others are copies of: its tables are made once."""
    home = Path(tempfile.mkdtemp(prefix="practised-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    writer = journal.JournalWriter(home / "lake" / "journal")
    bodies = [json.dumps(conversation_request(k)).encode() for k in range(12)]
    writer.append([journal.record("traces_json", 1_760_000_000_000_000_000, body) for body in bodies])
    writer.close()
    loop = Loop(Settings(home=home))
    loop.ingest()
    made: dict[str, Any] = {"data": loop.data().fingerprint, "gate": 8}
    for stage in ("world", "card", "judge"):
        made[stage] = finish(home, stage, FACTS[stage], {"stage": stage}).fingerprint
    made["clone"] = finish(home, "clone", FACTS["clone"], {"stage": "clone"}, weight=1.0).fingerprint
    finish(home, "candidate", FACTS["candidate"], made, weight=2.0)
    return home
