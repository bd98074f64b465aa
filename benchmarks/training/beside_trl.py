"""Speed and memory of training beside TRL, on the same model, adapter shape and tokens.

    python -m benchmarks.training.beside_trl --base artifacts/smollm2       estimated: 16 minutes on two idle cores
    python -m benchmarks.training.beside_trl --base rehearsal-tiny          estimated: 8 minutes

Every measurement is a process of its own, so that its peak memory is its own; ours and TRL's alternate --rounds times,
so that other load on the machine affects both. Reported: tokens per second of a median step (prompts included, padding
excluded), the peak of resident memory above that before the first step, and the ratios. Both run under bfloat16
autocast. TRL's activations are kept or recomputed (its default); ours follow our default for the base's size. A
measurement that fails is a row with its reason.

SFT: rows of 512 tokens, all learned. GRPO update: a group of eight rows with one prompt, log-probabilities given, CISPO
without KL penalty; PROMPT/COMPLETION tokens. Whole iteration: the group is sampled first (exactly COMPLETION tokens a
row), then scored by a fixed reward, then learned, and the new adapter is ready to sample.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.models.base import SHIPPED

GROUP = 8
SFT_LENGTH = 512
MICRO_TOKENS = 4096
SLOW_SECONDS = 5.0
"""A first step that takes longer is measured; a faster one is a warm-up, because compiling shapes is part of it."""


@dataclass(frozen=True)
class Task:
    """What is measured. `prompt` 0: SFT. `samples`: the completions are sampled as well."""

    name: str
    prompt: int
    completion: int
    samples: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return GROUP * (self.prompt + self.completion)


TASKS = (
    Task("SFT", 0, SFT_LENGTH),
    Task("GRPO update 1024/64", 1024, 64),
    Task("GRPO update 128/256", 128, 256),
    Task("whole iteration 128/64", 128, 64, samples=True),
)
WAYS = ("ours", "TRL, kept", "TRL, recomputed")


Steps = Callable[[int], list[float]]
"""Does a number of measured steps; returns the seconds of each."""


def timed(work: Callable[[], Any]) -> Steps:
    """The steps of `work`."""

    def run(steps: int) -> list[float]:
        seconds: list[float] = []
        warm = False
        while len(seconds) < steps:
            began = time.perf_counter()
            work()
            took = time.perf_counter() - began
            if warm or took > SLOW_SECONDS:
                seconds.append(took)
            warm = True
        return seconds

    return run


def measured(run: Steps, steps: int, tokens: int) -> dict[str, float]:
    """Tokens per second of the median step, and the peak memory above the start in MiB."""
    before = _forget_peak()
    seconds = run(steps)
    return {"rate": tokens / statistics.median(seconds), "mib": _peak() - before}


def _forget_peak() -> float:
    """Resident memory now, in MiB, from which on the peak is counted (Linux); elsewhere the peak so far."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak()
    return _status("VmRSS")


def _peak() -> float:
    try:
        return _status("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _status(name: str) -> float:
    """A field of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def group_ids(task: Task, vocabulary: int) -> torch.Tensor:
    """Random ids [GROUP, T]; the rows of a GRPO group share their prompt."""
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(8, vocabulary, (GROUP, task.prompt + task.completion), generator=generator)
    ids_BT[:, : task.prompt] = ids_BT[0, : task.prompt]
    return ids_BT


def prompt_text(task: Task, tokenizer: Any) -> str:
    """A text of `prompt` tokens, for trainers that take no ids."""
    for word in (" the", " a", "0"):
        if len(tokenizer(word * task.prompt)["input_ids"]) == task.prompt:
            return word * task.prompt
    raise ValueError(f"no word repeated {task.prompt} times has as many tokens")


def reward(number: int) -> float:
    """The fixed reward of a group's member, centred: 1 and -1 by turns."""
    return (-1.0) ** number


# ----- ours


def ours(task: Task, base: str) -> Steps:
    from training.learning.batch import Row
    from training.learning.learner import Learner, LearnerSettings
    from training.learning.losses import Loss, Sft
    from training.learning.policy_losses import Cispo
    from training.models.base import load_base
    from training.models.lora import LoraSettings

    loaded = load_base(base)
    how = LearnerSettings(lora=LoraSettings(rank=16, alpha=32), learning_rate=1e-5, micro_tokens=MICRO_TOKENS)
    learner = Learner(loaded, how)
    if task.samples:
        return timed(our_iteration(task, loaded, learner))
    ids_BT = group_ids(task, loaded.model.config.vocab_size).tolist()
    start = max(1, task.prompt)
    marks = (False,) * start + (True,) * (task.prompt + task.completion - start)
    given = (-8.0,) * sum(marks) if task.prompt else ()
    rows = [Row(tuple(ids), marks, reward(k), given) for k, ids in enumerate(ids_BT)]
    loss: Loss = Cispo(kl_penalty=0.0) if task.prompt else Sft()
    return timed(lambda: learner.policy_step(rows, loss))


def our_iteration(task: Task, base: Any, learner: Any) -> Callable[[], None]:
    """Sample the group with the newest adapter, learn, publish the next adapter."""
    from training.engines import Sampling
    from training.engines.local import LocalEngine
    from training.learning.batch import Row
    from training.learning.policy_losses import Cispo

    engine = LocalEngine(base.model, base.format.pad_id)
    engine.publish_adapter("policy@0", *learner.weights())
    prompt = tuple(base.format.tokenizer(prompt_text(task, base.format.tokenizer))["input_ids"])
    marks = (False,) * task.prompt + (True,) * task.completion

    async def sampled(name: str) -> list[Any]:
        asked = [
            engine.sample(prompt, adapter=name, sampling=Sampling(task.completion, 1.0, (), seed=k, learned=True))
            for k in range(GROUP)
        ]
        found = await asyncio.gather(*asked)
        await engine.close()
        return found

    def iteration() -> None:
        found = asyncio.run(sampled(f"policy@{learner.step}"))
        rows = [Row((*prompt, *one.ids), marks, reward(k), one.logprobs) for k, one in enumerate(found)]
        learner.policy_step(rows, Cispo(kl_penalty=0.0))
        engine.publish_adapter(f"policy@{learner.step}", *learner.weights())
        engine.unload_adapter(f"policy@{learner.step - 1}")

    return iteration


# ----- TRL


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
    micro = max(1, min(GROUP, MICRO_TOKENS // (task.prompt + task.completion)))
    parts = [slice(at, at + micro) for at in range(0, GROUP, micro)]
    shared: dict[str, Any] = {
        "learning_rate": 1e-5, "bf16": True, "use_cpu": True, "report_to": [], "logging_strategy": "no",
        "save_strategy": "no", "disable_tqdm": True, "gradient_checkpointing": recompute,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        if task.prompt:
            how: Any = GRPOConfig(
                output_dir=out, beta=0.0, loss_type="cispo", epsilon_high=5.0, num_generations=GROUP,
                per_device_train_batch_size=GROUP, max_completion_length=task.completion, max_steps=steps + 1,
                generation_kwargs={"min_new_tokens": task.completion}, **shared,
            )  # fmt: skip
            text = prompt_text(task, tokenizer) if task.samples else "x"
            data = Dataset.from_dict({"prompt": [text] * (steps + 1)})
            trainer: Any = GRPOTrainer(
                model, reward_funcs=_rewards, args=how, train_dataset=data, processing_class=tokenizer,
                peft_config=lora,
            )  # fmt: skip
            if task.samples:
                return measured(_trl_iterations(trainer), steps, task.tokens)
        else:
            how = SFTConfig(
                output_dir=out, per_device_train_batch_size=micro, max_length=SFT_LENGTH,
                dataset_kwargs={"skip_prepare_dataset": True}, **shared,
            )  # fmt: skip
            data = Dataset.from_dict({"input_ids": ids_BT.tolist(), "labels": ids_BT.tolist()})
            trainer = SFTTrainer(model, args=how, train_dataset=data, processing_class=tokenizer, peft_config=lora)
        trainer.create_optimizer()
        trainer.current_gradient_accumulation_steps = len(parts)
        optimizer = trainer.optimizer
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

        return measured(timed(step), steps, task.tokens)


def _trl_iterations(trainer: Any) -> Steps:
    """The steps of the trainer's own loop: sampling, reward, update. The first is a warm-up if it is fast."""
    from transformers import TrainerCallback

    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seconds.append(time.perf_counter() - self.began)
            control.should_training_stop = len(seconds) > (seconds[0] <= SLOW_SECONDS) + self.steps - 1

        steps = 1

    def run(steps: int) -> list[float]:
        clock = Clock()
        clock.steps = steps
        trainer.add_callback(clock)
        trainer.train()
        return seconds if seconds[0] > SLOW_SECONDS else seconds[1:]

    return run


def _rewards(completions: list[Any], **_: Any) -> list[float | None]:
    return [reward(k) for k in range(len(completions))]


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
    if way == "ours":
        return measured(ours(task, base), steps, task.tokens)
    return trl(task, base, steps, way.endswith("recomputed"))


Found = dict[tuple[str, str], list[dict[str, float]]]


def table(found: Found, failed: dict[tuple[str, str], str]) -> str:
    """Medians over the rounds, and ours as a multiple of TRL's; the reason where a measurement failed."""
    lines = ["| task | way | tokens/s | ours / this | peak MiB | ours / this |", "| --- " * 6 + "|"]
    for task in TASKS:
        got = {
            way: {key: statistics.median(m[key] for m in found[task.name, way]) for key in ("rate", "mib")}
            for way in WAYS
            if found.get((task.name, way))
        }
        best = got.get("ours")
        for way in WAYS:
            if value := got.get(way):
                speed = f"{best['rate'] / value['rate']:.2f}" if best else "-"
                memory = f"{best['mib'] / max(1.0, value['mib']):.2f}" if best else "-"
                lines.append(f"| {task.name} | {way} | {value['rate']:.0f} | {speed} | {value['mib']:.0f} | {memory} |")
            elif (task.name, way) in failed:
                lines.append(f"| {task.name} | {way} | failed: {failed[task.name, way]} | | | |")
    return "\n".join(lines)


def ask(way: str, task: str, base: str, steps: int) -> dict[str, float] | str:
    """One measurement in a process of its own; the last line of its error if it fails."""
    command = [
        sys.executable, "-m", "benchmarks.training.beside_trl", "--one", way, "--base", base, "--steps", str(steps),
        "--tasks", task,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    print(done.stderr, file=sys.stderr)
    return next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="artifacts/smollm2")
    parser.add_argument("--steps", type=int, help="measured steps per process; default: 1, rehearsal-tiny 8")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tasks", nargs="*", choices=[t.name for t in TASKS], default=[t.name for t in TASKS])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    by_name = {task.name: task for task in TASKS}
    steps = arguments.steps or (8 if arguments.base in SHIPPED else 1)
    if arguments.one:
        print(json.dumps(one(arguments.one, by_name[arguments.tasks[0]], arguments.base, steps)))
        return
    found: Found = {}
    failed: dict[tuple[str, str], str] = {}
    began = time.monotonic()
    for number in range(arguments.rounds):
        for name in arguments.tasks:
            for way in WAYS:
                if (name, way) in failed:
                    continue
                got = ask(way, name, arguments.base, steps)
                if isinstance(got, str):
                    failed[name, way] = got
                else:
                    found.setdefault((name, way), []).append(got)
                took = f"{time.monotonic() - began:.0f} s"
                print(f"round {number + 1}, {name}, {way}: {got}, {took}", file=sys.stderr, flush=True)
    print(
        f"{arguments.base}, {torch.get_num_threads()} threads, {arguments.rounds} rounds of {steps} steps, "
        f"{time.monotonic() - began:.0f} s\n\n{table(found, failed)}"
    )


if __name__ == "__main__":
    main()
