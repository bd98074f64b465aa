"""Speed and memory of updates beside TRL, on the same model, adapter shape and tokens.

    python -m benchmarks.training.beside_trl --base artifacts/smollm2
    python -m benchmarks.training.beside_trl --base rehearsal-tiny --steps 12

Every measurement is a process of its own, so that its peak memory is its own; ours and TRL's alternate --rounds times,
so that other load on the machine affects both. Reported: tokens per second of a median step (prompts included, padding
excluded), the peak of resident memory above that before the first step, and the ratios. Both run under bfloat16
autocast. TRL's activations are kept or recomputed (its default); ours follow our default for the base's size.

SFT: rows of 512 tokens, all learned. GRPO update: a group of eight rows with one prompt, log-probabilities given, CISPO
without KL penalty; PROMPT/COMPLETION tokens.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

GROUP = 8
SFT_LENGTH = 512


@dataclass(frozen=True)
class Task:
    """What is measured. `prompt` 0: SFT."""

    name: str
    prompt: int
    completion: int

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return GROUP * (self.prompt + self.completion)


TASKS = (
    Task("SFT", 0, SFT_LENGTH),
    Task("GRPO update 1024/64", 1024, 64),
    Task("GRPO update 128/256", 128, 256),
)
WAYS = ("ours", "TRL, kept", "TRL, recomputed")


def measured(work: Callable[[], Any], steps: int, tokens: int) -> dict[str, float]:
    """Tokens per second of the median step after one warm-up, and the peak memory above the start in MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"rate": tokens / statistics.median(seconds), "mib": (peak - before) / 1024}


def group_ids(task: Task, vocabulary: int) -> torch.Tensor:
    """Random ids [GROUP, T]; the rows of a GRPO group share their prompt."""
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(8, vocabulary, (GROUP, task.prompt + task.completion), generator=generator)
    ids_BT[:, : task.prompt] = ids_BT[0, : task.prompt]
    return ids_BT


def ours(task: Task, base: str, steps: int) -> dict[str, float]:
    from training.learning.batch import Row
    from training.learning.learner import Learner, LearnerSettings
    from training.learning.losses import Loss, Sft
    from training.learning.policy_losses import Cispo
    from training.models.base import load_base
    from training.models.lora import LoraSettings

    loaded = load_base(base)
    how = LearnerSettings(lora=LoraSettings(rank=16, alpha=32), learning_rate=1e-5, micro_tokens=4096)
    learner = Learner(loaded, how)
    ids_BT = group_ids(task, loaded.model.config.vocab_size).tolist()
    start = max(1, task.prompt)
    marks = (False,) * start + (True,) * (task.prompt + task.completion - start)
    given = (-8.0,) * sum(marks) if task.prompt else ()
    rows = [Row(tuple(ids), marks, (-1.0) ** k, given) for k, ids in enumerate(ids_BT)]
    loss: Loss = Cispo(kl_penalty=0.0) if task.prompt else Sft()
    return measured(lambda: learner.policy_step(rows, loss), steps, task.tokens)


def trl(task: Task, base: str, steps: int, recompute: bool) -> dict[str, float]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    from training.models.base import base_path

    model = AutoModelForCausalLM.from_pretrained(base_path(base), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base_path(base))
    ids_BT = group_ids(task, model.config.vocab_size)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    shared: dict[str, Any] = {
        "learning_rate": 1e-5, "bf16": True, "use_cpu": True, "report_to": [], "logging_strategy": "no",
        "save_strategy": "no", "disable_tqdm": True, "gradient_checkpointing": recompute,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }  # fmt: skip
    micro = max(1, min(GROUP, 4096 // (task.prompt + task.completion)))
    with tempfile.TemporaryDirectory() as out:
        if task.prompt:
            how: Any = GRPOConfig(
                output_dir=out, beta=0.0, loss_type="cispo", epsilon_high=5.0, num_generations=GROUP,
                per_device_train_batch_size=GROUP, max_completion_length=task.completion, **shared,
            )  # fmt: skip
            data = Dataset.from_dict({"prompt": ["x"]})
            trainer: Any = GRPOTrainer(
                model, reward_funcs=_no_reward, args=how, train_dataset=data, processing_class=tokenizer,
                peft_config=lora,
            )  # fmt: skip
        else:
            how = SFTConfig(
                output_dir=out, per_device_train_batch_size=micro, max_length=SFT_LENGTH,
                dataset_kwargs={"skip_prepare_dataset": True}, **shared,
            )  # fmt: skip
            data = Dataset.from_dict({"input_ids": ids_BT.tolist(), "labels": ids_BT.tolist()})
            trainer = SFTTrainer(model, args=how, train_dataset=data, processing_class=tokenizer, peft_config=lora)
        trainer.create_optimizer()
        trainer.current_gradient_accumulation_steps = -(-GROUP // micro)
        optimizer = trainer.optimizer
        parts = [slice(at, at + micro) for at in range(0, GROUP, micro)]
        prepared = trainer.accelerator.prepare(trainer.model)
        prepared.train()

        def step() -> None:
            for part in parts:
                inputs = _grpo_inputs(task, ids_BT[part]) if task.prompt else _sft_inputs(ids_BT[part])
                with trainer.compute_loss_context_manager():
                    loss = trainer.compute_loss(prepared, inputs)
                trainer.accelerator.backward(loss / len(parts))
            torch.nn.utils.clip_grad_norm_([p for p in prepared.parameters() if p.requires_grad], 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return measured(step, steps, task.tokens)


def _no_reward(completions: list[Any], **_: Any) -> list[float | None]:
    return [0.0] * len(completions)


def _sft_inputs(ids_BT: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": ids_BT, "labels": ids_BT, "attention_mask": torch.ones_like(ids_BT)}


def _grpo_inputs(task: Task, ids_BT: torch.Tensor) -> dict[str, Any]:
    prompt_BT, completion_BT = ids_BT[:, : task.prompt], ids_BT[:, task.prompt :]
    mask_BT = torch.ones_like(completion_BT)
    return {
        "prompt_ids": prompt_BT,
        "prompt_mask": torch.ones_like(prompt_BT),
        "completion_ids": completion_BT,
        "completion_mask": mask_BT,
        "advantages": torch.tensor([(-1.0) ** k for k in range(len(ids_BT))]),
        "old_per_token_logps": torch.full(completion_BT.shape, -8.0),
        "num_items_in_batch": mask_BT.sum(),
    }


def one(way: str, task: Task, base: str, steps: int) -> dict[str, float]:
    """Run one measurement in this process."""
    return ours(task, base, steps) if way == "ours" else trl(task, base, steps, way.endswith("recomputed"))


def table(found: dict[tuple[str, str], list[dict[str, float]]]) -> str:
    """Medians over the rounds, and ours as a multiple of TRL's."""
    lines = ["| task | way | tokens/s | ours / this | peak MiB | ours / this |", "| --- " * 6 + "|"]
    for task in TASKS:
        got = {
            way: {key: statistics.median(m[key] for m in found[task.name, way]) for key in ("rate", "mib")}
            for way in WAYS
            if found.get((task.name, way))
        }
        for way, value in got.items():
            speed, memory = got["ours"]["rate"] / value["rate"], got["ours"]["mib"] / max(1.0, value["mib"])
            lines.append(
                f"| {task.name} | {way} | {value['rate']:.0f} | {speed:.2f} | {value['mib']:.0f} | {memory:.2f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="artifacts/smollm2")
    parser.add_argument("--steps", type=int, default=2, help="measured steps per process")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tasks", nargs="*", choices=[t.name for t in TASKS], default=[t.name for t in TASKS])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    by_name = {task.name: task for task in TASKS}
    if arguments.one:
        print(json.dumps(one(arguments.one, by_name[arguments.tasks[0]], arguments.base, arguments.steps)))
        return
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(arguments.rounds):
        for name in arguments.tasks:
            for way in WAYS:
                command = [
                    sys.executable, "-m", "benchmarks.training.beside_trl", "--one", way, "--base", arguments.base,
                    "--steps", str(arguments.steps), "--tasks", name,
                ]  # fmt: skip
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found.setdefault((name, way), []).append(json.loads(done.stdout.splitlines()[-1]))
                print(name, way, found[name, way][-1], file=sys.stderr, flush=True)
    print(f"{arguments.base}, {torch.get_num_threads()} threads, {arguments.rounds} rounds\n\n{table(found)}")


if __name__ == "__main__":
    main()
