"""One short GPU run: training and sampling on a randomly initialised Qwen2.5-7B shape, and TRL for comparison.

    python -m benchmarks.gpu --out gpu.json                     on a GPU, about five minutes
    python -m benchmarks.gpu --shape tiny --device cpu          the same program on a CPU

Reports for each part: tokens per second, model FLOPs utilisation (MFU) and the peak of allocated memory. It also
reports whether engine and learner agree on log-probabilities in this precision, the device, and the versions. The
values of the weights do not influence the speed, so nothing is downloaded. An error in one part is stored in the
result, and the other parts still run.

FLOPs are counted as 2 per weight of a linear layer and token forward, 2 more backward for activations (frozen weights
get no gradient), 2 more where activations are recomputed, and 2 T D per layer for causal attention's products.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from training.engines import Sampling
from training.engines.local import LocalEngine
from training.learning.batch import Row
from training.learning.learner import Learner, LearnerSettings
from training.learning.losses import Sft
from training.learning.policy_losses import Cispo
from training.models.base import Base
from training.models.devices import DeviceSettings, placement
from training.models.lora import LoraSettings

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064,
                   "num_attention_heads": 28, "num_key_value_heads": 4},
    "qwen2.5-0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "vocab_size": 151936,
                     "num_attention_heads": 14, "num_key_value_heads": 2},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512,
             "num_attention_heads": 4, "num_key_value_heads": 2},
}  # fmt: skip
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "4090": 165, "L4": 121}
"""Dense bfloat16 TFLOPS from the manufacturers' data sheets; a device that is not listed gets no MFU."""


def build(shape: str, settings: DeviceSettings) -> PreTrainedModel:
    """A model with random weights, created on its device."""
    place = placement(settings)
    config = Qwen2Config(**SHAPES[shape], tie_word_embeddings=False, dtype=place.dtype)
    config._attn_implementation = place.attention
    before = torch.get_default_dtype()
    torch.set_default_dtype(place.dtype)
    try:
        with place.device:
            model = AutoModelForCausalLM.from_config(config)
    finally:
        torch.set_default_dtype(before)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def base_of(model: PreTrainedModel) -> Base:
    """The model with the shipped base's chat format, of which only the padding id is used."""
    from training.models.base import load_format

    return Base(model, load_format(), "random", "random")


def flops(model: PreTrainedModel, tokens: int, length: int, passes: int) -> float:
    """FLOPs of `tokens` in rows of `length`; `passes` is 1 for forward, 2 with backward, 3 with recomputation."""
    config = model.config
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    attention = 2 * length * config.hidden_size * config.num_hidden_layers
    return passes * (2.0 * weights + attention) * tokens


def timed(device: torch.device, work: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median seconds of a repetition (after one warm-up), and the peak of allocated memory in bytes."""
    work()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(repeats):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    return {"seconds": statistics.median(seconds), "peak_gib": round(peak, 2)}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rows_of(count: int, length: int, learned: int, vocabulary: int, seed: int = 0) -> list[Row]:
    generator = torch.Generator().manual_seed(seed)
    marks = (False,) * (length - learned) + (True,) * learned
    ids = torch.randint(vocabulary, (count, length), generator=generator).tolist()
    return [Row(tuple(i), marks, (-1.0) ** k, (-11.0,) * learned) for k, i in enumerate(ids)]


class Bench:
    """The benchmark on one device and one shape; each `part` adds an entry to `found`."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.settings = DeviceSettings(device=arguments.device)
        self.device = placement(self.settings).device
        self.found: dict[str, Any] = {"shape": arguments.shape, "device": self._device(), "versions": _versions()}
        self.model = build(arguments.shape, self.settings)
        self.found["parameters"] = self.model.num_parameters()
        self.vocabulary = self.model.config.vocab_size

    def _device(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)

    def part(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        try:
            self.found[name] = work()
        except Exception as error:  # noqa: BLE001 - an error in one part must not end the others
            self.found[name] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        print(name, json.dumps(self.found[name]), flush=True)

    def _rated(self, found: dict[str, float], tokens: int, length: int, passes: int) -> dict[str, Any]:
        rate = tokens / found["seconds"]
        peak = next((v for k, v in PEAK_TFLOPS.items() if k in self._device()), None)
        used = flops(self.model, tokens, length, passes) / found["seconds"] / 1e12
        return {**found, "tokens_per_second": round(rate), "mfu": round(used / peak, 3) if peak else None}

    def learn(self, length: int, learned: int, policy: bool, recompute: bool) -> dict[str, Any]:
        """One optimizer step: SFT, or GRPO with a reference pass."""
        a = self.arguments
        how = LearnerSettings(
            lora=LoraSettings(rank=16, alpha=32), learning_rate=1e-5, micro_tokens=a.micro_tokens,
            gradient_checkpointing=recompute,
        )  # fmt: skip
        learner = Learner(base_of(self.model), how)
        learner.keep_reference()
        rows = rows_of(a.rows, length, learned, self.vocabulary)
        loss = Cispo(kl_penalty=0.05 if policy else 0.0) if policy else Sft()
        found = timed(self.device, lambda: learner.policy_step(rows, loss), a.repeats)
        passes = 2 + recompute + policy
        return self._rated(found, a.rows * (length - 1), length, passes)

    def trl(self, length: int) -> dict[str, Any]:
        """TRL's SFT trainer on the same model, adapter shape and tokens."""
        import tempfile

        from datasets import Dataset
        from peft import LoraConfig
        from trl import SFTConfig, SFTTrainer

        from training.models.devices import sharing_weights

        a = self.arguments
        rows = rows_of(a.rows * (a.repeats + 1), length, length - 1, self.vocabulary)
        each = max(1, a.micro_tokens // length)
        with tempfile.TemporaryDirectory() as out:
            how = SFTConfig(
                output_dir=out, per_device_train_batch_size=each, gradient_accumulation_steps=max(1, a.rows // each),
                max_steps=a.repeats + 1, learning_rate=1e-5, bf16=self.device.type == "cuda", report_to=[],
                gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False},
                use_cpu=self.device.type == "cpu", logging_strategy="no", save_strategy="no", max_length=length,
                dataset_kwargs={"skip_prepare_dataset": True}, disable_tqdm=True,
            )  # fmt: skip
            data = Dataset.from_dict({"input_ids": [list(r.ids) for r in rows], "labels": [list(r.ids) for r in rows]})
            trainer = SFTTrainer(
                sharing_weights(self.model), args=how, train_dataset=data, processing_class=self._tokenizer(),
                peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            )  # fmt: skip
            _wait(self.device)
            began = time.perf_counter()
            trainer.train()
            _wait(self.device)
            seconds = (time.perf_counter() - began) / (a.repeats + 1)
        return self._rated({"seconds": seconds}, a.rows * (length - 1), length, 3)

    def _tokenizer(self) -> Any:
        return base_of(self.model).format.tokenizer  # type: ignore[attr-defined]

    def sample(self, together: int, prompt: int, answer: int) -> dict[str, Any]:
        """Sampling with the in-process engine, all requests in one batch."""
        engine = LocalEngine(self.model, 0, max_rows=together)
        prompts = [row.ids for row in rows_of(together, prompt, 1, self.vocabulary, seed=5)]
        run = 0

        async def all_at_once() -> None:
            asked = [
                engine.sample(p, adapter=None, sampling=Sampling(answer, 1.0, (), seed=run * together + k))
                for k, p in enumerate(prompts)
            ]
            await asyncio.gather(*asked)
            await engine.close()

        found = timed(self.device, lambda: asyncio.run(all_at_once()), max(1, self.arguments.repeats // 2))
        return {**found, "tokens_per_second": round(together * answer / found["seconds"])}

    def agree(self) -> dict[str, Any]:
        """Differences between the learner's and the engine's log-probabilities, for sampled tokens."""
        how = LearnerSettings(lora=LoraSettings(rank=16, alpha=32), learning_rate=1e-9)
        learner = Learner(base_of(self.model), how)
        engine = LocalEngine(self.model, 0)
        engine.publish_adapter("policy@0", *learner.weights())
        prompt = rows_of(1, 64, 1, self.vocabulary, seed=9)[0].ids
        drawn = asyncio.run(engine.sample(prompt, adapter="policy@0", sampling=Sampling(64, 1.0, (), seed=1)))
        marks = (False,) * len(prompt) + (True,) * len(drawn.ids)
        row = Row((*prompt, *drawn.ids), marks, 1.0, drawn.logprobs)
        return {"engine_kl": learner.policy_step([row], Cispo(kl_penalty=0.0))["engine_kl"]}


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "transformers", "peft", "trl", "accelerate", "vllm"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-7b")
    parser.add_argument("--device", default="", help="empty: the device that accelerate selects")
    parser.add_argument("--rows", type=int, default=8, help="rows per optimizer step")
    parser.add_argument("--micro-tokens", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--together", type=int, default=32)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--out", type=Path, help="file for the result as JSON")
    a = parser.parse_args()
    bench = Bench(a)
    bench.part("engine and learner agree", bench.agree)
    for recompute in (True, False):
        how = "recomputed" if recompute else "kept"
        bench.part(f"sft, activations {how}", partial(bench.learn, a.length, a.length - 1, False, recompute))
        bench.part(f"grpo, activations {how}", partial(bench.learn, a.length, a.length // 8, True, recompute))
    bench.part("sft, TRL", lambda: bench.trl(a.length))
    bench.part("sampling in process", lambda: bench.sample(a.together, 256, a.answer))
    if a.out:
        a.out.write_text(json.dumps(bench.found, indent=2))


if __name__ == "__main__":
    main()
