"""Measures a base without an adapter: copying, choosing, converting, and the four roles in held-out worlds.

    python -m training.tiny.pretraining.measure --base rehearsal-tiny [--rows 400]

Prints JSON. Held-out worlds have seeds that pre-training does not use.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import defaultdict
from typing import Any

import numpy as np
import torch

from training.models.base import Base, load_base
from training.models.chat import SPECIAL_TOKENS
from training.models.edits import EditError, decode
from training.tiny.pretraining.choosing import Choosing
from training.tiny.pretraining.copying import copying_batch
from training.tiny.pretraining.rows import draw_row
from training.tiny.pretraining.worlds.talk import Talk
from training.tiny.pretraining.worlds.units import units_row

HELD_OUT_SEED = 1_000_000_007
DISTANCES = (16, 32, 64, 96, 128, 192, 256, 384)


@torch.inference_mode()
def copying_by_distance(base: Base, rows: int = 64, length: int = 384) -> dict[str, float]:
    """Accuracy on tokens inside repeats, by the distance to the word's last occurrence (in tokens, upper edges)."""
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
    """Distance to the last occurrence of the two tokens that end at `at`."""
    pairs = np.nonzero((ids_T[1:at] == ids_T[at]) & (ids_T[: at - 1] == ids_T[at - 1]))[0]
    return int(at - 1 - pairs[-1]) if len(pairs) else DISTANCES[-1]


@torch.inference_mode()
def drills(base: Base, rows: int = 200, length: int = 192) -> dict[str, float]:
    """Accuracies: choosing the listed item that was meant (short, then long lists), and converting units."""
    rng, ordinary = np.random.default_rng(HELD_OUT_SEED), np.arange(len(SPECIAL_TOKENS), base.model.config.vocab_size)
    choosing = Choosing(rng, ordinary, np.array([base.format.encode(d)[0] for d in "0123456789"]))
    found = {}
    for name, hardness in (("choosing, plain", 0.0), ("choosing, hard", 1.0)):
        choosing.hardness = hardness
        ids_BT, _, deciding_BT = choosing.batch(rows, length)
        found[name] = _accuracy(base, ids_BT, deciding_BT)
    for name, loose in (("units", False), ("units in random text", True)):
        rngs = [random.Random(HELD_OUT_SEED + k) for k in range(rows)]
        drawn = [units_row(rng, base.format.encode, length, loose) for rng in rngs]
        found[name] = _accuracy(base, np.array([ids for ids, _ in drawn]), np.array([known for _, known in drawn]))
    return found


def _accuracy(base: Base, ids_BT: np.ndarray, scored_BT: np.ndarray) -> float:
    right = 0
    for start in range(0, len(ids_BT), 16):
        part = slice(start, start + 16)
        guesses = base.model(torch.from_numpy(ids_BT[part])).logits[:, :-1].argmax(-1).numpy()
        right += int((guesses == ids_BT[part, 1:])[scored_BT[part, 1:]].sum())
    return round(right / max(1, int(scored_BT[:, 1:].sum())), 4)


@torch.inference_mode()
def chosen_in_worlds(base: Base, count: int = 100) -> float:
    """Share of greedy calls after a list of similar items, in held-out worlds, that use the item that was meant."""
    rng, right, asked = random.Random(HELD_OUT_SEED + 2), 0, 0
    while asked < count:
        talk = Talk(rng).run()
        at = next((k for k in talk.lists if _similar(talk.messages[k - 1]["content"])), None)
        if at is None or not talk.success:
            continue
        asked += 1
        prompt = base.format.prompt(talk.messages[:at], talk.tools)
        out = base.model.generate(  # type: ignore[operator]
            torch.tensor([prompt]), max_new_tokens=40, do_sample=False, pad_token_id=base.format.pad_id
        )
        (wanted,) = talk.messages[at]["tool_calls"][0]["arguments"].values()
        right += f'"{wanted}"' in base.format.decode(out[0, len(prompt) :].tolist())
    return right / count


def _similar(content: str) -> bool:
    """Whether a list has two items or more."""
    try:
        body = json.loads(content)
    except ValueError:
        return content.count("\n") > 1
    return any(isinstance(v, list) and len(v) > 1 for v in body.values()) if isinstance(body, dict) else False


@torch.inference_mode()
def roles(base: Base, rows: int = 400) -> dict[str, dict[str, float]]:
    """By role: share of learned tokens predicted, and of whole answers predicted (each token given those before)."""
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
    """Share of greedy world answers that are a digit and a valid edit (`is_answer`)."""
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
        valid += is_answer(written, prompt_text=base.format.decode(prompt))
    return valid / rows


SEEN = re.compile(r"^~?\[\d+\] [^\n]*\n(.*?)(?=^~?\[\d+\] |^< )", re.MULTILINE | re.DOTALL)
"""One numbered observation of a world's prompt (training.models.roles.WorldPrompt)."""


def is_answer(written: str, prompt_text: str) -> bool:
    """Whether a digit and a valid edit were written, which yield a text, or JSON that is whole."""
    if not written[:1].isdigit():
        return False
    sources = [content.strip() for content in SEEN.findall(prompt_text.removeprefix("world"))]
    try:
        text = decode(written[1:], sources)
        return bool(text) and (text[0] not in '{["' or isinstance(json.loads(text), dict | list))
    except (EditError, ValueError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="rehearsal-tiny")
    parser.add_argument("--rows", type=int, default=400)
    arguments = parser.parse_args()
    base = load_base(arguments.base)
    found: dict[str, Any] = {"copying_by_distance": copying_by_distance(base), "roles": roles(base, arguments.rows)}
    found["drills"], found["chosen_in_worlds"] = drills(base), chosen_in_worlds(base)
    found["world_validity"] = world_validity(base)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
