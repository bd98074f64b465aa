"""An Engine over a running `vllm serve`: token ids through its completions route, adapters by path."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
import weakref
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from ingest.errors import UserError
from training.engines import Sample, Sampling
from training.engines.background import BackgroundLoop
from training.engines.vllm import ONE_TOKEN, check_length, refusal, sampling_request
from training.models.lora_layers import read_adapter

TOKEN_IDS = {"return_token_ids": True, "return_tokens_as_token_ids": True}

ANSWER_SECONDS = 600.0  # longer than the queue of a busy server; after that the server is assumed to hang


MAX_RESTARTS = 2  # of the server during one request; a request that crashes it each time is an error


class _Gone(UserError):
    """The server does not answer, or it was restarted and does not know the model any more."""


class VllmServer:
    """An Engine over HTTP. When the server stops answering, the engine waits for it (at most `restart_seconds`) and
    loads its adapters again.

    The server reads adapters from their paths, at load and again after an eviction, so both machines need the same file
    system. Its sampler must report raw log-probabilities, which is the default. VLLM_API_KEY, if set, is sent.
    """

    def __init__(self, base: str, url: str, restart_seconds: float = 300.0) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._command = (
            f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve {base} --enable-lora --max-loras 8 --max-lora-rank 64"
        )
        self._names: dict[str, tuple[str, Path]] = {}  # what the server calls an adapter, and its directory
        self._base, self._restart_seconds, self._returning = base, restart_seconds, asyncio.Lock()
        key = os.environ.get("VLLM_API_KEY")
        self._http = httpx.AsyncClient(
            base_url=self._url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=10.0, pool=None),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )
        self._background = BackgroundLoop("vllm-server")
        self._stop = weakref.finalize(self, self._background.close)
        self._model, self.max_model_len = self._background.wait(self._served(base))

    # ----- the protocol

    async def sample(self, prompt_ids: Sequence[int], *, adapter: str | None, sampling: Sampling) -> Sample:
        sampling.check_whole("the vLLM server")
        wanted = sampling_request(sampling)
        choice = await self._ask(prompt_ids, adapter, wanted)
        ids = tuple(choice["token_ids"])
        return Sample(ids, tuple(choice["logprobs"]["token_logprobs"]), ids[-1] in wanted["stop_token_ids"], adapter)

    async def next_token_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: str | None
    ) -> tuple[float, ...]:
        candidates = list(dict.fromkeys(token_ids))
        wanted = {**ONE_TOKEN, "logprob_token_ids": candidates, "logprobs": len(candidates)}
        choice = await self._ask(prompt_ids, adapter, wanted)
        weighed = choice["logprobs"]["top_logprobs"][0]
        return tuple(weighed[f"token_id:{token}"] for token in token_ids)

    async def score(
        self, prompt_ids: Sequence[int], completion_ids: Sequence[int], *, adapter: str | None
    ) -> tuple[float, ...]:
        if not completion_ids:
            return ()
        if not prompt_ids:
            raise ValueError("a prompt needs at least one token")
        choice = await self._ask([*prompt_ids, *completion_ids], adapter, {**ONE_TOKEN, "prompt_logprobs": 0})
        scored = choice["prompt_logprobs"][len(prompt_ids) :]
        return tuple(step[str(token)]["logprob"] for step, token in zip(scored, completion_ids, strict=True))

    def load_adapter(self, name: str, path: Path) -> None:
        self._background.wait(self._load(name, Path(path).resolve()))

    def unload_adapter(self, name: str) -> None:
        self._background.wait(self._unload(name))

    def clear_cache(self) -> None:
        """Does nothing: vLLM's batches vary in the last digit, with stored prefixes and without."""

    async def close(self) -> None:
        """Unload the adapters that this object loaded. The server keeps running."""
        for name in list(self._names):
            await self._background.ask(self._unload(name))
        await self._background.ask(self._http.aclose())
        self._stop()

    # ----- on the background loop

    async def _ask(self, ids: Sequence[int], adapter: str | None, wanted: dict[str, Any]) -> dict[str, Any]:
        check_length(ids, self.max_model_len)
        return await self._background.ask(self._complete(list(ids), adapter, wanted))

    async def _complete(self, ids: list[int], adapter: str | None, wanted: dict[str, Any]) -> dict[str, Any]:
        if adapter is not None and adapter not in self._names:
            raise UserError(f"no adapter {adapter!r}; loaded are {sorted(self._names) or 'none'}")
        for restarts_left in reversed(range(MAX_RESTARTS + 1)):
            known = dict(self._names)
            model = self._model if adapter is None else known[adapter][0]
            asked = {"model": model, "prompt": ids, **TOKEN_IDS, **wanted}
            try:
                return (await self._send("POST", "/v1/completions", asked)).json()["choices"][0]
            except _Gone:
                if not restarts_left:
                    raise
                await self._return_of(known)
        raise AssertionError("unreachable")

    async def _return_of(self, known: dict[str, tuple[str, Path]]) -> None:
        """Wait until the server answers again, and load the adapters that it knew."""
        async with self._returning:
            if known != self._names:
                return  # another request waited
            until = time.monotonic() + self._restart_seconds
            while True:
                try:
                    self._model, self.max_model_len = await self._served(self._base)
                    break
                except _Gone:
                    if time.monotonic() > until:
                        raise
                    await asyncio.sleep(1.0)
            for name, (_, path) in known.items():
                self._names[name] = (await self._loaded(name, path), path)

    async def _load(self, name: str, path: Path) -> None:
        read_adapter(path)
        served = await self._loaded(name, path)
        await self._unload(name)
        self._names[name] = (served, path)

    async def _loaded(self, name: str, path: Path) -> str:
        served = f"{name}-{uuid.uuid4().hex[:8]}"  # unique: the prefix cache is keyed by name and path
        await self._send("POST", "/v1/load_lora_adapter", {"lora_name": served, "lora_path": str(path)})
        return served

    async def _unload(self, name: str) -> None:
        served, _ = self._names.pop(name, (None, None))
        if served is not None:
            await self._send("POST", "/v1/unload_lora_adapter", {"lora_name": served})

    async def _served(self, base: str) -> tuple[str, int]:
        """The base model's name on the server and its context length. Raises UserError for another base."""
        models = (await self._send("GET", "/v1/models")).json()["data"]
        found = next(model for model in models if not model.get("parent"))
        if PurePosixPath(found["root"]).name != PurePosixPath(base).name:
            raise UserError(f"the vLLM server at {self._url} serves {found['root']!r}, not {base!r}: {self._command}")
        return found["id"], found["max_model_len"]

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, json=body)
        except httpx.ReadTimeout as error:
            raise UserError(
                f"the vLLM server at {self._url} did not answer within {ANSWER_SECONDS:.0f} s; see its log"
            ) from error
        except httpx.TransportError as error:
            raise _Gone(f"no vLLM server answers at {self._url}; start one: {self._command}") from error
        if answer.status_code == 404 and path.endswith("_lora_adapter") and "cannot be found" not in answer.text:
            raise UserError(f"the vLLM server at {self._url} cannot load adapters; start it with: {self._command}")
        if answer.is_error:
            told = f"the vLLM server at {self._url} refused {path}: {_message(answer)}"
            gone = answer.status_code == 404 and path == "/v1/completions"
            raise _Gone(told) if gone else refusal(told, body or {})
        return answer


def _message(answer: httpx.Response) -> str:
    try:
        error = answer.json()
        return str(error.get("error", error).get("message", error)).splitlines()[0]
    except (ValueError, AttributeError):
        return f"HTTP {answer.status_code}"
