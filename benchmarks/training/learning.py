"""Training speed of an adapter on conversations: the learner's fused pass against transformers and peft.

    python -m benchmarks.training.learning --home artifacts/demo
    python -m benchmarks.training.learning --home artifacts/demo-smollm2 --steps 2 --stretches 6      about 8 minutes

Reads a lake's conversations as the clone does. The ways alternate every few steps, so that other load on the machine
affects all of them. The first stretch of each is a warm-up and not counted. For bases whose rows are packed, the fused
pass is also run without (`share_prompts`: common beginnings of rows run once).
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import torch

from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import Settings
from ingest.errors import UserError
from training.learning.batch import epochs
from training.learning.learner import Learner
from training.models.base import load_base
from training.policy.clone import policy_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--home", type=Path, default=Path("artifacts/demo"), help="a home with a lake")
    parser.add_argument("--steps", type=int, default=10, help="steps before the next way continues")
    parser.add_argument("--stretches", type=int, default=8, help="counted stretches of each way")
    arguments = parser.parse_args()
    settings = Settings(home=arguments.home)
    base = load_base(settings.base, show_tools=not settings.compact)
    rows = policy_rows(Loop(settings).lake.conversations(), base.format, show_system=not settings.compact)
    alone = settings.clone.learner.model_copy(update={"share_prompts": False})
    learners = {"own pass": Learner(base, settings.clone.learner), "transformers and peft": Learner(base, alone)}
    if learners["own pass"]._body is None:
        raise UserError(f"the fused pass does not support the base {settings.base}")
    learners["transformers and peft"]._body = None
    if learners["own pass"]._shares:
        learners["own pass, each row alone"] = Learner(base, alone)
    spent = dict.fromkeys(learners, 0.0)
    groups = epochs(rows, settings.clone.step_tokens, seed=0)
    tokens = 0
    for number in range(1 + arguments.stretches):
        stretch = list(itertools.islice(groups, arguments.steps))
        for name, learner in learners.items():
            began = time.monotonic()
            for group in stretch:
                learner.sft_step(group)
            spent[name] += (time.monotonic() - began) * (number > 0)
        tokens += sum(len(row.ids) for group in stretch for row in group) * (number > 0)
    slowest = max(spent.values())
    print(f"{torch.get_num_threads()} threads, {tokens} tokens each\n")
    print("| way | tokens/s | relative to the slower |\n| --- | --- | --- |")
    for name, seconds in spent.items():
        print(f"| {name} | {tokens / seconds:.0f} | {slowest / seconds:.2f} |")


if __name__ == "__main__":
    main()
