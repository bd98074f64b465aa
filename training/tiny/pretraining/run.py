"""Pre-trains rehearsal-tiny: first copying, then choosing among similar items, then procedural tool worlds.

    python -m training.tiny.pretraining.run --out artifacts/tiny --minutes 60

Writes a Hugging Face directory (model, tokenizer, chat template), `history.jsonl` (one line per 50 steps) and
`state.pt`, from which a run resumes after a kill.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from training.learning.head import HEAD_ROWS
from training.learning.learner import load_state, save_state
from training.models.base import base_path, load_base
from training.models.chat import SPECIAL_TOKENS, ChatFormat, CompactFormat
from training.models.roles import transcript
from training.tiny.passes.learning import SmallBody
from training.tiny.pretraining import lexicon
from training.tiny.pretraining.choosing import Choosing, amounts_row
from training.tiny.pretraining.copying import copying_batch, draw_pool
from training.tiny.pretraining.induction import plant_induction
from training.tiny.pretraining.rows import draw_row
from training.tiny.pretraining.talk import Talk
from training.tiny.pretraining.tokenizer import train_tokenizer

WARM_UP = 100
ENOUGH, HARDER = 0.8, 0.02
"""When the accuracy in choosing reaches ENOUGH, each further batch is harder by HARDER (hardness is 0 to 1)."""
COPY_STEPS = 400
DRILL_TOKENS = 4096
WORLD_TOKENS = 8192
LONGEST_ROW = 1024

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Token ids [B, T], mask of learned targets, and mask of the targets that count in the accuracy."""


def tokenizer_texts(conversations: int = 6000) -> Iterator[str]:
    """Training text of the tokenizer: procedural transcripts, and each common word with and without a space."""
    for seed in range(conversations):
        yield transcript(Talk(random.Random(seed)).run().messages)
    words = [*lexicon.COMMON, *lexicon.FIELDS, *lexicon.STATUSES, *lexicon.VERBS]
    for _ in range(150):
        yield " ".join(words)
        yield '{"' + '","'.join(words) + '"}'
        yield "_".join(words)


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    plant_induction(model, seed)
    return model


def answer_loss(
    body: SmallBody, head: nn.Module, ids_BT: torch.Tensor, trained_BT: torch.Tensor, scored_BT: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Mean cross-entropy over learned targets, and the accuracy over the scored ones; other positions skip the head."""
    hidden_BTD, chosen_BT = body(ids_BT[:, :-1]), trained_BT[:, 1:]
    hidden_ND, targets_N = hidden_BTD[chosen_BT], ids_BT[:, 1:][chosen_BT]
    padded_ND = F.pad(hidden_ND, (0, 0, 0, -len(hidden_ND) % HEAD_ROWS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_NV = head(padded_ND)[: len(hidden_ND)].float()
    right_N = (logits_NV.argmax(-1) == targets_N)[scored_BT[:, 1:][chosen_BT]]
    return F.cross_entropy(logits_NV, targets_N), right_N.float().mean().item()


def world_batches(rng: random.Random, chat: ChatFormat) -> Iterator[Batch]:
    """Endless batches of at most WORLD_TOKENS padded tokens, grouped by similar length, in random order."""
    while True:
        rows = [row for _, row in (draw_row(rng, chat) for _ in range(1500)) if len(row[0]) <= LONGEST_ROW]
        rows.sort(key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[bool]]]] = [[]]
        for row in rows:
            if groups[-1] and len(row[0]) * (len(groups[-1]) + 1) > WORLD_TOKENS:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            yield _padded(group, chat.pad_id)


def _padded(rows: list[tuple[list[int], list[bool]]], pad_id: int) -> Batch:
    longest = 32 * math.ceil(max(len(ids) for ids, _ in rows) / 32)  # few shapes, because each new one is compiled
    ids_BT = torch.full((len(rows), longest), pad_id)
    trained_BT = torch.zeros((len(rows), longest), dtype=torch.bool)
    for k, (ids, trained) in enumerate(rows):
        ids_BT[k, : len(ids)] = torch.tensor(ids)
        trained_BT[k, : len(ids)] = torch.tensor(trained)
    return ids_BT, trained_BT, trained_BT


class Phase(BaseModel):
    """A phase of a run: kinds of batches in turn, for a number of training minutes."""

    model_config = ConfigDict(frozen=True)

    name: str
    turns: tuple[str, ...]
    rates: tuple[float, float]
    """The learning rate at the start and at the end of the phase, with a cosine in between."""


PHASES = (
    Phase(name="copy", turns=("copy",), rates=(1.5e-3, 1.5e-3)),
    Phase(name="drill", turns=("choose", "choose", "world", "choose", "amounts", "choose", "copy"), rates=(1e-3, 1e-3)),
    Phase(
        name="world",
        turns=("world", "choose", "world", "copy", "world", "choose", "world", "amounts"),
        rates=(1e-3, 5e-5),
    ),
)


class Run:
    """The state of one pre-training run: model, optimizer, step, output directory."""

    def __init__(self, out: Path, seed: int, start: str | None = None) -> None:
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        self.tokenizer = self._tokenizer(start)
        self.chat = CompactFormat(self.tokenizer)
        self.model = new_model(self.tokenizer, seed) if start is None else _whole(start)
        self.body = SmallBody(self.model, torch.bfloat16)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        self.step, self.hardness = 0, 0.0
        self.minutes = dict.fromkeys((p.name for p in PHASES), 0.0)
        if (out / "state.pt").exists():
            state = load_state(out / "state.pt")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.hardness, self.minutes = state["step"], state["hardness"], state["minutes"]
        self.averages: dict[str, tuple[float, float]] = {}
        self.numbers = np.random.default_rng([seed, self.step])
        self.rng = random.Random(seed + self.step)
        self.ordinary = np.arange(len(SPECIAL_TOKENS), len(self.tokenizer))
        self.digits = np.array(self.tokenizer.convert_tokens_to_ids(list("0123456789-")))
        self.choosing = Choosing(self.numbers, self.ordinary, self.digits)
        worlds = world_batches(self.rng, self.chat)
        self.draw: dict[str, Callable[[], Batch]] = {
            "copy": self._copies, "choose": self._choices, "amounts": self._amounts, "world": lambda: next(worlds)
        }  # fmt: skip

    def _tokenizer(self, start: str | None) -> PreTrainedTokenizerFast:
        if start is not None:
            PreTrainedTokenizerFast.from_pretrained(base_path(start)).save_pretrained(self.out)
        if (self.out / "tokenizer.json").exists():
            return PreTrainedTokenizerFast.from_pretrained(self.out)
        tokenizer = train_tokenizer(tokenizer_texts())
        tokenizer.save_pretrained(self.out)
        return tokenizer

    # ----- drawing

    def _length(self, low: int, high: int) -> int:
        return 32 * int(self.numbers.integers(low // 32, high // 32 + 1))

    def _copies(self) -> Batch:
        length = self._length(64, 96 if self.step < COPY_STEPS // 2 else 512)
        pool = draw_pool(self.numbers, self.ordinary, self.digits)
        ids_BT, known_BT = copying_batch(self.numbers, max(1, DRILL_TOKENS // length), length, pool)
        return torch.from_numpy(ids_BT), torch.from_numpy(known_BT), torch.from_numpy(known_BT)

    def _choices(self) -> Batch:
        length = self._length(64, 256)
        self.choosing.hardness = self.hardness
        ids_BT, known_BT, deciding_BT = self.choosing.batch(DRILL_TOKENS // length, length)
        return torch.from_numpy(ids_BT), torch.from_numpy(known_BT), torch.from_numpy(deciding_BT)

    def _amounts(self) -> Batch:
        length = self._length(96, 192)
        rows = [amounts_row(self.rng, self.chat.encode, length) for _ in range(DRILL_TOKENS // length)]
        known_BT = torch.tensor([known for _, known in rows])
        return torch.tensor([ids for ids, _ in rows]), known_BT, known_BT

    # ----- learning

    def run(self, phase: Phase, minutes: float, steps: float = math.inf) -> None:
        """Run a phase until its minutes or steps are spent; a killed run resumes at its last save."""
        saved = before = time.monotonic()
        done = self.minutes[phase.name] / minutes if minutes else 1.0
        first, last = phase.rates
        while done < 1 and self.step < steps:
            rate = last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))
            name = phase.turns[self.step % len(phase.turns)]
            self._learn(name, rate)
            if name == "choose" and self.averages["choose"][1] > ENOUGH:
                self.hardness = min(1.0, self.hardness + HARDER)
            if self.step % 50 == 0:
                self._log(phase.name)
            now = time.monotonic()
            self.minutes[phase.name] += (now - before) / 60
            before, done = now, self.minutes[phase.name] / minutes
            if now - saved > 240:
                self.save()
                saved = now
        self.save()

    def _learn(self, name: str, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1.0, (self.step + 1) / WARM_UP)
        loss, accuracy = answer_loss(self.body, self.model.lm_head, *self.draw[name]())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        before = self.averages.get(name, (loss.item(), accuracy))
        self.averages[name] = (0.97 * before[0] + 0.03 * loss.item(), 0.97 * before[1] + 0.03 * accuracy)

    def _log(self, phase: str) -> None:
        line: dict[str, Any] = {"step": self.step, "phase": phase, "minutes": round(sum(self.minutes.values()), 2)}
        line["hardness"] = round(self.hardness, 2)
        for name, (loss, accuracy) in self.averages.items():
            line[name] = {"loss": round(loss, 4), "accuracy": round(accuracy, 4)}
        with (self.out / "history.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def save(self) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        save_state({**state, "hardness": self.hardness, "minutes": self.minutes}, self.out / "state.pt")
        self.model.save_pretrained(self.out)


def _whole(start: str) -> Qwen2ForCausalLM:
    """The model to continue from, with all weights trainable."""
    model = load_base(start).model
    return cast(Qwen2ForCausalLM, model.float().requires_grad_(True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for model, tokenizer and history")
    parser.add_argument("--drill-minutes", type=float, default=15, help="minutes for choosing and amounts")
    parser.add_argument("--minutes", type=float, default=60, help="minutes for procedural worlds, at the end")
    parser.add_argument("--start", help="a base to continue from, instead of a new model and the copying phase")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    run = Run(arguments.out, arguments.seed, arguments.start)
    copying, drill, world = PHASES
    if arguments.start is None:
        run.run(copying, math.inf, steps=COPY_STEPS)
    run.run(drill, arguments.drill_minutes)
    run.run(world, arguments.minutes)


if __name__ == "__main__":
    main()
