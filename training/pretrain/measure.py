"""What a base can do before any adapter: copying by distance, and the four roles in worlds it has never seen.

    python -m training.pretrain.measure --base rehearsal-tiny [--rows 400] [--plot docs/tiny-loss.svg]

Prints JSON. Held-out worlds come from seeds that pre-training never uses.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.base import Base, load_base
from training.chat import SPECIAL_TOKENS
from training.edits import EditError, decode
from training.pretrain.copying import copying_batch
from training.pretrain.rows import draw_row

HELD_OUT_SEED = 1_000_000_007
DISTANCES = (16, 32, 64, 96, 128, 192, 256, 384)


@torch.inference_mode()
def copying_by_distance(base: Base, rows: int = 64, length: int = 384) -> dict[str, float]:
    """Accuracy on tokens inside repeats, by how far back the word was last said (in tokens, upper edges)."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    ordinary = np.arange(len(SPECIAL_TOKENS), base.model.config.vocab_size)
    ids_BT, known_BT = copying_batch(rng, rows, length, ordinary)
    right_BT = np.zeros_like(known_BT)
    for start in range(0, rows, 16):
        logits = base.model(torch.from_numpy(ids_BT[start : start + 16])).logits
        right_BT[start : start + 16, 1:] = logits[:, :-1].argmax(-1).numpy() == ids_BT[start : start + 16, 1:]
    counts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for row, column in zip(*np.nonzero(known_BT), strict=True):
        distance = _distance(ids_BT[row], column)
        edge = next((d for d in DISTANCES if distance <= d), DISTANCES[-1])
        counts[edge][0] += int(right_BT[row, column])
        counts[edge][1] += 1
    return {f"<={d}": round(counts[d][0] / counts[d][1], 4) for d in DISTANCES if counts[d][1]}


def _distance(ids_T: np.ndarray, at: int) -> int:
    """How far back the two tokens that end at `at` were last said together."""
    pairs = np.nonzero((ids_T[1:at] == ids_T[at]) & (ids_T[: at - 1] == ids_T[at - 1]))[0]
    return int(at - 1 - pairs[-1]) if len(pairs) else DISTANCES[-1]


@torch.inference_mode()
def roles(base: Base, rows: int = 400) -> dict[str, dict[str, float]]:
    """By role: share of learned tokens predicted, and of answers predicted whole (each token given those before)."""
    rng = random.Random(HELD_OUT_SEED)
    tallies: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for _ in range(rows):
        role, (ids, trained) = draw_row(rng, base.format)
        guesses = base.model(torch.tensor([ids])).logits[0, :-1].argmax(-1)
        right = (guesses == torch.tensor(ids[1:]))[torch.tensor(trained[1:])]
        tallies[role].append((right.float().mean().item(), bool(right.all())))
    return {
        role: {
            "rows": len(found),
            "token_accuracy": round(float(np.mean([a for a, _ in found])), 4),
            "whole_answers": round(float(np.mean([w for _, w in found])), 4),
        }
        for role, found in sorted(tallies.items())
    }


@torch.inference_mode()
def world_validity(base: Base, rows: int = 100) -> float:
    """Share of greedy world answers that are a digit and an edit that yields JSON or an error text."""
    rng, valid, asked = random.Random(HELD_OUT_SEED + 1), 0, 0
    while asked < rows:
        role, (ids, trained) = draw_row(rng, base.format)
        if role != "world":
            continue
        asked += 1
        prompt = ids[: trained.index(True)]
        out = base.model.generate(  # type: ignore[operator]
            torch.tensor([prompt]), max_new_tokens=160, do_sample=False, pad_token_id=base.format.pad_id
        )
        written = base.format.decode(out[0, len(prompt) :].tolist())
        valid += _is_answer(written, prompt_text=base.format.decode(prompt))
    return valid / rows


def _is_answer(written: str, prompt_text: str) -> bool:
    if not written[:1].isdigit():
        return False
    sources = [line for line in prompt_text.splitlines() if line.startswith(("{", "Error"))]
    try:
        text = decode(written[1:], sources)
    except EditError:
        return False
    if text.startswith("Error"):
        return True
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def plot_history(history: Path, target: Path) -> None:
    """The loss curve of a pre-training run, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    lines = [json.loads(line) for line in history.read_text().splitlines()]
    figure, axes = pyplot.subplots(figsize=(8, 3.2))
    for phase, colour in (("copy", "#7a8fa6"), ("worlds", "#c2572b")):
        chosen = [x for x in lines if x["phase"].startswith(phase)]
        axes.plot([x["step"] for x in chosen], [x["accuracy"] for x in chosen], color=colour, label=phase)
    axes.set(xlabel="step", ylabel="accuracy on learned tokens", ylim=(0, 1))
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="rehearsal-tiny")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--history", type=Path, help="history.jsonl of the run, for --plot")
    parser.add_argument("--plot", type=Path, help="where to write the curve")
    arguments = parser.parse_args()
    base = load_base(arguments.base)
    found: dict[str, Any] = {"copying_by_distance": copying_by_distance(base), "roles": roles(base, arguments.rows)}
    found["world_validity"] = world_validity(base)
    print(json.dumps(found, indent=2))
    if arguments.plot and arguments.history:
        plot_history(arguments.history, arguments.plot)


if __name__ == "__main__":
    main()
