"""The default engine: transformers in this process. It batches concurrent requests; adapters sit beside a frozen base.

Waiting requests run as one round, whatever their adapters. Stored prefixes are restored, the remaining prompt tokens
are prefilled in chunks of one adapter and similar length, then all rows decode in step, and each layer applies every
adapter to its own rows. A round ends when few rows are unfinished; these continue in the next round, together with new
requests. Computation runs on the event loop's thread, because the caller waits for the result anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel

from training.engines import Sample, Sampling, TooLong
from training.engines.grammar import Matcher
from training.models.base import context_length, sliding_window
from training.models.devices import quick_dtype, sharing_weights
from training.models.kv_cache import BatchCache, CacheMemory, PrefixStore
from training.models.lora_layers import AdapterSlots, Factors, Span, read_adapter, spans_of
from training.tiny.passes.decoding import SmallDecoder

PREFILL_TOKENS = 8192
ROUND_TOKENS = 65_536
"""Cache columns of one round: 200 MiB for a small model."""
CACHED_TOKENS = 160_000
"""Tokens of stored prefixes: the episodes and users of a step of 80 SmolLM2 episodes, 3.7 GB of it in bfloat16."""
MAX_PADDING = 1.25
"""Maximum padded size of a prefill chunk as a multiple of its tokens, beyond `PREFILL_SLACK` tokens."""
PREFILL_SLACK = 128
LENGTH_STEP = 64
FEW = 0.25
"""A round ends when at most this share of its rows is unfinished."""


_Text = tuple[Factors | None, tuple[int, ...]]


class Kind(IntEnum):
    """The kind of a request, in the order in which rounds are run."""

    NEXT_TOKEN_LOGPROBS = 0
    SCORE = 1
    SAMPLE = 2


@dataclass(eq=False)
class _Request:
    """One waiting call. `wanted`: tokens to sample (0: none), candidate tokens, or a completion to score."""

    prompt: tuple[int, ...]
    adapter: str | None
    factors: Factors | None
    sampling: Sampling | None
    candidates: tuple[int, ...]
    completion: tuple[int, ...]
    answer: asyncio.Future[Any]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    matcher: Matcher | None = None

    @property
    def kind(self) -> Kind:
        return Kind.SAMPLE if self.sampling else Kind.SCORE if self.completion else Kind.NEXT_TOKEN_LOGPROBS

    @property
    def text(self) -> _Text:
        """The adapter, the prompt, and the ids sampled in earlier rounds."""
        return self.factors, (*self.prompt, *self.ids)

    @property
    def columns(self) -> int:
        """Cache columns that this request can need, sampled tokens included."""
        room = min(LENGTH_STEP, self.sampling.max_tokens) if self.sampling else len(self.completion)
        return len(self.prompt) + room

    @property
    def over(self) -> bool:
        """Whether sampling is finished."""
        if self.sampling is None:
            return True
        done = len(self.ids) >= self.sampling.max_tokens
        return done or (bool(self.ids) and self.ids[-1] in self.sampling.stop_ids)


class LocalEngine:
    """An Engine over any Hugging Face causal LM with full or sliding attention.

    It wraps its own modules around the same frozen weights, unless `own` passes the model's ownership.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pad_id: int = 0,
        max_rows: int = 256,
        cached_tokens: int = CACHED_TOKENS,
        own: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model = (model if own else sharing_weights(model)).eval()
        self.pad_id, self.max_rows, self.context = pad_id, max_rows, context_length(model.config)
        embedding = cast(torch.Tensor, model.get_input_embeddings().weight)  # quantised linear layers store bytes
        own_dtype, self.device = embedding.dtype, embedding.device
        self.model.set_attn_implementation("sdpa")
        quick = dtype or quick_dtype()
        small = SmallDecoder.fits(self.model)
        self._small = SmallDecoder(self.model, quick) if small else None
        self.dtype = self._small.dtype if self._small else own_dtype
        self._adapters = AdapterSlots(self.model, own_dtype, self.device)
        self._memory = CacheMemory(self.dtype, self.device)
        self._prefixes = PrefixStore(cached_tokens)
        self._waiting: list[_Request] = []
        self._loop_task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None

    # ----- the protocol

    async def sample(self, prompt_ids: Sequence[int], *, adapter: str | None, sampling: Sampling) -> Sample:
        room = min(sampling.max_tokens, self.context - len(prompt_ids))
        request = self._request(prompt_ids, adapter, sampling=replace(sampling, max_tokens=max(1, room)))
        await self._submit(request)
        stopped = bool(request.ids) and request.ids[-1] in sampling.stop_ids
        return Sample(tuple(request.ids), tuple(request.logprobs), stopped, adapter)

    async def next_token_logprobs(
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

    def clear_cache(self) -> None:
        self._prefixes = PrefixStore(self._prefixes.max_tokens)

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
        except Exception:  # noqa: BLE001 - an unknown name was never loaded
            return

    def _request(self, prompt_ids: Sequence[int], adapter: str | None, **wanted: Any) -> _Request:
        if not prompt_ids:
            raise ValueError("a prompt needs at least one token")
        length = len(prompt_ids) + (len(wanted.get("completion", ())) or bool(wanted.get("sampling")))
        if length > self.context:
            raise TooLong(f"{length} tokens are more than the base's context of {self.context} tokens")
        asked = {"sampling": None, "candidates": (), "completion": (), **wanted}
        answer = asyncio.get_running_loop().create_future()
        request = _Request(tuple(prompt_ids), adapter, self._adapters.get(adapter), answer=answer, **asked)
        if request.sampling is not None and request.sampling.grammar is not None:
            request.matcher = request.sampling.grammar.start()
        return request

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
            while before != len(self._waiting):  # let every runnable coroutine submit its request
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
        """Waiting requests of one kind. Requests that sample run last: the other kinds are short, and their callers
        will submit more requests.
        """
        kind = min(r.kind for r in self._waiting)
        chosen: list[_Request] = []
        longest = 0
        for request in sorted(self._waiting, key=_content):  # the order of submission must not change the last digit
            if request.kind == kind and len(chosen) < self.max_rows:
                longest = max(longest, request.columns)
                if chosen and longest * (len(chosen) + 1) > ROUND_TOKENS:
                    break
                chosen.append(request)
        taken = set(map(id, chosen))
        self._waiting = [r for r in self._waiting if id(r) not in taken]
        return chosen

    @torch.inference_mode()
    def _answer(self, batch: list[_Request]) -> None:
        if batch[0].kind is Kind.SCORE:
            self._score(batch)
        else:
            cache, row_of, logits_NV = self._prefill(batch)
            if batch[0].kind is Kind.NEXT_TOKEN_LOGPROBS:
                self._weigh(batch, row_of, logits_NV)
                self._remember(cache, row_of)
            else:
                self._decode(batch, cache, row_of, logits_NV)
        for request in batch:
            if not request.over:
                self._waiting.append(request)
            elif not request.answer.done():
                request.answer.set_result(None)

    # ----- prefill

    def _prefill(self, batch: list[_Request]) -> tuple[BatchCache, dict[_Text, int], torch.Tensor]:
        """Prefill each distinct text beyond its stored prefix. Returns the cache, each text's row, the last logits."""
        room = min(LENGTH_STEP, max((r.sampling.max_tokens - len(r.ids) if r.sampling else 0) for r in batch))
        found = [(text, self._prefixes.longest(*text)) for text in dict.fromkeys(r.text for r in batch)]
        place = _places([text[0] for text, _ in found])
        found.sort(key=lambda f: (place[f[0][0]], len(f[0][1]) - (len(f[1].ids) if f[1] else 0)))
        texts = [text for text, _ in found]
        new = [len(ids) - (len(stored.ids) if stored else 0) for (_, ids), stored in found]
        capacity = -(-(max(len(ids) for _, ids in texts) + room) // LENGTH_STEP) * LENGTH_STEP
        cache = BatchCache(self.model.config, len(texts), capacity, self._memory)
        for row, (_, stored) in enumerate(found):
            if stored:
                cache.write(row, stored.block)
        logits_NV = torch.empty(len(texts), self.model.config.vocab_size, device=self.device)
        for rows in _chunks([factors for factors, _ in texts], new):
            at = slice(rows[0], rows[-1] + 1)
            logits_NV[at] = self._prefill_chunk(cache, texts[at], new[at], rows[0])
        return cache, {text: row for row, text in enumerate(texts)}, logits_NV

    def _prefill_chunk(self, cache: BatchCache, texts: list[_Text], new: list[int], start: int) -> torch.Tensor:
        """One forward pass over the last `new` ids of the rows from `start` on, padded on the left so that all rows end
        in the same column."""
        ids = np.full((len(texts), max(new)), self.pad_id)
        columns = np.full(ids.shape, cache.capacity - 1)
        for k, ((_, text), count) in enumerate(zip(texts, new, strict=True)):
            ids[k, -count:] = text[-count:]
            columns[k, -count:] = np.arange(len(text) - count, len(text))
        return self._forward(cache, ids, columns, spans_of([factors for factors, _ in texts]), start)

    def _forward(
        self, cache: BatchCache, ids: np.ndarray, columns: np.ndarray, spans: list[Span], start: int = 0
    ) -> torch.Tensor:
        """Logits [B, V] of each row's last token."""
        padding = columns == cache.capacity - 1
        visible = int(columns[~padding].max()) + 1
        ids_BT, columns_BT = torch.from_numpy(ids).to(self.device), torch.from_numpy(columns).to(self.device)
        positions_BT = torch.from_numpy(np.where(padding, 0, columns)).to(self.device)
        cache.place(columns_BT, start, visible)
        if self._small is not None:
            return self._small(cache, ids_BT, positions_BT, spans)
        self._adapters.activate(spans)
        out = self.model(
            input_ids=ids_BT,
            attention_mask=self._seen(positions_BT, visible),
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()

    def _seen(self, positions_BT: torch.Tensor, visible: int) -> torch.Tensor | dict[str, torch.Tensor]:
        """The columns that each token attends to [B, 1, T, K]; by kind of layer for a model that mixes kinds."""
        config, columns_K = self.model.config.get_text_config(), torch.arange(visible, device=self.device)
        whole_B1TK = (columns_K <= positions_BT[..., None])[:, None]
        window = sliding_window(config)
        if window is None:
            return whole_B1TK
        near_B1TK = whole_B1TK & (columns_K > positions_BT[..., None] - window)[:, None]
        mixed = getattr(config, "layer_types", None) is not None
        return {"full_attention": whole_B1TK, "sliding_attention": near_B1TK} if mixed else near_B1TK

    # ----- results

    def _weigh(self, batch: list[_Request], row_of: dict[_Text, int], logits_NV: torch.Tensor) -> None:
        logprobs_NV = logits_NV.log_softmax(-1)
        for request in batch:
            request.logprobs = logprobs_NV[row_of[request.text], list(request.candidates)].tolist()

    def _score(self, batch: list[_Request]) -> None:
        """Forward passes over prompt and completion, batched by adapter and similar length."""
        for rows in _chunks([r.factors for r in batch], [len(r.prompt) + len(r.completion) for r in batch]):
            self._adapters.activate([Span(batch[rows[0]].factors, 0, len(rows))])
            self._score_chunk([batch[row] for row in rows])

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
        self, batch: list[_Request], cache: BatchCache, row_of: dict[_Text, int], logits_NV: torch.Tensor
    ) -> None:
        """Sample all rows in step until few are unfinished; those continue in the next round.

        Finished rows are stored as prefixes. They leave the batch when half of the rows are idle.
        """
        rows = sorted(batch, key=lambda r: row_of[r.text])
        logits_BV = logits_NV
        if len(row_of) < len(rows):  # equal prompts shared a prefill
            source = torch.tensor([row_of[r.text] for r in rows], device=self.device)
            cache.spread(source)
            logits_BV = logits_NV[source]
        lengths, spans = np.array([len(r.text[1]) for r in rows]), spans_of([r.factors for r in rows])
        while True:
            ids, logprobs = self._draw(rows, logits_BV)
            for k, request in enumerate(rows):
                if not request.over:
                    request.ids.append(int(ids[k]))
                    request.logprobs.append(float(logprobs[k]))
            alive = np.array([not r.over for r in rows])
            if alive.sum() <= FEW * len(batch):
                break
            if alive.mean() < 0.5:
                for k in np.nonzero(~alive)[0]:
                    self._store(rows[k], cache, int(k))
                kept = np.nonzero(alive)[0]
                cache.keep_rows(kept.tolist(), lengths[kept].tolist())
                rows, lengths, ids = [rows[k] for k in kept], lengths[kept], ids[kept]
                alive = alive[kept]
                spans = spans_of([r.factors for r in rows])
            if lengths.max() >= cache.capacity - 1:  # most continuations are short, so the cache grows on demand
                cache.grow(2 * LENGTH_STEP)
            columns = np.where(alive, lengths, cache.capacity - 1)
            logits_BV = self._forward(cache, ids[:, None], columns[:, None], spans)
            lengths = lengths + alive
        for k, request in enumerate(rows):
            self._store(request, cache, k)

    def _draw(self, rows: list[_Request], logits_BV: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        if self.device.type == "mps":  # it has no float64
            logits_BV = logits_BV.cpu()
        ids_B, logprobs_B = self._drawn(rows, logits_BV)
        return ids_B.cpu().numpy(), logprobs_B.cpu().numpy()

    def _drawn(self, rows: list[_Request], logits_BV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One token per row by inverse transform, with one uniform number per (seed, step), whatever the batch."""
        device, logprobs_BV = logits_BV.device, logits_BV.log_softmax(-1)
        logits_BV = self._masked(rows, logits_BV)
        temperature_B = torch.tensor([r.sampling.temperature if r.sampling else 1.0 for r in rows], device=device)
        seeds = [r.sampling.seed if r.sampling else None for r in rows]
        uniform_B = torch.from_numpy(_uniform(seeds, [len(r.ids) for r in rows])).to(device)
        greedy_B = logits_BV.argmax(-1)
        scaled_BV = logits_BV / temperature_B.clamp(min=1e-6)[:, None]
        least = [r.sampling.min_p if r.sampling else 0.0 for r in rows]
        if any(least):
            least_B = torch.tensor(least, device=device)
            floor_B1 = (scaled_BV.max(-1).values + least_B.log())[:, None]  # -inf: no token is excluded
            scaled_BV = scaled_BV.masked_fill(scaled_BV < floor_B1, -torch.inf)
        probabilities_BV = scaled_BV.softmax(-1)
        cumulative_BV = probabilities_BV.double().cumsum(-1)
        drawn_B = torch.searchsorted(cumulative_BV, (uniform_B * cumulative_BV[:, -1])[:, None])[:, 0]
        ids_B = torch.where(temperature_B > 0, drawn_B.clamp(max=logits_BV.shape[-1] - 1), greedy_B)
        told_B = logprobs_BV.gather(-1, ids_B[:, None])[:, 0]
        learned = [bool(r.sampling and r.sampling.learned) for r in rows]
        if any(learned):  # at temperature 0 the model's own log-probabilities are returned
            learned_B = torch.tensor(learned, device=device)
            drawn_from_B = probabilities_BV.gather(-1, ids_B[:, None])[:, 0].log()
            told_B = torch.where(learned_B & (temperature_B > 0), drawn_from_B, told_B)
        return ids_B, told_B

    def _masked(self, rows: list[_Request], logits_BV: torch.Tensor) -> torch.Tensor:
        """The logits with what a row's grammar does not allow set to minus infinity."""
        if all(r.matcher is None or r.over for r in rows):
            return logits_BV
        size = logits_BV.shape[-1]
        allowed_BV = np.ones((len(rows), size), dtype=bool)
        for k, request in enumerate(rows):
            if request.matcher is not None and not request.over:
                allowed_BV[k] = request.matcher.allowed(request.ids, size)
        return logits_BV.masked_fill(~torch.from_numpy(allowed_BV).to(logits_BV.device), -torch.inf)

    def _remember(self, cache: BatchCache, row_of: dict[_Text, int]) -> None:
        """Store weighed texts without their last ids: the same text may be sampled from next, and a stored prefix must
        leave an id to run."""
        for (factors, ids), row in row_of.items():
            self._prefixes.put(factors, ids[:-1], cache.read(row, len(ids) - 1))

    def _store(self, request: _Request, cache: BatchCache, row: int) -> None:
        """Store prompt and sampled ids as a prefix for the next turn, without the last id, which has no keys yet."""
        known = request.text[1][:-1]
        self._prefixes.put(request.factors, known, cache.read(row, len(known)))


def _content(request: _Request) -> tuple[Any, ...]:
    """A sort key from the request's content."""
    seed = request.sampling.seed if request.sampling else None
    return request.adapter or "", request.prompt, request.ids, -1 if seed is None else seed, request.completion


def _places(owners: Sequence[Factors | None]) -> dict[Factors | None, int]:
    """Owners numbered by first appearance (memory addresses differ between processes)."""
    return {owner: place for place, owner in enumerate(dict.fromkeys(owners))}


def _chunks(owners: Sequence[Factors | None], lengths: Sequence[int]) -> list[list[int]]:
    """Rows to run together: of one owner, with similar lengths, so that padding stays small."""
    chunks: list[list[int]] = []
    tokens, place = 0, _places(owners)
    for row in sorted(range(len(lengths)), key=lambda k: (place[owners[k]], lengths[k])):
        tokens += lengths[row]
        padded = lengths[row] * (len(chunks[-1]) + 1) if chunks else 0
        fits = padded <= min(PREFILL_TOKENS, MAX_PADDING * tokens + PREFILL_SLACK)
        if not chunks or owners[chunks[-1][0]] is not owners[row] or not fits:
            chunks.append([])
            tokens = lengths[row]
        chunks[-1].append(row)
    return chunks


def _uniform(seeds: list[int | None], steps: list[int]) -> np.ndarray:
    """One number in (0, 1) for each (seed, step), by splitmix64; None draws from the operating system."""
    fresh = np.random.default_rng()
    state = np.array([fresh.integers(2**63) if s is None else s & (2**64 - 1) for s in seeds], dtype=np.uint64)
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15) * (np.array(steps, dtype=np.uint64) + np.uint64(1))
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (np.asarray(state >> np.uint64(11), dtype=np.float64) + 0.5) / 2**53
