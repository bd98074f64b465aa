"""A real base, start to end with tiny budgets: format, world, clone, a GRPO step, sampling in process and by vLLM."""

from __future__ import annotations

import asyncio
import importlib.util
import math
from pathlib import Path

import pytest
import torch
from smollm2_samples import smollm2, smollm2_path
from training_samples import TOOL, Wall, conversations, start

from ingest.errors import UserError
from training.engines import Sampling
from training.engines.local import LocalEngine
from training.learning.batch import Row
from training.learning.fits import FitSettings
from training.learning.learner import Learner, LearnerSettings
from training.learning.policy_losses import Cispo
from training.models import smollm2 as conversion
from training.models.lora import LoraSettings, manifest_of, save_weights, settings_of
from training.models.template import TemplateFormat
from training.policy.clone import fit_clone, policy_rows
from training.policy.rollout import Limits, rollout

SHAPE = LearnerSettings(lora=LoraSettings(rank=4, alpha=8), learning_rate=1e-3, warmup_steps=0)


def test_the_directory_is_a_plain_model_with_a_template_that_knows_tools() -> None:
    base = smollm2()
    assert isinstance(base.format, TemplateFormat) and base.format.parallel_calls
    assert base.model.num_parameters() == 134_515_008
    assert getattr(base.model.config, "quantization_config", None) is None
    names = [base.format.tokenizer.convert_ids_to_tokens(i) for i in base.format.stop_ids]
    assert names == ["<|im_end|>"]
    text = base.format.tokenizer.decode(base.format.prompt([{"role": "user", "content": "hi"}], [TOOL]))
    assert "- paint(colour)" in text and text.endswith("<|im_start|>assistant\n")


def test_it_knows_english() -> None:
    base = smollm2()
    ids = base.format.encode("The capital of France is")
    paris, other = base.format.encode(" Paris")[0], base.format.encode(" banana")[0]
    with torch.no_grad():
        logprobs_V = base.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
    assert logprobs_V[paris] > math.log(0.2) and logprobs_V[paris] - logprobs_V[other] > 5


def test_without_the_package_the_refusal_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install"):
        conversion.make(tmp_path / "smollm2")


@pytest.mark.slow
def test_a_conversion_is_written_whole_and_made_once(tmp_path: Path) -> None:
    smollm2_path()
    try:
        out = conversion.make(tmp_path / "smollm2")
    except UserError as error:
        pytest.skip(f"SmolLM2's package is not here: {error}")
    written = (out / "model.safetensors").stat().st_mtime_ns
    assert conversion.make(out) == out and (out / "model.safetensors").stat().st_mtime_ns == written
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.slow
def test_clone_practice_and_a_grpo_step(tmp_path: Path) -> None:
    """The learner finds the log-probabilities that the engine sampled with, and one step moves the adapter."""
    base = smollm2()
    rows = policy_rows(conversations(6), base.format, show_system=True)
    assert len(rows) == 6 and all(len(row.ids) < 160 for row in rows)
    settings = FitSettings(learner=SHAPE, step_tokens=256, evaluations=1, max_epochs=1)
    manifest = fit_clone(base, conversations(6), tmp_path / "clone", settings, show_system=True)
    assert manifest["rows"] == 5 and manifest["history"][-1]["held_out"] < 5
    learner = Learner(
        base, SHAPE.model_copy(update={"lora": settings_of(tmp_path / "clone")}), start=tmp_path / "clone"
    )
    engine = LocalEngine(base.model, base.format.pad_id)
    engine.load_adapter("policy@0", tmp_path / "clone")
    limits = Limits(turns=2, turn_tokens=12)
    run = rollout(engine, base.format, Wall(), start(), adapter="policy@0", seed=1, limits=limits)
    lived = asyncio.run(run)
    assert lived.sampled_tokens() and lived.adapter == "policy@0"
    before = learner.weights()[0]
    learner.keep_reference()
    found = learner.policy_step(lived.rows(1.0), Cispo(kl_penalty=0.05))
    assert found["engine_kl"] < 0.02 and found["kl"] < 0.02 and found["tokens"] == lived.sampled_tokens()
    after = learner.weights()[0]
    assert any(not torch.equal(before[k], after[k]) for k in before)


@pytest.mark.slow
def test_the_in_process_engine_batches_like_it_samples_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32: the products of bfloat16 depend on the shape of the batch, and near ties then fall either way."""
    monkeypatch.setenv("REHEARSAL_DTYPE", "float32")
    base = smollm2()
    engine = LocalEngine(base.model, base.format.pad_id)
    prompts = [base.format.prompt([{"role": "user", "content": text}]) for text in ("hi", "Name a colour, please.")]

    async def both() -> list[list[int]]:
        asked = [
            engine.sample(p, adapter=None, sampling=Sampling(8, 0.0, base.format.stop_ids, seed=k))
            for k, p in enumerate(prompts)
        ]
        return [list(s.ids) for s in await asyncio.gather(*asked)]

    async def one(k: int) -> list[int]:
        sampling = Sampling(8, 0.0, base.format.stop_ids, seed=k)
        return list((await engine.sample(prompts[k], adapter=None, sampling=sampling)).ids)

    together = asyncio.run(both())
    assert together == [asyncio.run(one(0)), asyncio.run(one(1))]


@pytest.mark.slow
def test_a_world_is_learned_on_it(tmp_path: Path) -> None:
    """One adapter of a world, from transitions to a calibrated artefact, on a base whose prompts are sentences."""
    from training.learning.fits import fit_sft
    from training.models.roles import Seen, WorldPrompt, world_answer

    base = smollm2()
    seen = Seen("get_wall", {"id": "W1"}, '{"id":"W1","colour":"grey"}')
    prompt = WorldPrompt((seen,), (), "paint", {"id": "W1", "colour": "red"}, ("ok", "not_found"))
    ids = base.format.prompt(prompt.messages(base.format.compact))
    answer = [*base.format.encode(world_answer(0, '@1{"colour":"red"}')), base.format.stop_ids[0]]
    row = Row((*ids, *answer), (*[False] * len(ids), *[True] * len(answer)))
    settings = FitSettings(learner=SHAPE, step_tokens=512, evaluations=2, max_epochs=3)
    weights, config, history = fit_sft(base, [row] * 2, [row], settings)
    save_weights(weights, config, tmp_path / "world", {"role": "world"})
    assert history[-1]["held_out"] < history[0]["loss"] and (manifest_of(tmp_path / "world") or {})["role"] == "world"


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_samples_what_the_learner_scores(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed (make vllm)")
    from training.engines.vllm import VllmEngine, VllmSettings

    base = smollm2()
    learner = Learner(base, SHAPE)
    for parameter in learner.parameters:
        parameter.data.normal_(0, 0.02)
    save_weights(*learner.weights(), tmp_path / "adapter", {})
    engine = VllmEngine(base.path, VllmSettings(max_model_len=512, kv_cache_gib=0.3, dtype="float32"))
    try:
        engine.load_adapter("policy@0", tmp_path / "adapter")
        prompt = base.format.prompt([{"role": "user", "content": "paint the wall"}], [TOOL])
        sampling = Sampling(12, 1.0, base.format.stop_ids, seed=3)
        sample = asyncio.run(engine.sample(prompt, adapter="policy@0", sampling=sampling))
        row = Row((*prompt, *sample.ids), (*[False] * len(prompt), *[True] * len(sample.ids)), 1.0, sample.logprobs)
        found = learner.policy_step([row], Cispo(kl_penalty=0.0))
    finally:
        asyncio.run(engine.close())
    assert found["engine_kl"] < 0.02 and len(sample.ids) > 1
