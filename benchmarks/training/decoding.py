"""Sampling speed of the engines on one base and one adapter: 32 prompts of 256 tokens, 64 tokens each.

    python -m benchmarks.training.decoding --base artifacts/smollm2      estimated: 4 minutes on two idle cores

Ways: the in-process engine, the same engine through transformers' own forward pass, and vLLM where it is installed.
They alternate --rounds times after a warm-up, so that other load on the machine affects all. Every round starts without
stored prefixes. Prints the median of sampled tokens per second, prefill included, and the ratio to transformers.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import statistics
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import torch

from training.engines import Engine, Sampling
from training.engines.local import LocalEngine
from training.engines.vllm import VllmEngine, VllmSettings
from training.learning.learner import Learner, LearnerSettings
from training.models.base import Base, load_base
from training.models.lora import LoraSettings, save_weights

PROMPTS, PROMPT_TOKENS, TOKENS = 32, 256, 64
ADAPTER = "policy@1"


def engines(base: Base, adapter: Path) -> dict[str, Engine]:
    """The engines, each with the adapter loaded."""
    with patch("training.engines.local.SmallDecoder.fits", return_value=False):
        plain = LocalEngine(base.model, base.format.pad_id)
    found: dict[str, Engine] = {
        "in process": LocalEngine(base.model, base.format.pad_id),
        "in process, through transformers": plain,
    }
    if importlib.util.find_spec("vllm") is not None:
        found["vLLM"] = VllmEngine(base.path, VllmSettings(max_model_len=1024))
    for engine in found.values():
        engine.load_adapter(ADAPTER, adapter)
    return found


def write_adapter(base: Base, path: Path) -> Path:
    """An adapter of rank 32 whose factors are not zero."""
    learner = Learner(base, LearnerSettings(lora=LoraSettings(rank=32, alpha=64)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.parameters:
            parameter.add_(1e-3 * torch.randn(parameter.shape, generator=generator))
    save_weights(*learner.weights(), path, {})
    return path


async def sampled(engine: Engine, prompts: list[list[int]]) -> float:
    """Sampled tokens per second over all prompts at once."""
    engine.clear_cache()
    began = time.perf_counter()
    settings = [Sampling(TOKENS, 1.0, (), seed) for seed in range(len(prompts))]
    asked = [engine.sample(p, adapter=ADAPTER, sampling=s) for p, s in zip(prompts, settings, strict=True)]
    samples = await asyncio.gather(*asked)
    return sum(len(sample.ids) for sample in samples) / (time.perf_counter() - began)


async def measured(base: Base, rounds: int) -> dict[str, list[float]]:
    generator = torch.Generator().manual_seed(0)
    shape = (PROMPTS * (rounds + 1), PROMPT_TOKENS)
    ids_PT = torch.randint(8, base.model.config.vocab_size, shape, generator=generator)
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        found = engines(base, write_adapter(base, Path(directory) / "adapter"))
        for number in range(rounds + 1):  # other prompts each time: vLLM keeps prefixes
            prompts = ids_PT[number * PROMPTS : (number + 1) * PROMPTS].tolist()
            for name, engine in found.items():
                rate = await sampled(engine, prompts)
                if number:
                    rates.setdefault(name, []).append(rate)
        for engine in found.values():
            await engine.close()
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="artifacts/smollm2", help="base model: shipped name, directory or id")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rates = asyncio.run(measured(load_base(arguments.base), arguments.rounds))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    slowest = medians["in process, through transformers"]
    print(f"{torch.get_num_threads()} threads, {PROMPTS} prompts of {PROMPT_TOKENS} tokens, {TOKENS} tokens each\n")
    print("| engine | tokens/s | relative to transformers |\n| --- | --- | --- |")
    for name, rate in medians.items():
        print(f"| {name} | {rate:.0f} | {rate / slowest:.2f} |")


if __name__ == "__main__":
    main()
