"""The local engine against peft and plain forward passes: same numbers, whatever is cached, padded or batched."""

import asyncio

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ingest.errors import UserError
from training.engines import Sampling, TooLong
from training.engines.local import LocalEngine
from training.tiny.passes.decoding import SmallDecoder

VOCABULARY = 97


def make_model(seed=0):
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    return Qwen2ForCausalLM(config).eval()


def make_adapter(seed):
    """A peft model over the same base with random, non-zero factors; its state dict and config."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(make_model(), config)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval(), get_peft_model_state_dict(model), {"r": 4, "lora_alpha": 8}


@pytest.fixture(scope="module")
def adapted():
    return make_adapter(1)


@pytest.fixture(params=["small", "transformers"])
def engine(request, adapted, monkeypatch):
    """The engine in full precision, once with its own forward pass and once with transformers'."""
    if request.param == "transformers":
        monkeypatch.setattr(SmallDecoder, "fits", lambda *_: False)
    engine = LocalEngine(make_model(), max_rows=64, dtype=torch.float32)
    engine.publish_adapter("policy@1", adapted[1], adapted[2])
    engine.publish_adapter("other@1", *make_adapter(2)[1:])
    return engine


def prompts(count, seed=0, longest=40):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, longest, (count,), generator=generator).tolist()
    return [torch.randint(1, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


@torch.no_grad()
def reference_logprobs(model, prompt, completion):
    logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0].tolist()


def run(*requests):
    async def together():
        return await asyncio.gather(*requests)

    return asyncio.run(together())


def test_sampled_logprobs_equal_those_of_peft(engine, adapted):
    asked = prompts(20)
    samples = run(
        *(
            engine.sample(p, adapter="policy@1", sampling=Sampling(max_tokens=12, stop_ids=(5, 6, 7, 8), seed=k))
            for k, p in enumerate(asked)
        )
    )
    assert any(s.stopped for s in samples) and not all(s.stopped for s in samples)
    for prompt, sample in zip(asked, samples, strict=True):
        assert sample.adapter == "policy@1"
        assert sample.logprobs == pytest.approx(reference_logprobs(adapted[0], prompt, list(sample.ids)), abs=1e-4)
        assert sample.stopped == (sample.ids[-1] in (5, 6, 7, 8))


def test_greedy_equals_plain_generation(engine):
    asked = prompts(9, seed=4)
    samples = run(*(engine.sample(p, adapter=None, sampling=Sampling(10, temperature=0.0)) for p in asked))
    plain = make_model()
    for prompt, sample in zip(asked, samples, strict=True):
        asked = torch.tensor([prompt])
        out = plain.generate(asked, max_new_tokens=10, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert list(sample.ids) == out[0, len(prompt) :].tolist()


def test_a_request_does_not_depend_on_its_neighbours_or_on_what_is_cached(engine):
    asked = prompts(12, seed=2)
    sampling = [Sampling(max_tokens=8, seed=100 + k) for k in range(12)]
    together = run(*(engine.sample(p, adapter="policy@1", sampling=s) for p, s in zip(asked, sampling, strict=True)))
    alone = [run(engine.sample(p, adapter="policy@1", sampling=s))[0] for p, s in zip(asked, sampling, strict=True)]
    assert [s.ids for s in together] == [s.ids for s in alone]


def test_a_later_turn_reuses_the_prefix_and_scores_the_same(engine, adapted):
    first = prompts(6, seed=3)
    turns = run(*(engine.sample(p, adapter="policy@1", sampling=Sampling(6, seed=k)) for k, p in enumerate(first)))
    longer = [[*p, *t.ids, 11, 12, 13] for p, t in zip(first, turns, strict=True)]
    ran = []
    forward = engine._forward
    engine._forward = lambda cache, ids, *rest: ran.append(ids.size) or forward(cache, ids, *rest)
    again = run(*(engine.sample(p, adapter="policy@1", sampling=Sampling(1, seed=9)) for p in longer))
    assert sum(ran) == 6 * 4  # three new ids and the one whose keys sampling never computed
    for prompt, sample in zip(longer, again, strict=True):
        assert sample.logprobs == pytest.approx(reference_logprobs(adapted[0], prompt, list(sample.ids)), abs=1e-4)


def test_score_and_next_logprobs_agree_with_plain_forward_passes(engine, adapted):
    asked = prompts(7, seed=5)
    scores = run(*(engine.score(p[:-2], p[-2:], adapter="policy@1") for p in asked))
    weighed = run(*(engine.next_token_logprobs(p[:-1], [p[-1], 3], adapter="policy@1") for p in asked))
    for prompt, score, candidates in zip(asked, scores, weighed, strict=True):
        assert score == pytest.approx(reference_logprobs(adapted[0], prompt[:-2], prompt[-2:]), abs=1e-4)
        assert candidates[0] == pytest.approx(score[-1], abs=1e-4)


def test_adapters_in_one_batch_give_the_same_results_as_alone(engine):
    asked, adapters = prompts(18, seed=7), [None, "policy@1", "other@1"] * 6
    sampling = [Sampling(max_tokens=3 + k, seed=k) for k in range(18)]  # the last ones outlive the round
    wanted = list(zip(asked, adapters, sampling, strict=True))
    together = run(*(engine.sample(p, adapter=a, sampling=s) for p, a, s in wanted))
    alone = [run(engine.sample(p, adapter=a, sampling=s))[0] for p, a, s in wanted]
    assert [s.ids for s in together] == [s.ids for s in alone]
    assert [len(s.ids) for s in together] == [3 + k for k in range(18)]
    models = {None: make_model(), "policy@1": make_adapter(1)[0], "other@1": make_adapter(2)[0]}
    for (prompt, adapter, _), sample in zip(wanted, together, strict=True):
        expected = reference_logprobs(models[adapter], prompt, list(sample.ids))
        assert sample.logprobs == pytest.approx(expected, abs=1e-4)


def test_bfloat16_stays_close_to_full_precision(adapted):
    exact, quick = (LocalEngine(make_model(), dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    for engine in (exact, quick):
        engine.publish_adapter("policy@1", adapted[1], adapted[2])
    asked = prompts(40, seed=9)
    every = [
        engine.next_token_logprobs(p, range(VOCABULARY), adapter="policy@1") for engine in (exact, quick) for p in asked
    ]
    logprobs = torch.tensor(run(*every)).view(2, len(asked), VOCABULARY)
    divergence = (logprobs[0].exp() * (logprobs[0] - logprobs[1])).sum(-1)
    assert 0 < divergence.mean() < 2e-3 and (logprobs[0] - logprobs[1]).abs().mean() < 0.05


SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
}  # fmt: skip
KINDS = ["sliding_attention", "full_attention"]


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(sliding_window=8, **SHAPE),
        Gemma3TextConfig(sliding_window=8, layer_types=KINDS, head_dim=8, **SHAPE),
        Qwen2Config(sliding_window=8, use_sliding_window=True, layer_types=KINDS, **SHAPE),
    ],
    ids=lambda config: config.model_type,
)
def test_layers_with_a_sliding_window_see_no_further(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    engine = LocalEngine(model)
    for prompt in prompts(3, longest=60):
        sample = run(engine.sample(prompt, adapter=None, sampling=Sampling(12, seed=1)))[0]
        assert sample.logprobs == pytest.approx(reference_logprobs(model, prompt, list(sample.ids)), abs=1e-4)


@pytest.mark.parametrize(("dtype", "far"), [(torch.bfloat16, 1e-2), (torch.float32, 1e-6)])
def test_a_wide_model_of_another_shape_samples_with_folded_weights(dtype, far):
    """Wider than what `AdapterLinear` folds; heads whose sizes do not add up to the width, grouped, an own head."""
    torch.manual_seed(0)
    shape = {**SHAPE, "hidden_size": 96, "intermediate_size": 1056, "num_attention_heads": 3, "num_key_value_heads": 1}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**shape, head_dim=16, tie_word_embeddings=False)).eval()
    engine = LocalEngine(model, dtype=dtype)
    assert engine._small is not None and engine._small.dtype == dtype
    asked = prompts(8, seed=9)
    found = torch.tensor(run(*(engine.next_token_logprobs(p, range(VOCABULARY), adapter=None) for p in asked)))
    with torch.no_grad():
        wanted = torch.stack([model(torch.tensor([p])).logits[0, -1].log_softmax(-1) for p in asked])
    assert (wanted.exp() * (wanted - found)).sum(-1).mean() < far


def test_equal_prompts_share_a_prefill_and_differ_by_seed(engine):
    prompt = prompts(1, seed=8)[0]
    samples = run(*(engine.sample(prompt, adapter=None, sampling=Sampling(12, seed=k)) for k in range(8)))
    assert len({s.ids for s in samples}) > 4
    again = run(*(engine.sample(prompt, adapter=None, sampling=Sampling(12, seed=k)) for k in range(8)))
    assert samples == again


def test_temperature_one_draws_from_the_model_s_distribution(engine):
    prompt = prompts(1, seed=6)[0]
    samples = run(*(engine.sample(prompt, adapter=None, sampling=Sampling(1, seed=k)) for k in range(600)))
    with torch.no_grad():
        probabilities = make_model()(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    drawn = torch.bincount(torch.tensor([s.ids[0] for s in samples]), minlength=VOCABULARY) / 600
    assert (drawn - probabilities).abs().sum() / 2 < 0.12


def test_min_p_excludes_the_tail_and_keeps_the_models_logprobs(engine):
    prompt = prompts(1, seed=6)[0]
    with torch.no_grad():
        logprobs = make_model()(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    least = 0.3
    kept = (logprobs >= logprobs.max() + torch.tensor(least).log()).nonzero()[:, 0].tolist()
    assert 1 < len(kept) < VOCABULARY
    asked = [Sampling(1, seed=k, min_p=least if k % 2 else 0.0) for k in range(400)]
    samples = run(*(engine.sample(prompt, adapter=None, sampling=s) for s in asked))
    assert {s.ids[0] for s in samples[1::2]} == set(kept)
    assert {s.ids[0] for s in samples[::2]} > set(kept)
    for sample in samples[1::2]:
        assert sample.logprobs[0] == pytest.approx(logprobs[sample.ids[0]].item(), abs=1e-4)


def test_the_base_stays_bit_identical_and_versions_are_kept_apart(engine, adapted):
    before = {k: v.clone() for k, v in make_model().state_dict().items()}
    _, weights, config = make_adapter(2)
    engine.publish_adapter("policy@2", weights, config)
    prompt = prompts(1)[0]
    one, two = run(
        engine.sample(prompt, adapter="policy@1", sampling=Sampling(5, temperature=0.0)),
        engine.sample(prompt, adapter="policy@2", sampling=Sampling(5, temperature=0.0)),
    )
    assert (one.adapter, two.adapter) == ("policy@1", "policy@2") and one.logprobs != two.logprobs
    after = {k.replace(".linear.", "."): v for k, v in engine.model.state_dict().items()}
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_an_unknown_adapter_and_a_foreign_one_are_refused(engine, tmp_path):
    with pytest.raises(UserError, match="policy@9"):
        run(engine.sample([1, 2], adapter="policy@9", sampling=Sampling()))
    with pytest.raises(UserError, match="another base"):
        weights = {f"base_model.model.other.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
        engine.publish_adapter("x", weights, {"r": 2, "lora_alpha": 2})
    with pytest.raises(UserError, match="adapter_config.json"):
        engine.load_adapter("y", tmp_path)


def test_a_failed_round_fails_its_requests_and_the_engine_continues(engine):
    with pytest.raises(IndexError):
        run(engine.next_token_logprobs([1, 2, VOCABULARY + 5], [1], adapter=None))
    assert run(engine.sample([1, 2], adapter=None, sampling=Sampling(2, seed=1)))[0].ids


def test_beyond_the_context_of_the_base_nothing_is_computed(engine):
    """A model answers there too, without an error, and at random."""
    whole, known = list(prompts(1, longest=8)[0]), engine.context
    assert known == 512
    prompt = (whole * known)[: known - 3]

    async def check():
        sample = await engine.sample(prompt, adapter=None, sampling=Sampling(50, 1.0, (), seed=1))
        assert len(sample.ids) == 3 and not sample.stopped
        assert len(await engine.score(prompt, [5, 6, 7], adapter=None)) == 3
        for call in (
            engine.sample((whole * known)[:known], adapter=None, sampling=Sampling(1)),
            engine.score(prompt, [5, 6, 7, 8], adapter=None),
            engine.next_token_logprobs((whole * known)[: known + 1], [5], adapter=None),
        ):
            with pytest.raises(TooLong, match="more than the base's context of 512"):
                await call
        await engine.close()

    asyncio.run(check())
