"""The default engine: transformers in this process, rounds of concurrent requests, adapters beside a frozen base.

Requests that wait together and name the same adapter run as one round: stored prefixes are put back, what is new of
the prompts is prefilled in chunks of like length, then all rows decode in step, the finished ones leaving. Episodes
move in step too, so a round is nearly always full. Computation runs on the event loop's own thread: handing it to
another would only add latency to a caller that waits for it anyway.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from training.engines import Sample, Sampling
from training.engines.adapters import AdapterSlots, Factors, read_adapter
from training.engines.cache import BatchCache, PrefixStore

PREFILL_TOKENS = 8192
LENGTH_STEP = 64


@dataclass(eq=False)
class _Request:
    """One waiting call. `wanted`: tokens to sample (0: none), candidates to weigh, or a completion to score."""

    prompt: tuple[int, ...]
    adapter: str | None
    factors: Factors | None
    sampling: Sampling | None
    candidates: tuple[int, ...]
    completion: tuple[int, ...]
    answer: asyncio.Future[Any]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return "sample" if self.sampling else "score" if self.completion else "weigh"


class LocalEngine:
    """An Engine over any Hugging Face causal LM with full attention.

    It works on a copy of the model unless `own` hands the model over, which saves the memory of a large one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pad_id: int = 0,
        most_rows: int = 256,
        cached_tokens: int = 150_000,
        own: bool = False,
    ) -> None:
        self.model = (model if own else copy.deepcopy(model)).eval()
        self.pad_id, self.most_rows = pad_id, most_rows
        self.dtype = next(model.parameters()).dtype
        self.device = next(model.parameters()).device
        self.model.set_attn_implementation("sdpa")
        self._adapters = AdapterSlots(self.model, self.dtype)
        self._prefixes = PrefixStore(cached_tokens)
        self._waiting: list[_Request] = []
        self._rounds = 0
        self._served: dict[tuple[int, str], int] = {}
        self._loop_task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None

    # ----- the protocol

    async def sample(self, prompt_ids: Sequence[int], *, adapter: str | None, sampling: Sampling) -> Sample:
        request = self._request(prompt_ids, adapter, sampling=sampling)
        await self._submit(request)
        stopped = bool(request.ids) and request.ids[-1] in sampling.stop_ids
        return Sample(tuple(request.ids), tuple(request.logprobs), stopped, adapter)

    async def next_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: str | None
    ) -> tuple[float, ...]:
        request = self._request(prompt_ids, adapter, candidates=tuple(token_ids))
        await self._submit(request)
        return tuple(request.logprobs)

    async def score(
        self, prompt_ids: Sequence[int], completion_ids: Sequence[int], *, adapter: str | None
    ) -> tuple[float, ...]:
        if not completion_ids:
            return ()
        request = self._request(prompt_ids, adapter, completion=tuple(completion_ids))
        await self._submit(request)
        return tuple(request.logprobs)

    def load_adapter(self, name: str, path: Path) -> None:
        self.publish_adapter(name, *read_adapter(Path(path)))

    def publish_adapter(self, name: str, weights: Mapping[str, torch.Tensor], config: Mapping[str, object]) -> None:
        """Load an adapter from memory: peft's state dict and configuration. The weights are copied."""
        self._forget(name)
        self._adapters.put(name, weights, config)

    def unload_adapter(self, name: str) -> None:
        self._forget(name)
        self._adapters.drop(name)

    async def close(self) -> None:
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
            self._loop_task = None
        for request in self._waiting:
            if not request.answer.done():
                request.answer.set_exception(RuntimeError("the engine was closed"))
        self._waiting.clear()

    # ----- rounds

    def _forget(self, name: str) -> None:
        try:
            self._prefixes.drop(self._adapters.get(name))
        except Exception:  # noqa: BLE001 - an unknown name has nothing to forget
            return

    def _request(self, prompt_ids: Sequence[int], adapter: str | None, **wanted: Any) -> _Request:
        if not prompt_ids:
            raise ValueError("a prompt needs at least one token")
        asked = {"sampling": None, "candidates": (), "completion": (), **wanted}
        answer = asyncio.get_running_loop().create_future()
        return _Request(tuple(prompt_ids), adapter, self._adapters.get(adapter), answer=answer, **asked)

    async def _submit(self, request: _Request) -> None:
        loop = asyncio.get_running_loop()
        if self._loop_task is None or self._loop_task.done() or self._loop_task.get_loop() is not loop:
            self._wake = asyncio.Event()
            self._loop_task = loop.create_task(self._run())
        assert self._wake is not None
        self._waiting.append(request)
        self._wake.set()
        await request.answer

    async def _run(self) -> None:
        assert self._wake is not None
        while True:
            await self._wake.wait()
            before = -1
            while before != len(self._waiting):  # let every coroutine that can ask now, ask now
                before = len(self._waiting)
                for _ in range(3):
                    await asyncio.sleep(0)
            self._waiting = [r for r in self._waiting if not r.answer.done()]
            if not self._waiting:
                self._wake.clear()
                continue
            batch = self._next_round()
            try:
                self._answer(batch)
            except Exception as error:  # noqa: BLE001 - a failed round fails its requests, not the engine
                for request in batch:
                    if not request.answer.done():
                        request.answer.set_exception(error)
            if not self._waiting:
                self._wake.clear()

    def _next_round(self) -> list[_Request]:
        """Waiting requests that can run together, of the adapter and kind that had its turn longest ago.

        Turn about keeps episodes in step: users and tools answer first, and then all agents write together. Taking
        the largest set instead let them drift apart, and rounds became half as full.
        """
        groups: dict[tuple[int, str], list[_Request]] = {}
        for request in self._waiting:
            groups.setdefault((id(request.factors), request.kind), []).append(request)
        turn = min(groups, key=lambda key: self._served.get(key, 0))
        self._rounds += 1
        self._served[turn] = self._rounds
        chosen = groups[turn][: self.most_rows]
        taken = set(map(id, chosen))
        self._waiting = [r for r in self._waiting if id(r) not in taken]
        return chosen

    @torch.inference_mode()
    def _answer(self, batch: list[_Request]) -> None:
        self._adapters.activate(batch[0].factors)
        if batch[0].kind == "score":
            self._score(batch)
        else:
            cache, row_of, logits_NV = self._prefill(batch)
            if batch[0].kind == "weigh":
                self._weigh(batch, row_of, logits_NV)
                self._remember(batch, cache, row_of)
            else:
                self._decode(batch, cache, row_of, logits_NV)
        for request in batch:
            if not request.answer.done():
                request.answer.set_result(None)

    # ----- prefill

    def _prefill(self, batch: list[_Request]) -> tuple[BatchCache, dict[tuple[int, ...], int], torch.Tensor]:
        """Run what is new of each distinct prompt. Returns the cache, each prompt's row, and its last logits."""
        prompts = list(dict.fromkeys(r.prompt for r in batch))
        room = min(LENGTH_STEP, max((r.sampling.max_tokens if r.sampling else 0) for r in batch))
        capacity = -(-(max(map(len, prompts)) + room) // LENGTH_STEP) * LENGTH_STEP
        cache = BatchCache(self.model.config, len(prompts), capacity, self.dtype, self.device)
        row_of = {prompt: row for row, prompt in enumerate(prompts)}
        done = []
        for row, prompt in enumerate(prompts):
            stored = self._prefixes.longest(batch[0].factors, prompt)
            done.append(len(stored.ids) if stored else 0)
            if stored:
                cache.write(row, stored.block)
        logits_NV = torch.empty(len(prompts), self.model.config.vocab_size, device=self.device)
        order = sorted(range(len(prompts)), key=lambda k: len(prompts[k]) - done[k])
        chunk: list[int] = []
        for row in order:
            longest = len(prompts[row]) - done[row]
            if chunk and longest * (len(chunk) + 1) > PREFILL_TOKENS:
                logits_NV[chunk] = self._prefill_chunk(cache, prompts, done, chunk)
                chunk = []
            chunk.append(row)
        logits_NV[chunk] = self._prefill_chunk(cache, prompts, done, chunk)
        return cache, row_of, logits_NV

    def _prefill_chunk(
        self, cache: BatchCache, prompts: list[tuple[int, ...]], done: list[int], rows: list[int]
    ) -> torch.Tensor:
        """One forward pass over the new parts of some rows, padded on the left so that all end together."""
        new = [prompts[row][done[row] :] for row in rows]
        width = max(map(len, new))
        ids = np.full((len(rows), width), self.pad_id)
        columns = np.full((len(rows), width), cache.capacity - 1)
        for k, (row, tokens) in enumerate(zip(rows, new, strict=True)):
            ids[k, width - len(tokens) :] = tokens
            columns[k, width - len(tokens) :] = np.arange(done[row], len(prompts[row]))
        return self._forward(cache, ids, columns, torch.tensor(rows, device=self.device))

    def _forward(
        self, cache: BatchCache, ids: np.ndarray, columns: np.ndarray, rows: torch.Tensor | None
    ) -> torch.Tensor:
        """Logits [B, V] of each row's last token."""
        padding = columns == cache.capacity - 1
        visible = int(columns[~padding].max()) + 1
        columns_BT = torch.from_numpy(columns).to(self.device)
        positions_BT = torch.from_numpy(np.where(padding, 0, columns)).to(self.device)
        seen_BTK = torch.arange(visible, device=self.device) <= positions_BT[..., None]
        cache.place(columns_BT, rows, visible)
        out = self.model(
            input_ids=torch.from_numpy(ids).to(self.device),
            attention_mask=seen_BTK[:, None],
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()

    # ----- answers

    def _weigh(self, batch: list[_Request], row_of: dict[tuple[int, ...], int], logits_NV: torch.Tensor) -> None:
        logprobs_NV = logits_NV.log_softmax(-1)
        for request in batch:
            request.logprobs = logprobs_NV[row_of[request.prompt], list(request.candidates)].tolist()

    def _score(self, batch: list[_Request]) -> None:
        """Plain forward passes over prompt and completion, rows of like length together."""
        order = sorted(batch, key=lambda r: len(r.prompt) + len(r.completion))
        chunk: list[_Request] = []
        for request in order:
            if chunk and (len(request.prompt) + len(request.completion)) * (len(chunk) + 1) > PREFILL_TOKENS:
                self._score_chunk(chunk)
                chunk = []
            chunk.append(request)
        self._score_chunk(chunk)

    def _score_chunk(self, chunk: list[_Request]) -> None:
        whole = [r.prompt + r.completion for r in chunk]
        width, keep = max(map(len, whole)), max(len(r.completion) for r in chunk) + 1
        ids = torch.full((len(chunk), width), self.pad_id, device=self.device)
        mask = torch.zeros_like(ids)
        for k, tokens in enumerate(whole):
            ids[k, width - len(tokens) :] = torch.tensor(tokens, device=self.device)
            mask[k, width - len(tokens) :] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=keep, use_cache=False
        )
        logprobs_BKV = out.logits[:, :-1].float().log_softmax(-1)
        for k, request in enumerate(chunk):
            count = len(request.completion)
            targets = torch.tensor(request.completion, device=self.device)[:, None]
            request.logprobs = logprobs_BKV[k, -count:].gather(-1, targets)[:, 0].tolist()

    def _decode(
        self, batch: list[_Request], cache: BatchCache, row_of: dict[tuple[int, ...], int], logits_NV: torch.Tensor
    ) -> None:
        """Sample all rows in step. Finished rows are stored as prefixes and leave when half of them are idle."""
        source = torch.tensor([row_of[r.prompt] for r in batch], device=self.device)
        if len(row_of) < len(batch):
            cache.keep_rows(source)
            logits_BV = logits_NV[source]
        else:
            logits_BV = logits_NV
        rows = list(batch)
        lengths = np.array([len(r.prompt) for r in rows])
        for step in range(max(r.sampling.max_tokens for r in batch if r.sampling)):
            ids, logprobs = self._draw(rows, step, logits_BV)
            alive = np.zeros(len(rows), dtype=bool)
            for k, request in enumerate(rows):
                assert request.sampling is not None
                if step < request.sampling.max_tokens and not self._over(request):
                    request.ids.append(int(ids[k]))
                    request.logprobs.append(float(logprobs[k]))
                    alive[k] = not self._over(request)
            if not alive.any():
                break
            if alive.mean() < 0.5:
                for k in np.nonzero(~alive)[0]:
                    self._store(rows[k], cache, int(k))
                kept = np.nonzero(alive)[0]
                cache.keep_rows(torch.from_numpy(kept).to(self.device))
                rows, lengths, ids = [rows[k] for k in kept], lengths[kept], ids[kept]
                alive = alive[kept]
            if lengths.max() >= cache.capacity - 1:  # most answers are short: room for long ones is made when needed
                cache.grow(2 * LENGTH_STEP)
            columns = np.where(alive, lengths, cache.capacity - 1)
            logits_BV = self._forward(cache, ids[:, None], columns[:, None], None)
            lengths = lengths + alive
        for k, request in enumerate(rows):
            self._store(request, cache, k)

    @staticmethod
    def _over(request: _Request) -> bool:
        assert request.sampling is not None
        done = len(request.ids) >= request.sampling.max_tokens
        return done or (bool(request.ids) and request.ids[-1] in request.sampling.stop_ids)

    def _draw(self, rows: list[_Request], step: int, logits_BV: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """One token a row by inverse transform: one uniform number from (seed, step), so neighbours do not matter."""
        logprobs_BV = logits_BV.log_softmax(-1)
        temperature_B = torch.tensor([r.sampling.temperature if r.sampling else 1.0 for r in rows], device=self.device)
        seeds = [r.sampling.seed if r.sampling else None for r in rows]
        uniform_B = torch.from_numpy(_uniform(seeds, step)).to(self.device)
        greedy_B = logits_BV.argmax(-1)
        scaled_BV = logits_BV / temperature_B.clamp(min=1e-6)[:, None]
        cumulative_BV = scaled_BV.softmax(-1).double().cumsum(-1)
        drawn_B = torch.searchsorted(cumulative_BV, (uniform_B * cumulative_BV[:, -1])[:, None])[:, 0]
        ids_B = torch.where(temperature_B > 0, drawn_B.clamp(max=logits_BV.shape[-1] - 1), greedy_B)
        return ids_B.cpu().numpy(), logprobs_BV.gather(-1, ids_B[:, None])[:, 0].cpu().numpy()

    def _remember(self, batch: list[_Request], cache: BatchCache, row_of: dict[tuple[int, ...], int]) -> None:
        for prompt, row in row_of.items():
            self._prefixes.put(batch[0].factors, prompt, cache.read(row, len(prompt)))

    def _store(self, request: _Request, cache: BatchCache, row: int) -> None:
        """Keep prompt and sampled ids for the next turn; the last id's keys were never computed."""
        known = request.prompt + tuple(request.ids[:-1])
        self._prefixes.put(request.factors, known, cache.read(row, len(known)))


def _uniform(seeds: list[int | None], step: int) -> np.ndarray:
    """One number in (0, 1) for each (seed, step), by splitmix64; None draws from the operating system."""
    fresh = np.random.default_rng()
    state = np.array([fresh.integers(2**63) if s is None else s & (2**64 - 1) for s in seeds], dtype=np.uint64)
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15) * np.uint64(step + 1)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (np.asarray(state >> np.uint64(11), dtype=np.float64) + 0.5) / 2**53
