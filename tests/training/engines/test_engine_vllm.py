"""The vLLM engine against the local one, in process and over HTTP: the same ids and log-probabilities, adapters kept
apart. One vLLM is started for the whole module; the server's routes are vLLM's own, over that same vLLM."""

import asyncio
import importlib.util
import json
import math
import shutil
import socket
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from ingest.errors import UserError
from training.engines import Sampling
from training.engines.background import BackgroundLoop
from training.engines.choose import open_engine
from training.engines.grammar import Grammar, UnusableSchema
from training.engines.local import LocalEngine
from training.engines.vllm import VllmEngine, VllmSettings
from training.engines.vllm_server import VllmServer
from training.learning.batch import Row
from training.learning.learner import Learner, LearnerSettings
from training.learning.losses import Drawing
from training.learning.policy_losses import Cispo
from training.models.base import base_path, load_base
from training.models.lora import LoraSettings, new_adapter, save_adapter

CONTEXT = 512
SETTINGS = VllmSettings(max_model_len=CONTEXT, max_adapters=4, max_rank=16, kv_cache_gib=0.5)
vllm = pytest.mark.vllm


def run(*requests):
    async def together():
        return await asyncio.gather(*requests)

    return asyncio.run(together())


def write_adapter(path, seed, settings=None):
    """A peft adapter of the learner's own shape, with factors large enough to change what is said."""
    model = new_adapter(load_base().model, settings or LoraSettings(), seed)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    save_adapter(model, path, {})
    return path


@pytest.fixture(scope="module")
def base():
    return load_base()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    directory = tmp_path_factory.mktemp("adapters")
    return {f"policy@{seed}": write_adapter(directory / str(seed), seed) for seed in (1, 2, 3, 4)}


@pytest.fixture(scope="module")
def prompts(base):
    said = ["Where is my order W4012?", "Cancel W77 please", "I want a refund", "hello", "change the address of W5000"]
    return [base.format.prompt([{"role": "user", "content": text}]) for text in said]


@pytest.fixture(scope="module")
def local(base, adapters):
    engine = LocalEngine(base.model, base.format.pad_id, dtype=torch.float32)
    for name, path in adapters.items():
        engine.load_adapter(name, path)
    return engine


@pytest.fixture(scope="module")
def in_process(base, adapters):
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (make vllm)")
    engine = open_engine("vllm", base, SETTINGS)
    for name, path in adapters.items():
        engine.load_adapter(name, path)
    yield engine

    async def close_meanwhile():
        waiting = asyncio.create_task(engine.sample([1, 2], adapter=None, sampling=Sampling(500, seed=1)))
        await asyncio.sleep(0.1)
        await engine.close()
        await waiting

    with pytest.raises(RuntimeError, match="the engine was closed"):
        asyncio.run(close_meanwhile())
    with pytest.raises(RuntimeError, match="the engine was closed"):
        engine.unload_adapter("policy@1")


@pytest.fixture(scope="module")
def url(in_process):
    """The routes of `vllm serve` over the vLLM of the in-process engine."""
    from uvicorn import Config, Server
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.utils.counter import AtomicCounter

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
        llm = in_process._llm
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", base_path("rehearsal-tiny")])
        app = build_app(args, ("generate",), llm.model_config)
        listener = socket.create_server(("127.0.0.1", 0))
        server = Server(Config(app, log_level="error", lifespan="off"))

        async def start():
            await init_app_state(llm, app.state, args, ("generate",))
            app.state.openai_serving_models.lora_id_counter = AtomicCounter(1000)  # two clients of one AsyncLLM
            asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))

        server.install_signal_handlers = lambda: None
        in_process._background.wait(start())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server.should_exit = True
        time.sleep(0.3)


@pytest.fixture(scope="module")
def over_http(url, base, adapters):
    engine = open_engine("vllm", base, VllmSettings(server=url))
    for name, path in adapters.items():
        engine.load_adapter(name, path)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture(params=["in_process", "over_http"])
def engine(request):
    return request.getfixturevalue(request.param)


def assert_same(samples, expected):
    """Equal ids but for a rare tie, and close log-probabilities as far as the ids agree."""
    assert sum(a.ids == b.ids for a, b in zip(samples, expected, strict=True)) >= 0.9 * len(expected)
    for sample, wanted in zip(samples, expected, strict=True):
        if sample.ids == wanted.ids:
            assert sample.logprobs == pytest.approx(wanted.logprobs, abs=0.05)
            assert (sample.stopped, sample.adapter) == (wanted.stopped, wanted.adapter)


def greedy(engine, base, prompts, names, length=16):
    sampling = Sampling(length, temperature=0.0, stop_ids=base.format.stop_ids)
    return run(*(engine.sample(p, adapter=name, sampling=sampling) for p in prompts for name in names))


@vllm
@pytest.mark.slow
def test_a_batch_of_base_and_adapters_agrees_with_the_local_engine(engine, local, base, prompts, adapters):
    """On a CPU a server's base requests must not meet adapters (vllm#48421), so there they are a batch of their own."""
    names = (None, *adapters)
    batches = [names] if isinstance(engine, VllmEngine) else [(None,), tuple(adapters)]
    samples = [sample for batch in batches for sample in greedy(engine, base, prompts, batch)]
    assert_same(samples, [sample for batch in batches for sample in greedy(local, base, prompts, batch)])
    by_name = [tuple(s.ids for s in samples if s.adapter == name) for name in names]
    assert len(set(by_name)) == 5  # policy, world, user and judge can share one engine
    assert {s.stopped for s in samples} == {True, False}


@vllm
@pytest.mark.slow
def test_logprobs_at_temperature_one_are_the_model_s_own(engine, local, prompts):
    sampling = Sampling(8, seed=5)
    samples = run(*(engine.sample(p, adapter="policy@1", sampling=sampling) for p in prompts))
    own = run(*(local.score(p, s.ids, adapter="policy@1") for p, s in zip(prompts, samples, strict=True)))
    for sample, expected in zip(samples, own, strict=True):
        assert sample.logprobs == pytest.approx(expected, abs=0.05)


@vllm
@pytest.mark.slow
def test_equal_seeds_give_equal_samples_in_any_batch(engine, prompts):
    def ask(seed):
        return engine.sample(prompts[0], adapter="policy@2", sampling=Sampling(12, temperature=1.5, seed=seed))

    seeds = [0, 7, 2**63 + 11, -3]
    together = run(*(ask(seed) for seed in seeds))
    assert [run(ask(seed))[0].ids for seed in seeds] == [s.ids for s in together]
    assert len({s.ids for s in together}) == 4
    assert len({s.ids for s in run(*(ask(None) for _ in range(4)))}) > 1


@vllm
@pytest.mark.slow
def test_a_schema_is_followed(engine, base, prompts):
    """Whatever the model would rather write, and with what a grammar library cannot do refused by name."""
    schema = {
        "type": "object",
        "properties": {"id": {"const": "K-7"}, "state": {"enum": ["in", "out"]}, "n": {"type": "integer"}},
        "required": ["id", "state", "n"],
        "additionalProperties": False,
    }
    grammar = Grammar(json.dumps(schema), base.format.tokenizer, base.format.stop_ids[0])
    wanted = [Sampling(60, 1.0, base.format.stop_ids, seed, grammar=grammar) for seed in range(4)]
    samples = run(*(engine.sample(prompts[0], adapter="policy@1", sampling=sampling) for sampling in wanted))
    texts = [base.format.decode(sample.ids) for sample in samples if sample.stopped]
    assert len(texts) >= 3 and len(set(texts)) > 1 and not any(" " in text for text in texts)
    for text in texts:
        assert json.loads(text)["id"] == "K-7" and json.loads(text)["state"] in ("in", "out")
    unknown = Grammar(json.dumps({"type": "no such type"}), base.format.tokenizer, base.format.stop_ids[0])
    with pytest.raises(UnusableSchema, match="no such type"):
        run(engine.sample(prompts[0], adapter="policy@1", sampling=Sampling(9, 1.0, (), 1, grammar=unknown)))


@vllm
@pytest.mark.slow
def test_temperature_one_draws_from_the_whole_distribution(in_process, local, base):
    """No top-k, top-p or penalty from a model's generation_config.json comes between."""
    prompt = base.format.prompt([{"role": "user", "content": "hello"}])[:-1]
    samples = run(*(in_process.sample(prompt, adapter=None, sampling=Sampling(1, seed=k)) for k in range(300)))
    tokens = tuple(range(base.model.config.vocab_size))
    probabilities = [math.exp(x) for x in run(local.next_token_logprobs(prompt, tokens, adapter=None))[0]]
    top = max(tokens, key=lambda token: probabilities[token])
    drawn = sum(s.ids[0] == top for s in samples) / 300
    assert drawn == pytest.approx(probabilities[top], abs=0.1)
    least = 0.5
    asked = [Sampling(1, seed=k, min_p=least) for k in range(60)]
    bounded = run(*(in_process.sample(prompt, adapter=None, sampling=s) for s in asked))
    assert all(probabilities[s.ids[0]] >= 0.9 * least * probabilities[top] for s in bounded)


@vllm
@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "min_p"), [(0.6, 0.0), (1.0, 0.3), (1.7, 0.05)])
def test_learned_logprobs_are_of_the_sampling_distribution(in_process, base, prompts, temperature, min_p):
    shape = LearnerSettings(lora=LoraSettings(rank=4, alpha=8), learning_rate=1e-30, warmup_steps=0, bf16=False)
    asked = [(p, Sampling(12, temperature, seed=k, min_p=min_p, learned=True)) for k, p in enumerate(prompts)]
    samples = run(*(in_process.sample(p, adapter=None, sampling=how) for p, how in asked))
    rows = [
        Row((*p, *s.ids), (*[False] * len(p), *[True] * len(s.ids)), 1.0, s.logprobs)
        for (p, _), s in zip(asked, samples, strict=True)
    ]
    gaps = [
        Learner(base, shape, drawing=drawing).policy_step(rows, Cispo(kl_penalty=0.0))["engine_kl"]
        for drawing in (Drawing(temperature, min_p), Drawing())
    ]
    assert gaps[0] < 0.02 and gaps[1] > 4 * gaps[0]


@vllm
@pytest.mark.slow
def test_only_the_given_stop_ids_stop(engine, base, prompts):
    free = run(engine.sample(prompts[0], adapter=None, sampling=Sampling(20, temperature=0.0)))[0]
    assert len(free.ids) == 20 and not free.stopped
    third = free.ids[2]
    first = free.ids.index(third)
    cut = run(engine.sample(prompts[0], adapter=None, sampling=Sampling(20, temperature=0.0, stop_ids=(third,))))[0]
    assert cut.ids == free.ids[: first + 1] and cut.stopped and len(cut.logprobs) == first + 1


@vllm
@pytest.mark.slow
def test_scores_and_candidates_agree_with_the_local_engine(engine, local, prompts):
    candidates = (5, 100, 5, 17, 2000)
    for adapter in (None, "policy@1"):
        both = [run(*(e.next_token_logprobs(p, candidates, adapter=adapter) for p in prompts)) for e in (engine, local)]
        for ours, theirs in zip(*both, strict=True):
            assert ours == pytest.approx(theirs, abs=0.05)
        cuts = [(p[: max(1, len(p) - 6)], p[max(1, len(p) - 6) :]) for p in prompts]
        both = [run(*(e.score(a, b, adapter=adapter) for a, b in cuts)) for e in (engine, local)]
        for (_, wanted), ours, theirs in zip(cuts, *both, strict=True):
            assert len(ours) == len(wanted) and ours == pytest.approx(theirs, abs=0.05)
    assert run(engine.score(prompts[0], (), adapter=None)) == [()]


@vllm
@pytest.mark.slow
def test_a_reloaded_name_serves_the_new_adapter(engine, local, base, prompts, adapters):
    """Keys and values that the first load left in the prefix cache must not be met by the second."""
    long = [prompts[0] * 12]
    engine.load_adapter("again", adapters["policy@1"])
    first = greedy(engine, base, long, ["again"])
    engine.load_adapter("again", adapters["policy@2"])
    second = greedy(engine, base, long, ["again"])
    expected = greedy(local, base, long, ["policy@1", "policy@2"])
    assert [first[0].ids, second[0].ids] == [e.ids for e in expected]
    assert second[0].logprobs == pytest.approx(expected[1].logprobs, abs=0.05)
    engine.unload_adapter("again")


@vllm
@pytest.mark.slow
def test_an_adapter_outlives_its_files_and_its_slot(in_process, base, prompts, adapters, tmp_path):
    mine = shutil.copytree(adapters["policy@1"], tmp_path / "mine")
    in_process.load_adapter("mine", mine)
    before = greedy(in_process, base, prompts, ["mine"])
    shutil.rmtree(mine)
    others = [f"other@{k}" for k in range(2 * SETTINGS.max_adapters)]  # more than vLLM holds: it drops the oldest
    for name in others:
        in_process.load_adapter(name, adapters["policy@2"])
    assert [s.ids for s in greedy(in_process, base, prompts, ["mine"])] == [s.ids for s in before]
    for name in ["mine", *others]:
        in_process.unload_adapter(name)


@vllm
@pytest.mark.slow
def test_running_requests_keep_an_unloaded_adapter(in_process, prompts, adapters):
    sampling = Sampling(48, temperature=0.0)
    in_process.load_adapter("passing", adapters["policy@1"])

    async def unload_halfway():
        running = asyncio.create_task(in_process.sample(prompts[1], adapter="passing", sampling=sampling))
        await asyncio.sleep(0.2)
        in_process.unload_adapter("passing")
        assert not running.done()
        return await running

    kept = asyncio.run(unload_halfway())
    usual = run(in_process.sample(prompts[1], adapter="policy@1", sampling=sampling))[0]
    assert kept.ids == usual.ids
    with pytest.raises(UserError, match="no adapter 'passing'"):
        run(in_process.sample(prompts[1], adapter="passing", sampling=sampling))
    in_process.unload_adapter("never loaded")


@vllm
@pytest.mark.slow
def test_invalid_adapters_and_prompts_are_refused_and_the_engine_continues(in_process, prompts, tmp_path):
    with pytest.raises(UserError, match="rank 24.*raise max_rank"):
        in_process.load_adapter("wide", write_adapter(tmp_path / "wide", 3, LoraSettings(rank=24)))
    with pytest.raises(UserError, match="adapter_config.json"):
        in_process.load_adapter("none", tmp_path)
    foreign = write_adapter(tmp_path / "foreign", 4)
    config = (foreign / "adapter_config.json").read_text()
    (foreign / "adapter_config.json").write_text(config.replace("up_proj", "sideways_proj"))
    weights = load_file(foreign / "adapter_model.safetensors")
    renamed = {key.replace("up_proj", "sideways_proj"): value for key, value in weights.items()}
    save_file(renamed, foreign / "adapter_model.safetensors")
    with pytest.raises(UserError, match="does not fit the base model"):
        in_process.load_adapter("foreign", foreign)
    with pytest.raises(UserError, match="no room in vLLM's context of 512"):
        run(in_process.sample(prompts[0] * 60, adapter=None, sampling=Sampling(4)))
    assert run(in_process.sample(prompts[0], adapter=None, sampling=Sampling(2, seed=1)))[0].ids


@vllm
@pytest.mark.slow
def test_a_server_s_refusals_reach_the_user(url, over_http, tmp_path):
    with pytest.raises(UserError, match="not 'elsewhere/other-base'"):
        VllmServer("elsewhere/other-base", url)
    with pytest.raises(UserError, match="refused /v1/load_lora_adapter"):
        over_http.load_adapter("wide", write_adapter(tmp_path / "wide", 3, LoraSettings(rank=24)))
    with pytest.raises(UserError, match="no adapter 'policy@9'"):
        run(over_http.next_token_logprobs([1, 2], [3], adapter="policy@9"))


def test_without_a_server_the_message_says_how_to_start_one():
    with pytest.raises(UserError, match="vllm serve"):
        VllmServer("some-base", "http://127.0.0.1:9")


def test_without_vllm_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="make vllm"):
        VllmEngine(base_path("rehearsal-tiny"))


def test_an_unknown_engine_is_refused(base):
    with pytest.raises(UserError, match="expected 'transformers' or 'vllm'"):
        open_engine("tgi", base)
    assert isinstance(open_engine("transformers", base), LocalEngine)


def test_the_background_loop_serves_several_loops_and_closing_fails_waiting_callers():
    background = BackgroundLoop("test")

    async def later(value, seconds=0.0):
        await asyncio.sleep(seconds)
        return value

    assert [run(background.ask(later(k)))[0] for k in range(3)] == [0, 1, 2] and background.wait(later(3)) == 3

    async def close_meanwhile():
        waiting = asyncio.create_task(background.ask(later(4, seconds=60)))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(background.close)
        await waiting

    with pytest.raises(RuntimeError, match="the engine was closed"):
        asyncio.run(close_meanwhile())
    with pytest.raises(RuntimeError, match="the engine was closed"):
        background.wait(later(5))
