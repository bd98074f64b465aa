"""Stores every practice episode: messages, ids, log-probabilities, provenance of the answers, score, judge's reason.

One compressed file of JSON lines per step, written atomically before the step's update. A resumed run writes the same
file again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import zstandard

from ingest.errors import UserError
from training.learning.trajectory import Trajectory

NAME = "step-{:05d}.jsonl.zst"


def write_episodes(directory: Path, step: int, groups: Sequence[Sequence[Trajectory]]) -> Path:
    """Store the episodes of one step; returns the file."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(as_record(trajectory, step, number, member), separators=(",", ":"))
        for number, group in enumerate(groups)
        for member, trajectory in enumerate(group)
    ]
    path = directory / NAME.format(step)
    partial = path.with_suffix(".partial")
    partial.write_bytes(zstandard.ZstdCompressor().compress("".join(f"{line}\n" for line in lines).encode()))
    partial.replace(path)
    return path


def as_record(trajectory: Trajectory, step: int, group: int, member: int) -> dict[str, Any]:
    """An episode as JSON. `ids`, `trained` (0 or 1) and `logprobs` (one per learned id) are those of the update;
    `closed_rows` are the earlier rows, if the chat template rewrote earlier turns."""
    return {
        "step": step,
        "group": group,
        "member": member,
        "scenario": trajectory.start.episode_id,
        "seed": trajectory.seed,
        "adapter": trajectory.adapter,
        "reward": trajectory.reward,
        "as_recorded": trajectory.as_recorded,
        "advantage": trajectory.extra.get("advantage", 0.0),
        "reason": trajectory.extra.get("reason", ""),
        "ended": trajectory.ended,
        "abstained": trajectory.extra.get("abstained", ""),
        "malformed": trajectory.malformed,
        "provenance": trajectory.provenance(),
        "messages": trajectory.messages,
        "observations": [asdict(seen) for seen in trajectory.observations],
        "ids": trajectory.ids,
        "trained": [int(t) for t in trajectory.trained],
        "logprobs": trajectory.logprobs,
        "closed_rows": [
            {"ids": row.ids, "trained": [int(t) for t in row.trained], "logprobs": row.logprobs}
            for row in trajectory.closed
        ],
    }


def read_episodes(directory: Path, step: int | None = None, scenario: str | None = None) -> Iterator[dict[str, Any]]:
    """Stored episodes, oldest step first. Raises UserError if none are stored, or none of that step or scenario."""
    paths = sorted(directory.glob("step-*.jsonl.zst")) if step is None else [directory / NAME.format(step)]
    if not paths or not paths[0].is_file():
        steps = sorted(int(p.name.split("-")[1].split(".")[0]) for p in directory.glob("step-*.jsonl.zst"))
        if not steps:
            raise UserError(
                f"no practice episodes are stored in {directory}: no practice has run in this home "
                "(policy/candidate), or train.keep_episodes is off"
            )
        raise UserError(f"no episodes of step {step} in {directory}; stored are steps {steps[0]} to {steps[-1]}")
    found = scenario is None
    for path in paths:
        with zstandard.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                if scenario is None or record["scenario"] == scenario:
                    found = True
                    yield record
    if not found:
        where = "any step" if step is None else f"step {step}"
        raise UserError(f"no episodes of scenario {scenario!r} in {where} of {directory}")


def as_text(record: dict[str, Any]) -> str:
    """An episode as readable text."""
    reward = "unscored" if record["reward"] is None else f"reward {record['reward']:.3f}"
    if record.get("as_recorded") is not None:
        reward += f" (changes as recorded: {record['as_recorded']:.2f})"
    head = (
        f"step {record['step']}, group {record['group']}, member {record['member']}: scenario {record['scenario']}, "
        f"{record['adapter']}, {reward}, advantage {record['advantage']:+.3f}, ended: {record['ended'] or 'no'}"
    )
    lines = [head, *([f"judge: {record['reason']}"] if record["reason"] else [])]
    for message in record["messages"]:
        calls = [f"{c['name']}({json.dumps(c['arguments'])})" for c in message.get("tool_calls") or ()]
        source = f" [{message['provenance']}]" if message.get("provenance") else ""
        lines.append(f"  {message['role']}{source}: {' '.join([message.get('content') or '', *calls]).strip()}")
    learned = sum(record["trained"])
    lines.append(f"  {len(record['ids'])} ids, {learned} learned, mean log-probability {_mean(record['logprobs']):.3f}")
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
