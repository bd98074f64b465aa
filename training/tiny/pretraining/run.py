"""Pre-trains rehearsal-tiny from nothing: copying, drills of choosing and units, procedural tool worlds, drills again.

    python -m training.tiny.pretraining.run --out artifacts/tiny

Writes a Hugging Face directory (model, tokenizer, chat template), `history.jsonl` (one line per LOG_EVERY steps), and
at the end `manifest.json`. A killed run continues from `state.pt` when the same command is given again, and ends
with the same weights. Equal seeds, budgets, threads and versions give equal weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import random
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from ingest.atomic import write_json, write_text
from training.learning.head import HEAD_ROWS
from training.learning.learner import load_state, save_state
from training.models.chat import CompactFormat
from training.models.devices import quick_dtype
from training.models.roles import transcript
from training.tiny.passes.learning import SmallBody
from training.tiny.pretraining.batches import Batches
from training.tiny.pretraining.induction import plant_induction
from training.tiny.pretraining.tokenizer import split_anew, train_tokenizer
from training.tiny.pretraining.worlds import lexicon
from training.tiny.pretraining.worlds.talk import Talk

WARM_UP = 100
LOG_EVERY = 50
ENOUGH, HARDER = 0.75, 0.02
"""When the accuracy in choosing reaches ENOUGH, each further batch is harder by HARDER (hardness is 0 to 1)."""
READING = 0.25
"""How much the mean loss over a row's other tokens counts, relative to that over the answers."""


class Phase(BaseModel):
    """A phase of a run: kinds of batches in turn, and the learning rates."""

    model_config = ConfigDict(frozen=True)

    name: str
    turns: tuple[str, ...]
    rates: tuple[float, float]
    """The learning rate at the start and at the end of the phase, with a cosine in between."""

    def rate(self, done: float) -> float:
        first, last = self.rates
        return last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))


PHASES = (
    Phase(name="copy", turns=("copy",), rates=(1.5e-3, 1.5e-3)),
    Phase(name="drill", turns=("choose", "choose", "world", "choose", "units", "choose", "copy"), rates=(1e-3, 1e-3)),
    Phase(
        name="world",
        turns=("world", "choose", "world", "copy", "world", "choose", "world", "units", "world", "choose"),
        rates=(1e-3, 5e-5),
    ),
    Phase(
        name="refine",
        turns=("choose", "amounts", "world", "choose", "amounts", "world", "choose", "amounts", "world", "copy"),
        rates=(6e-4, 3e-5),
    ),
)


def tokenizer_texts(conversations: int = 4000) -> Iterator[str]:
    """Training text of the tokenizer: procedural transcripts, and each common word with and without a space."""
    for seed in range(conversations):
        yield transcript(Talk(random.Random(seed)).run().messages)
    words = [*dict.fromkeys((*lexicon.COMMON, *lexicon.FIELDS, *lexicon.STATUSES, *lexicon.VERBS))]
    for _ in range(200):
        yield " ".join(words)
        yield '{"' + '","'.join(words) + '"}'


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
    body: SmallBody,
    head: nn.Module,
    ids_BT: torch.Tensor,
    trained_BT: torch.Tensor,
    scored_BT: torch.Tensor,
    read_BT: torch.Tensor | None = None,
) -> tuple[torch.Tensor, float]:
    """Mean cross-entropy over learned targets, and the accuracy over the scored ones; other positions skip the head.

    `read_BT`: further targets, such as what users and tools say. Their mean counts READING as much.
    """
    hidden_BTD, chosen_BT = body(ids_BT[:, :-1]), trained_BT[:, 1:]
    if read_BT is not None:
        chosen_BT = chosen_BT | read_BT[:, 1:]
    hidden_ND, targets_N = hidden_BTD[chosen_BT], ids_BT[:, 1:][chosen_BT]
    padded_ND = F.pad(hidden_ND, (0, 0, 0, -len(hidden_ND) % HEAD_ROWS))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=body.dtype == torch.bfloat16):
        logits_NV = head(padded_ND)[: len(hidden_ND)].float()
    right_N = (logits_NV.argmax(-1) == targets_N)[scored_BT[:, 1:][chosen_BT]]
    losses_N, learned_N = F.cross_entropy(logits_NV, targets_N, reduction="none"), trained_BT[:, 1:][chosen_BT]
    loss = losses_N[learned_N].mean()
    if read_BT is not None:
        loss = loss + READING * losses_N[~learned_N].mean()
    return loss, right_N.float().mean().item()


class Run:
    """The state of one pre-training run in a directory. `budget` is the number of steps of each phase."""

    def __init__(self, out: Path, seed: int, budget: tuple[int, ...], start: Path | None = None) -> None:
        self.out, self.seed, self.budget, self.start = out, seed, budget, start
        # read at once: a directory without a manifest is no finished run
        self.origin = json.loads((start / "manifest.json").read_text()) if start is not None else None
        out.mkdir(parents=True, exist_ok=True)
        self.tokenizer = self._tokenizer()
        self.chat = CompactFormat(self.tokenizer)
        self.model = new_model(self.tokenizer, seed)
        if start is not None:
            self.model.load_state_dict(Qwen2ForCausalLM.from_pretrained(start, dtype=torch.float32).state_dict())
        self.body = SmallBody(self.model, quick_dtype())
        self.optimizers = _optimizers(self.model)
        self.batches = Batches(seed, self.chat, short_copies=budget[0] // 2)
        self.step, self.hardness, self.tokens, self.learned = 0, 0.0, 0, 0
        self.averages: dict[str, list[float]] = {}
        if (out / "state.pt").exists():
            self._resume(load_state(out / "state.pt"))

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        if not (self.out / "tokenizer.json").exists():
            made = train_tokenizer(tokenizer_texts()) if self.start is None else split_anew(self.start)
            made.save_pretrained(self.out)
        return PreTrainedTokenizerFast.from_pretrained(self.out)

    # ----- learning

    def run(self, stop_at: int | None = None, save_every: int = 500) -> None:
        """Learn until all budgets are spent, or until a step. Saves every `save_every` steps and at the end."""
        last = sum(self.budget) if stop_at is None else stop_at
        while self.step < last:
            phase, local, steps = self._phase()
            name = phase.turns[local % len(phase.turns)]
            self._learn(name, phase.rate(local / steps))
            if name == "choose" and self.averages["choose"][1] > ENOUGH:
                self.hardness = min(1.0, self.hardness + HARDER)
            if self.step % LOG_EVERY == 0:
                self._log(phase.name)
            if self.step % save_every == 0:
                self.save()
        self.save()

    def _phase(self) -> tuple[Phase, int, int]:
        """The phase of the next step, the step's number in it, and its budget."""
        local = self.step
        for phase, steps in zip(PHASES, self.budget, strict=True):
            if local < steps:
                return phase, local, steps
            local -= steps
        raise ValueError(f"step {self.step} is beyond the budget {self.budget}")

    def _learn(self, name: str, rate: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (self.step + 1) / WARM_UP)
        ids_BT, trained_BT, scored_BT = self.batches.draw(name, self.step, self.hardness)
        read_BT = (ids_BT != self.chat.pad_id) & ~trained_BT if name == "world" else None
        loss, accuracy = answer_loss(self.body, self.model.lm_head, ids_BT, trained_BT, scored_BT, read_BT)
        self.model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.tokens += ids_BT.numel()
        self.learned += int(trained_BT[:, 1:].sum())
        before = self.averages.get(name, [loss.item(), accuracy])
        self.averages[name] = [0.97 * before[0] + 0.03 * loss.item(), 0.97 * before[1] + 0.03 * accuracy]

    # ----- files

    def _log(self, phase: str) -> None:
        line: dict[str, Any] = {"step": self.step, "phase": phase, "tokens": self.tokens}
        line["hardness"] = round(self.hardness, 2)
        for name, (loss, accuracy) in self.averages.items():
            line[name] = {"loss": round(loss, 4), "accuracy": round(accuracy, 4)}
        with (self.out / "history.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def save(self) -> None:
        """Write the state, and the model as it is."""
        counts = {"step": self.step, "hardness": self.hardness, "tokens": self.tokens, "learned": self.learned}
        place = {"pool": self.batches.pool, "at": self.batches.at, "averages": self.averages}
        identity = {"seed": self.seed, "budget": list(self.budget)}
        weights = {"model": self.model.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}
        save_state({**weights, **counts, **place, **identity}, self.out / "state.pt")
        self.model.save_pretrained(self.out)

    def _resume(self, state: dict[str, Any]) -> None:
        begun = [n for k, n in enumerate(self.budget) if sum(self.budget[:k]) < state["step"]]
        if state["seed"] != self.seed or state["budget"][: len(begun)] != begun:
            found, asked = (state["seed"], state["budget"]), (self.seed, list(self.budget))
            raise ValueError(f"{self.out} has a run with seed and steps {found}; begun phases cannot become {asked}")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.hardness, self.averages = state["step"], state["hardness"], state["averages"]
        self.tokens, self.learned = state["tokens"], state["learned"]
        self.batches.pool, self.batches.at = state["pool"], state["at"]
        history = self.out / "history.jsonl"
        if history.exists():
            lines = history.read_text().splitlines(keepends=True)
            write_text(history, "".join(line for line in lines if json.loads(line)["step"] <= self.step))

    def write_manifest(self, command: str, commit: str) -> None:
        """How the weights were made. It is written last, so a directory with a manifest is complete."""
        files = ("model.safetensors", "tokenizer.json", "history.jsonl")
        manifest = {
            "command": command,
            "git_commit": commit,
            **({} if self.origin is None else {"start": self.origin}),
            "seed": self.seed,
            "steps": dict(zip((p.name for p in PHASES), self.budget, strict=True)),
            "tokens": self.tokens,
            "learned_tokens": self.learned,
            "hardness": round(self.hardness, 2),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "threads": torch.get_num_threads(),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")},
            },
            "sha256": {name: hashlib.sha256((self.out / name).read_bytes()).hexdigest() for name in files},
        }
        write_json(self.out / "manifest.json", manifest)


def _optimizers(model: Qwen2ForCausalLM) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the layers' matrices, at AdamW's rates (its updates are scaled to AdamW's); AdamW for the rest."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or ".layers." not in name]
    return (
        torch.optim.Muon(inner, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    )


def git_commit() -> str:
    """The commit of the code, with `+changes` if tracked files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent)
        return done.stdout.strip()

    return (git("rev-parse", "HEAD") or "unknown") + ("+changes" if git("status", "--short", "-uno") else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for model, tokenizer, history, manifest")
    parser.add_argument("--copy-steps", type=int, default=300)
    parser.add_argument("--drill-steps", type=int, default=1500, help="steps of choosing and units")
    parser.add_argument("--world-steps", type=int, default=4000, help="steps mostly in procedural worlds")
    parser.add_argument("--refine-steps", type=int, default=1200, help="steps mostly of choosing and units, at the end")
    parser.add_argument("--start", type=Path, help="directory of a finished run, from whose weights this one goes on")
    parser.add_argument("--save-every", type=int, default=500, help="steps between two checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="part of what makes two runs equal")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    commit = git_commit()
    budget = (arguments.copy_steps, arguments.drill_steps, arguments.world_steps, arguments.refine_steps)
    run = Run(arguments.out, arguments.seed, budget, arguments.start)
    run.run(save_every=arguments.save_every)
    options = " ".join(sys.argv[1:]).replace(str(arguments.out), "DIR")
    run.write_manifest(f"python -m training.tiny.pretraining.run {options}", commit)


if __name__ == "__main__":
    main()
