"""The engine for real base models: vLLM in subprocesses of this process, or a running `vllm serve`.

Three properties of vLLM determine this design. Its prefix cache is keyed by an adapter's name and path, so every load
uses a new name; a second `policy@12` would otherwise read the first one's keys and values. An adapter that was evicted
from vLLM's slots is read again from its path, so the files are copied at load; a rewritten path would otherwise change
a running version. Sampling defaults come from the model's generation_config.json, so every parameter is set explicitly:
the log-probabilities must be those of the sampling distribution.

vLLM also has a bug on CPUs: a request without an adapter, batched with one that has an adapter, uses the last slot's
adapter (vllm#48421, open in 0.32). There the base is requested through an adapter of zeros.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import re
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import AutoConfig, AutoModelForCausalLM

from ingest.errors import UserError
from training.engines import Sample, Sampling, TooLong
from training.engines.background import BackgroundLoop
from training.engines.grammar import UnusableSchema
from training.models.lora import LoraSettings, adapter_weights, new_adapter, save_weights
from training.models.lora_layers import read_adapter

GIB = 1 << 30
# Options that vLLM reads only from the environment. Values that the user set are kept.
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # no usage reports
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS": "1",  # workers have nothing to save but always use the whole timeout
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process with torch threads can deadlock
}


class VllmSettings(BaseModel):
    """Settings of vLLM. With `server`, the other fields are unused: they are set on the server's command line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    server: str = Field("", description="Base URL of a running `vllm serve`; empty: start vLLM here.")
    dtype: str = Field("", description="Type of the weights; empty: as stored (vLLM's own default halves float32).")
    max_model_len: int | None = Field(None, ge=1, description="Maximum length of prompt and answer; null: the model's.")
    max_rank: int = Field(64, ge=1, description="Highest rank of an adapter: 8, 16, 32, 64, 128, 256, 320 or 512.")
    max_adapters: int = Field(8, ge=1, description="Maximum number of adapters in one batch.")
    kv_cache_gib: float | None = Field(None, gt=0, description="KV cache size in GiB; null: 1 on a CPU, else vLLM's.")
    max_restarts: int = Field(2, ge=0, description="How often a vLLM that was started here is restarted after it died.")
    restart_seconds: float = Field(300.0, ge=0, description="How long to wait for a server that has stopped to answer.")
    options: dict[str, Any] = Field(default_factory=dict, description="Other arguments of vLLM's AsyncEngineArgs.")


@dataclass(eq=False)
class _Adapter:
    """One load of an adapter: vLLM's request, our copy of its files, and the number of its users."""

    request: Any
    directory: Path
    running: int = 0
    retired: bool = False


class VllmEngine:
    """An Engine over vLLM's AsyncLLM, whose model runs in subprocesses.

    If these processes die (out of memory, a killed worker), they are restarted and unanswered requests are repeated.
    Adapters are read again from their copies.

    The adapters' state is changed only on the background loop, which starts coroutines in the order of submission. A
    request that was submitted before an adapter was unloaded or replaced therefore still uses the old one.
    """

    def __init__(self, base: str, settings: VllmSettings | None = None) -> None:
        settings = settings or VllmSettings()
        if importlib.util.find_spec("vllm") is None:
            raise UserError("vLLM is not installed; run `make vllm` (CPU) or pip install 'rehearsal[vllm]' (GPU)")
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._base, self._settings, self._restarts = base, settings, 0
        self._adapters: dict[str, _Adapter] = {}
        self._numbers = itertools.count(1)
        self._restarting = asyncio.Lock()
        self._background = BackgroundLoop("vllm")
        try:
            started = self._background.wait(_start(base, settings))
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            self._background.close()
            raise UserError(f"vLLM cannot serve {base!r}: {_first_line(error)}") from error
        self.max_model_len: int = started.model_config.max_model_len
        self._blank: _Adapter | None = None
        self._copies = tempfile.TemporaryDirectory(prefix="rehearsal-adapters-")
        self._llms = [started]  # emptied at the end: AsyncLLM must be deleted before the modules that its __del__ uses
        self._stop = weakref.finalize(self, _shut_down, self._llms, self._background, self._copies)
        if started.vllm_config.device_config.device_type == "cpu":
            self._blank = self._background.wait(
                self._add("blank", write_blank(base, Path(self._copies.name) / "blank"))
            )

    # ----- the protocol

    async def sample(self, prompt_ids: Sequence[int], *, adapter: str | None, sampling: Sampling) -> Sample:
        wanted = sampling_request(sampling)
        output = (await self._ask(prompt_ids, adapter, wanted)).outputs[0]
        ids = tuple(output.token_ids)
        logprobs = tuple(step[token].logprob for step, token in zip(output.logprobs, ids, strict=True))
        return Sample(ids, logprobs, ids[-1] in wanted["stop_token_ids"], adapter)

    async def next_token_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: str | None
    ) -> tuple[float, ...]:
        candidates = list(dict.fromkeys(token_ids))
        output = await self._ask(prompt_ids, adapter, {**ONE_TOKEN, "logprob_token_ids": candidates})
        weighed = output.outputs[0].logprobs[0]
        return tuple(weighed[token].logprob for token in token_ids)

    async def score(
        self, prompt_ids: Sequence[int], completion_ids: Sequence[int], *, adapter: str | None
    ) -> tuple[float, ...]:
        if not completion_ids:
            return ()
        if not prompt_ids:
            raise ValueError("a prompt needs at least one token")
        whole = [*prompt_ids, *completion_ids]
        output = await self._ask(whole, adapter, {**ONE_TOKEN, "prompt_logprobs": 0})
        scored = output.prompt_logprobs[len(prompt_ids) :]
        return tuple(step[token].logprob for step, token in zip(scored, completion_ids, strict=True))

    def load_adapter(self, name: str, path: Path) -> None:
        self._background.wait(self._load(name, Path(path)))

    def unload_adapter(self, name: str) -> None:
        self._background.wait(self._unload(name))

    def clear_cache(self) -> None:
        """Does nothing: vLLM's batches vary in the last digit, with stored prefixes and without."""

    async def close(self) -> None:
        await asyncio.to_thread(self._stop)

    # ----- on the background loop

    @property
    def _llm(self) -> Any:
        return self._llms[0]

    async def _ask(self, ids: Sequence[int], adapter: str | None, wanted: dict[str, Any]) -> Any:
        check_length(ids, self.max_model_len)
        return await self._background.ask(self._generate(list(ids), adapter, wanted))

    async def _with_engine(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Do `work` with the engine, again if it dies meanwhile. Raises UserError when it died too often."""
        from vllm.v1.engine.exceptions import EngineDeadError

        while True:
            llm = self._llm
            try:
                return await work(llm)
            except EngineDeadError as error:
                await self._restart(llm, error)

    async def _restart(self, dead: Any, error: BaseException) -> None:
        async with self._restarting:
            if self._llm is not dead:
                return  # another request did it
            if self._restarts >= self._settings.max_restarts:
                raise UserError(
                    f"vLLM died {self._restarts + 1} times; VLLM_LOGGING_LEVEL=INFO shows why. If memory is too small, "
                    "lower vllm.kv_cache_gib or vllm.max_model_len"
                ) from error
            self._restarts += 1
            dead.shutdown()
            self._llms[0] = await _start(self._base, self._settings)

    async def _generate(self, ids: list[int], name: str | None, wanted: dict[str, Any]) -> Any:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        if name is not None and name not in self._adapters:
            raise UserError(f"no adapter {name!r}; loaded are {sorted(self._adapters) or 'none'}")
        held = self._blank if name is None else self._adapters[name]
        if "structured_outputs" in wanted:
            wanted = {**wanted, "structured_outputs": StructuredOutputsParams(**wanted["structured_outputs"])}
        params = SamplingParams(**wanted, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY)
        lora = None if held is None else held.request
        if held is not None:
            held.running += 1

        async def generate(llm: Any) -> Any:
            last = None
            async for output in llm.generate(tokens_input(ids), params, uuid.uuid4().hex, lora_request=lora):
                last = output
            return last

        try:
            return await self._with_engine(generate)
        except VLLMClientError as error:
            raise refusal(f"vLLM refused a request: {_first_line(error)}", wanted) from error
        finally:
            if held is not None:
                held.running -= 1
                if held.retired and not held.running:
                    asyncio.get_running_loop().create_task(self._remove(held))

    async def _load(self, name: str, path: Path) -> None:
        check_rank(name, path, self._settings.max_rank)
        adapter = await self._add(name, path)
        await self._unload(name)
        self._adapters[name] = adapter

    async def _add(self, name: str, path: Path) -> _Adapter:
        from vllm.lora.request import LoRARequest

        number = next(self._numbers)
        directory = Path(self._copies.name) / str(number)
        shutil.copytree(path, directory)
        adapter = _Adapter(LoRARequest(f"{name}#{number}", number, str(directory)), directory)
        try:
            await self._with_engine(lambda llm: llm.add_lora(adapter.request))
        except UserError:
            raise
        except Exception as error:
            shutil.rmtree(directory, ignore_errors=True)
            raise UserError(f"adapter {name!r} does not fit the base model: {_first_line(error)}") from error
        return adapter

    async def _unload(self, name: str) -> None:
        adapter = self._adapters.pop(name, None)
        if adapter is not None:
            adapter.retired = True
            if not adapter.running:
                await self._remove(adapter)

    async def _remove(self, adapter: _Adapter) -> None:
        await self._with_engine(lambda llm: llm.remove_lora(adapter.request.lora_int_id))
        shutil.rmtree(adapter.directory, ignore_errors=True)


# ----- vLLM's requests; in process and over HTTP the parameter names are the same

PLAIN = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True}
ONE_TOKEN = {**PLAIN, "max_tokens": 1, "temperature": 0.0}


def sampling_request(sampling: Sampling) -> dict[str, Any]:
    """Sampling parameters, with the sampled token's log-probability (`logprobs` 0: no other token's).

    An engine started here reports those of the sampling distribution (`logprobs_mode`); a server, unless it was started
    otherwise, the model's own.
    """
    wanted: dict[str, Any] = {
        **PLAIN,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "min_p": sampling.min_p,
        "stop_token_ids": list(sampling.stop_ids),
        "seed": None if sampling.seed is None else sampling.seed & (2**63 - 1),
        "logprobs": 0,
    }
    if sampling.grammar is not None:  # at a grammar's end vLLM allows the tokenizer's own end of text only
        wanted["structured_outputs"] = {"json": sampling.grammar.compact_schema()}
        end = sampling.grammar.tokenizer.eos_token_id
        wanted["stop_token_ids"] += [end] if end is not None and end not in sampling.stop_ids else []
    return wanted


def refusal(message: str, wanted: Mapping[str, Any]) -> UserError:
    """The error for a request that vLLM refused: UnusableSchema if its JSON schema is the reason.

    vLLM's exceptions do not tell the reasons apart, but the messages of all of its grammar backends name the grammar or
    the schema.
    """
    schema = "structured_outputs" in wanted and re.search("grammar|schema|structured", message, re.IGNORECASE)
    return UnusableSchema(message) if schema else UserError(message)


def check_length(ids: Sequence[int], most: int) -> None:
    """Raise TooLong for a prompt that leaves no room for a token."""
    if not ids:
        raise ValueError("a prompt needs at least one token")
    if len(ids) >= most:
        raise TooLong(
            f"a prompt of {len(ids)} tokens leaves no room in vLLM's context of {most}; raise max_model_len, "
            "or shorten the episodes"
        )


def check_rank(name: str, path: Path, most: int) -> None:
    """Raise UserError for a path without an adapter, or an adapter whose rank is too high."""
    _, config = read_adapter(path)
    rank = config["r"]
    assert isinstance(rank, int)
    if rank > most:
        raise UserError(f"adapter {name!r} has rank {rank}, more than vLLM was started for ({most}); raise max_rank")


# ----- start and stop


async def _start(base: str, settings: VllmSettings) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    on_cpu = current_platform.is_cpu()
    cache_gib = settings.kv_cache_gib or (1.0 if on_cpu else None)
    chosen: dict[str, Any] = {
        "model": base,
        "structured_outputs_config": {"backend": "guidance"},
        "dtype": settings.dtype or _stored_dtype(base),
        "max_model_len": settings.max_model_len,
        "enable_lora": True,
        "max_lora_rank": settings.max_rank,
        "max_loras": settings.max_adapters + on_cpu,
        "max_cpu_loras": 2 * settings.max_adapters + on_cpu,
        "kv_cache_memory_bytes": int(cache_gib * GIB) if cache_gib else None,
        "enforce_eager": on_cpu,
        "logprobs_mode": "processed_logprobs",
        "max_logprobs": -1,
        "generation_config": "vllm",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**{**chosen, **settings.options}))


def _stored_dtype(base: str) -> str:
    dtype = getattr(AutoConfig.from_pretrained(base), "dtype", None)
    return str(dtype).removeprefix("torch.") if dtype is not None else "auto"


def write_blank(base: str, path: Path) -> Path:
    """Write an adapter of rank 1 with zero weights, for any base."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    weights, config = adapter_weights(new_adapter(model, LoraSettings(rank=1, alpha=1)))
    save_weights({name: torch.zeros(value.shape) for name, value in weights.items()}, config, path, {})
    return path


def _shut_down(llms: list[Any], background: BackgroundLoop, copies: tempfile.TemporaryDirectory[str]) -> None:
    """Shut vLLM down. Also runs at interpreter exit and when the engine is garbage-collected, to end its processes."""
    background.close(llms[0].shutdown)
    llms.clear()
    copies.cleanup()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
