"""A whole small retraining in a process of its own: `python counted_run.py OUT [KILL_AT]`.

A clone is fitted, then GRPO practises from an adapter of random weights with the offline judge. Everything that a kill
could fall between (before and after a round of the engine, an optimizer step, a written file) is an event; with KILL_AT
the process kills itself with SIGKILL at that event. `OUT/events` says how many there were in a run that ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training_samples import Walls, conversations, scenario, stir, tiny_base

import training.policy.grpo as grpo
from training.engines.local import LocalEngine
from training.judging.judge import LocalJudge, in_process_client
from training.judging.ruler import Ruler, RulerSettings
from training.learning.fits import FitSettings
from training.learning.learner import Learner, LearnerSettings
from training.models.lora import LoraSettings, save_weights
from training.policy.clone import fit_clone
from training.policy.practice import Practice
from training.policy.rollout import Limits

LEARNER = LearnerSettings(lora=LoraSettings(rank=4, alpha=8), learning_rate=3e-3, warmup_steps=0)
SETTINGS = grpo.TrainSettings(
    steps=3, groups=2, group_size=3, held_out=2, evaluate_every=2, planted_groups=1, learner=LEARNER,
    min_score_spread=0.0, limits=Limits(turns=2, turn_tokens=16),
)  # fmt: skip


class Events:
    """Counts, and kills when it is time."""

    def __init__(self, kill_at: int) -> None:
        self.kill_at, self.seen = kill_at, 0

    def event(self) -> None:
        self.seen += 1
        if self.seen == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with an event before and one after it."""

        def counted(*args: Any, **more: Any) -> Any:
            self.event()
            found = function(*args, **more)
            self.event()
            return found

        return counted


def run(out: Path, kill_at: int) -> None:
    base = tiny_base()
    if not (out / "clone" / "rehearsal.json").exists():
        fit = FitSettings(learner=LEARNER, max_tokens=5000, step_tokens=400, evaluations=1)
        fit_clone(base, conversations(12), out / "clone", fit, show_system=False)
    start = Learner(base, LEARNER, seed=3)
    stir(start)
    save_weights(*start.weights(), out / "start", {"role": "policy"})
    events = Events(kill_at)
    names: list[tuple[Any, str]] = [
        (grpo, "save_state"), (grpo, "save_weights"), (grpo, "write_episodes"), (Learner, "policy_step"),
        (LocalEngine, "_answer"), (LocalEngine, "load_adapter"),
    ]  # fmt: skip
    for owner, name in names:
        setattr(owner, name, events.around(getattr(owner, name)))
    engine = LocalEngine(base.model, base.format.pad_id)
    judge = LocalJudge(engine, base.format, None)
    ruler = Ruler(RulerSettings(), in_process_client(judge))
    practice = Practice(engine, base.format, Walls(), ruler, SETTINGS.limits, min_p=SETTINGS.min_p, forget=judge.forget)
    scenarios = [scenario(k) for k in range(10)]
    asyncio.run(grpo.Grpo(base, practice, scenarios, out / "start", out / "policy", SETTINGS).train())
    (out / "events").write_text(str(events.seen))


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else -1)
