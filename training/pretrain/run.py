"""Pre-train rehearsal-tiny: copying first, then procedural tool worlds.

    python -m training.pretrain.run --out artifacts/tiny --minutes 60

Writes a Hugging Face directory (model, tokenizer, chat template), `history.jsonl` (a line every 50 steps) and, on
the way, `state.pt`, from which a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from training.chat import SPECIAL_TOKENS, ChatFormat, CompactFormat
from training.pretrain import lexicon
from training.pretrain.copying import copying_batch, draw_pool
from training.pretrain.induction import plant_induction
from training.pretrain.rows import draw_row
from training.pretrain.talk import Talk
from training.pretrain.tokenizer import train_tokenizer
from training.roles import transcript

LEARNING_RATE = 1.5e-3
WARM_UP = 100
COPY_STEPS = 400
COPY_TOKENS = 3072
WORLD_TOKENS = 8192
LONGEST_ROW = 1024

Batch = tuple[torch.Tensor, torch.Tensor]


def tokenizer_texts(conversations: int = 6000) -> Iterator[str]:
    """What the tokenizer is trained on: procedural transcripts, and each common word with and without a space."""
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


def answer_loss(model: Qwen2ForCausalLM, ids_BT: torch.Tensor, trained_BT: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Mean cross-entropy over trained targets, and their accuracy; other positions never reach the output head."""
    model.set_attn_implementation("eager" if ids_BT.shape[1] <= 384 else "sdpa")  # measured: 10-25 % on short rows
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden_BTD = model.model(ids_BT[:, :-1], use_cache=False).last_hidden_state
        chosen_BT = trained_BT[:, 1:]
        logits_NV = model.lm_head(hidden_BTD[chosen_BT]).float()
    targets_N = ids_BT[:, 1:][chosen_BT]
    accuracy = (logits_NV.argmax(-1) == targets_N).float().mean().item()
    return F.cross_entropy(logits_NV, targets_N), accuracy


def world_batches(rng: random.Random, chat: ChatFormat) -> Iterator[Batch]:
    """Endless batches of at most WORLD_TOKENS padded tokens, rows of like length together, in random order."""
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
    longest = max(len(ids) for ids, _ in rows)
    ids_BT = torch.full((len(rows), longest), pad_id)
    trained_BT = torch.zeros((len(rows), longest), dtype=torch.bool)
    for k, (ids, trained) in enumerate(rows):
        ids_BT[k, : len(ids)] = torch.tensor(ids)
        trained_BT[k, : len(ids)] = torch.tensor(trained)
    return ids_BT, trained_BT


class Run:
    """The state of one pre-training run: model, optimizer, step, and where its files go."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        self.tokenizer = self._tokenizer()
        self.chat = CompactFormat(self.tokenizer)
        self.model = new_model(self.tokenizer, seed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
        self.step, self.world_seconds, self.seed = 0, 0.0, seed
        self.ordinary = np.arange(len(SPECIAL_TOKENS), len(self.tokenizer))
        self.digits = np.array(self.tokenizer.convert_tokens_to_ids(list("0123456789-")))
        self.started = time.monotonic()
        if (out / "state.pt").exists():
            state = torch.load(out / "state.pt", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.world_seconds = state["step"], state["world_seconds"]
        self.numbers = np.random.default_rng([seed, self.step])

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        if (self.out / "tokenizer.json").exists():
            return PreTrainedTokenizerFast.from_pretrained(self.out)
        tokenizer = train_tokenizer(tokenizer_texts())
        tokenizer.save_pretrained(self.out)
        return tokenizer

    def learn(self, batch: Batch, rate: float) -> tuple[float, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1.0, (self.step + 1) / WARM_UP)
        loss, accuracy = answer_loss(self.model, *batch)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return loss.item(), accuracy

    def log(self, phase: str, loss: float, accuracy: float) -> None:
        minutes = (time.monotonic() - self.started) / 60
        line = {"step": self.step, "phase": phase, "loss": round(loss, 4), "accuracy": round(accuracy, 4)}
        line["minutes"] = round(minutes, 2)
        with (self.out / "history.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def save(self) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        partial = self.out / "state.partial"
        torch.save({**state, "world_seconds": self.world_seconds}, partial)
        partial.rename(self.out / "state.pt")
        self.model.save_pretrained(self.out)

    # ----- the two phases

    def copying(self) -> None:
        """COPY_STEPS batches of random words, short rows first."""
        average, losses = 0.0, 0.0
        while self.step < COPY_STEPS:
            longest = 96 if self.step < COPY_STEPS // 2 else 384
            loss, accuracy = self.learn(self._copies(int(self.numbers.integers(48, longest + 1))), LEARNING_RATE)
            average = 0.95 * average + 0.05 * accuracy if average else accuracy
            losses = 0.95 * losses + 0.05 * loss if losses else loss
            if self.step % 50 == 0:
                self.log("copy", losses, average)
        self.save()

    def _copies(self, length: int) -> Batch:
        pool = draw_pool(self.numbers, self.ordinary, self.digits)
        ids_BT, known_BT = copying_batch(self.numbers, max(1, COPY_TOKENS // length), length, pool)
        return torch.from_numpy(ids_BT), torch.from_numpy(known_BT)

    def worlds(self, minutes: float) -> None:
        """Procedural worlds with one batch in eight from the last copying stage; the rate falls by a cosine."""
        rng = random.Random(self.seed + self.step)
        batches = world_batches(rng, self.chat)
        average, losses, saved, before = 0.0, 0.0, time.monotonic(), time.monotonic()
        while self.world_seconds < minutes * 60:
            rate = LEARNING_RATE * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * self.world_seconds / (minutes * 60))))
            if self.step % 8 == 0:
                self.learn(self._copies(int(self.numbers.integers(96, 513))), rate)
            loss, accuracy = self.learn(next(batches), rate)
            average = 0.97 * average + 0.03 * accuracy if average else accuracy
            losses = 0.97 * losses + 0.03 * loss if losses else loss
            if self.step % 50 < 2:
                self.log("worlds", losses, average)
            if time.monotonic() - saved > 240:
                self.save()
                saved = time.monotonic()
            self.world_seconds += time.monotonic() - before
            before = time.monotonic()
        self.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where model, tokenizer and history go")
    parser.add_argument("--minutes", type=float, default=60, help="time for procedural worlds, after copying")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    run = Run(arguments.out, arguments.seed)
    run.copying()
    run.worlds(arguments.minutes)


if __name__ == "__main__":
    main()
