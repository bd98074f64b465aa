"""Where a base lives is decided in one place, and everything follows it: checked with a fake accelerator anywhere.

The fake one is torch's device `meta`: its tensors have shapes and no numbers, and an operation on tensors of two
devices fails as it would on a GPU. (FakeTensorMode's CUDA tensors cannot be indexed by a torch without CUDA.)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_samples import random_rows, stir, tiny_base
from transformers import AutoModelForCausalLM, LlamaConfig, masking_utils

from ingest.errors import UserError
from training.engines.local import LocalEngine
from training.learning import learner as learners
from training.learning.learner import Learner, LearnerSettings
from training.models.base import SHIPPED, Base, load_base
from training.models.devices import (
    DeviceSettings,
    autocasts,
    placement,
    plain_weights,
    quick_dtype,
    recomputes,
    sharing_weights,
)
from training.models.lora import LoraSettings, save_adapter
from training.models.lora_layers import spans_of

SHAPE = LearnerSettings(lora=LoraSettings(rank=4, alpha=8), learning_rate=1e-2, warmup_steps=0)
FAKE = torch.device("meta")


# ----- the decision


def test_a_machine_without_accelerator_computes_in_float32_on_its_cpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    found = placement(DeviceSettings())
    assert (found.device.type, found.dtype, found.load_options().get("device_map")) == ("cpu", torch.float32, None)


def test_the_environment_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REHEARSAL_DTYPE", "bfloat16")
    monkeypatch.setenv("REHEARSAL_DEVICE", "cpu")
    assert placement().dtype == torch.bfloat16
    model = load_base().model
    assert next(model.parameters()).dtype == torch.bfloat16
    monkeypatch.setenv("REHEARSAL_DTYPE", "int3")
    with pytest.raises(UserError, match="dtype"):
        placement()
    monkeypatch.setenv("REHEARSAL_DTYPE", "auto")
    monkeypatch.setenv("REHEARSAL_DEVICE", "cuda:99")
    with pytest.raises(UserError, match="cuda:99"):
        load_base()


def test_float32_on_a_cpu_with_matrix_tiles_is_sampled_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert quick_dtype() == torch.bfloat16
    monkeypatch.setenv("REHEARSAL_DTYPE", "float32")
    assert quick_dtype() == torch.float32


def test_products_are_bfloat16_only_where_the_device_multiplies_it_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU with AVX2 only they take several times as long as in float32."""
    cpu = torch.device("cpu")
    for has, quick in (({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        assert autocasts(None, cpu) == quick and autocasts(True, cpu) and not autocasts(False, cpu)
        base = tiny_base()
        body = Learner(base, SHAPE)._body
        assert body is not None and body.dtype == (torch.bfloat16 if quick else torch.float32)
        assert LocalEngine(base.model).dtype == body.dtype
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert not autocasts(None, torch.device("cuda"))


def test_an_accelerator_holds_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    options = placement(DeviceSettings(device="cuda:1")).load_options()
    assert options["dtype"] == torch.bfloat16 and options["device_map"] == {"": "cuda:1"}
    with pytest.raises(UserError, match="cuda:2.*2 CUDA devices"):
        placement(DeviceSettings(device="cuda:2"))
    four = placement(DeviceSettings(device="cuda:0", quantize="4bit")).load_options()["quantization_config"]
    assert four.load_in_4bit and four.bnb_4bit_quant_type == "nf4"
    with pytest.raises(UserError, match="flash_attention_2 needs"):
        placement(DeviceSettings(device="cpu", attention="flash_attention_2"))


def test_large_models_recompute_their_activations_unless_told_otherwise() -> None:
    with torch.device("meta"):
        large = torch.nn.Linear(40_000, 40_000)
    small = torch.nn.Linear(4, 4)
    assert recomputes(None, large) and not recomputes(None, small)
    assert recomputes(True, small) and not recomputes(False, large)


# ----- one set of frozen weights


def _storages(module: torch.nn.Module) -> set[int]:
    return {p.untyped_storage().data_ptr() for p in module.parameters() if not p.requires_grad}


def test_learner_and_engine_hold_the_bases_own_weights(tmp_path: Path) -> None:
    base = tiny_base()
    before = {k: v.clone() for k, v in base.model.state_dict().items()}
    learner, second = Learner(base, SHAPE), Learner(base, SHAPE, seed=5)
    engine = LocalEngine(base.model, base.format.pad_id)
    own = _storages(base.model)
    assert _storages(learner.model) == own == _storages(second.model)
    assert {p.untyped_storage().data_ptr() for p in engine.model.parameters()} == own
    learner.sft_step(random_rows(4, base.model.config.vocab_size))
    assert not any("lora" in name for name, _ in base.model.named_parameters())
    assert all(torch.equal(v, before[k]) for k, v in base.model.state_dict().items())
    other = sharing_weights(base.model)
    assert other is not base.model and other.config is not base.model.config


def test_recomputing_activations_changes_no_gradient() -> None:
    torch.manual_seed(0)
    base = replace(tiny_base(), model=_llama().eval())
    for parameter in base.model.parameters():
        parameter.requires_grad_(False)
    rows = random_rows(3, base.model.config.vocab_size)
    found = []
    for wanted in (False, True):
        how = SHAPE.model_copy(update={"gradient_checkpointing": wanted, "bf16": False})
        learner = Learner(base, how)
        stir(learner)
        learner.sft_step(rows)
        found.append(learner.weights()[0])
        assert learner._adapted.is_gradient_checkpointing == wanted
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], atol=1e-6), name


# ----- a fake accelerator


def _llama(**more: Any) -> Any:
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 340}
    config = LlamaConfig(hidden_size=32, intermediate_size=64, tie_word_embeddings=False, **shape, **more)
    return AutoModelForCausalLM.from_config(config)


def _base() -> Base:
    model = _llama(hidden_act="gelu").eval()  # no model that the tiny base's own passes fit
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return replace(tiny_base(), model=model)


@pytest.fixture
def learner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Learner:
    """A learner on the fake device."""
    monkeypatch.setattr(torch.Tensor, "item", lambda self: 0.0)
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda positions: None)  # looks at numbers
    wanted = {"bf16": False, "gradient_checkpointing": getattr(request, "param", False)}
    made = Learner(_base(), SHAPE.model_copy(update=wanted))
    made.model.to(FAKE)
    made.parameters = [p for p in made.model.parameters() if p.requires_grad]
    made.keep_reference()
    return made


@pytest.mark.parametrize("learner", [False, True], indirect=True, ids=["kept", "recomputed"])
def test_a_policy_step_stays_on_the_bases_device(learner: Learner) -> None:
    gradients, metrics = _policy_gradients(learner, random_rows(4, 340))
    assert {p.device for p in learner.parameters} == {FAKE} == {g.device for g in gradients}
    assert len(gradients) == len(learner.parameters) and "kl" in metrics


def _policy_gradients(learner: Learner, rows: Any) -> Any:
    from training.learning.learner import _Work
    from training.learning.policy_losses import Cispo

    return learner._gradients(rows, _Work(Cispo(kl_penalty=0.1), 10.0, {}))


def test_a_tensor_on_the_wrong_device_is_detected(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the check can fail."""
    given = learners._tokens

    def stray(rows: Any, batch: Any, *rest: Any) -> Any:
        return replace(given(rows, batch, *rest), sampler_N=torch.zeros(len(batch.advantages_N)))

    monkeypatch.setattr(learners, "_tokens", stray)
    with pytest.raises(RuntimeError, match="device"):
        _policy_gradients(learner, random_rows(2, 340))


def test_prefill_decoding_and_drawing_stay_on_the_bases_device() -> None:
    base = _base()
    base.model.to(FAKE)
    engine = LocalEngine(base.model, base.format.pad_id, own=True)
    assert engine.device == FAKE and engine._small is None
    request = _request(engine, (5, 6, 7))
    cache, row_of, logits_NV = engine._prefill([request])
    assert logits_NV.device == FAKE == cache.keys.device and len(row_of) == 1
    ids_B, logprobs_B = engine._drawn([request], logits_NV)
    assert ids_B.device == FAKE == logprobs_B.device
    columns = np.array([[3]])
    assert engine._forward(cache, np.array([[4]]), columns, spans_of([None])).device == FAKE


def test_tokens_are_drawn_where_there_is_float64() -> None:
    base = _base()
    engine = LocalEngine(base.model, base.format.pad_id, own=True)
    request, logits_BV = _request(engine, (5, 6, 7)), torch.randn(1, 340)
    wanted = engine._draw([request], logits_BV)
    engine.device = torch.device("mps")
    assert engine._draw([request], logits_BV) == wanted


def test_an_adapter_from_files_is_put_on_the_bases_device(tmp_path: Path) -> None:
    base = _base()
    save_adapter(Learner(base, SHAPE).model, tmp_path / "adapter", {})
    base.model.to(FAKE)
    engine = LocalEngine(base.model, base.format.pad_id, own=True)
    engine.load_adapter("policy@0", tmp_path / "adapter")
    factors = engine._adapters.get("policy@0")
    assert factors is not None
    assert {part.device for pair in factors.modules.values() for part in pair} == {FAKE}
    cache, _, _ = engine._prefill([replace(_request(engine, (5, 6, 7)), adapter="policy@0", factors=factors)])
    assert engine._forward(cache, np.array([[4]]), np.array([[3]]), spans_of([factors])).device == FAKE


def _request(engine: LocalEngine, prompt: tuple[int, ...]) -> Any:
    from training.engines import Sampling
    from training.engines.local import _Request

    return _Request(prompt, None, None, Sampling(4, 1.0, (), seed=1, min_p=0.1), (), (), None)  # type: ignore[arg-type]


# ----- quantised bases


def test_a_four_bit_base_learns_and_samples(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="4-bit bases need bitsandbytes (extra: quantized)")
    base = load_base("rehearsal-tiny", devices=DeviceSettings(device="cpu", dtype="float32", quantize="4bit"))
    assert not plain_weights(base.model)
    kinds = {type(m).__name__ for m in base.model.modules()}
    assert "Linear4bit" in kinds
    learner = Learner(base, SHAPE.model_copy(update={"bf16": False}))
    rows = random_rows(4, base.model.config.vocab_size)
    first = learner.sft_step(rows)["loss"]
    for _ in range(5):
        last = learner.sft_step(rows)["loss"]
    assert last < first
    import asyncio

    from training.engines import Sampling

    engine = LocalEngine(base.model, base.format.pad_id)
    engine.publish_adapter("policy@0", *learner.weights())
    ids = list(rows[0].ids[:6])
    sample = asyncio.run(engine.sample(ids, adapter="policy@0", sampling=Sampling(4, 1.0, (), seed=1)))
    learner.model.eval()
    with torch.no_grad():
        logits_TV = learner.model(input_ids=torch.tensor([[*ids, *sample.ids]])).logits[0]
    wanted = [logits_TV[5 + k].log_softmax(-1)[token].item() for k, token in enumerate(sample.ids)]
    assert sample.logprobs == pytest.approx(wanted, abs=5e-3)
    assert SHIPPED["rehearsal-tiny"].is_dir()
