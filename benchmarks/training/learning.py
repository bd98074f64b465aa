"""Training speed of an adapter on conversations: the learner's fused pass against transformers and peft.

    python -m benchmarks.training.learning --home artifacts/demo

Reads a lake's conversations as the clone does. The two ways alternate every STRETCH steps, so that other load on the
machine affects both. The first stretch of each is a warm-up and not counted.
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

STRETCH = 10
"""Steps before the other way continues."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--home", type=Path, default=Path("artifacts/demo"), help="a home with a lake")
    parser.add_argument("--stretches", type=int, default=8)
    arguments = parser.parse_args()
    settings = Settings(home=arguments.home)
    base = load_base(settings.base, show_tools=not settings.compact)
    rows = policy_rows(Loop(settings).lake.conversations(), base.format, show_system=not settings.compact)
    learners = {name: Learner(base, settings.clone.learner) for name in ("own pass", "transformers and peft")}
    if learners["own pass"]._body is None:
        raise UserError(f"the fused pass does not support the base {settings.base}")
    learners["transformers and peft"]._body = None
    spent = dict.fromkeys(learners, 0.0)
    groups = epochs(rows, settings.clone.step_tokens, seed=0)
    tokens = 0
    for number in range(1 + arguments.stretches):
        stretch = list(itertools.islice(groups, STRETCH))
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
