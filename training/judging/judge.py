"""The offline judge: a LoRA adapter on the same base, trained on the outcomes of production's conversations.

It implements the OpenAI chat API with RULER's answers, so the training loop uses it like a hosted model. Two forms are
trained together and the better one is used. *Pointwise*: the probability that a transcript ended in success.
*Pairwise*: which of two transcripts did better (both orders), averaged over the other members of the group.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ingest.errors import UserError
from ingest.records import Conversation
from training.engines import Engine
from training.engines.local import LocalEngine
from training.judging.counterfactual import Counterfactuals
from training.judging.grounding import Evidence, Grounding
from training.judging.group_text import read_prompt
from training.judging.outcomes import names_of, score_of
from training.learning.batch import Row
from training.learning.deadline import Stop, never
from training.learning.fits import FitSettings, fit_sft, split_latest, unfinished, warm_start
from training.learning.learner import LearnerSettings
from training.models.base import Base
from training.models.chat import ChatFormat
from training.models.edits import dumps
from training.models.lora import save_weights
from training.models.roles import SIDES, VERDICTS, pair_messages, transcript, verdict_messages

Form = Literal["pointwise", "pairwise"]
MAX_REMEMBERED = 2048
MIN_LABELLED = 20
"""Fewest conversations with an outcome that a judge is fitted and measured on."""


class JudgeSettings(BaseModel):
    """How the judge is fitted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fit: FitSettings = Field(
        default_factory=lambda: FitSettings(
            learner=LearnerSettings(schedule="cosine", max_grad_norm=1.0),
            max_tokens=1_000_000,
            step_tokens=8192,
        ),
        description="The supervised fit. A row has one learned token, so it needs large steps.",
    )
    pair_share: float = Field(
        0.15,
        ge=0,
        le=1,
        description="Pairwise rows, as a share of the pointwise ones. 0: the pairwise form is not measured either.",
    )
    held_out_share: float = Field(0.15, gt=0, lt=1, description="Latest labelled conversations, to measure agreement.")
    max_tokens: int = Field(1024, ge=64, description="Longer transcripts are cut at the front.")
    outcome: str = Field("", description="Name of the evaluation that counts; empty: the last one, whatever its name.")
    success_from: float = Field(0.5, description="The least score of a success.")
    narrate: float = Field(0.0, ge=0, le=1, description="Share of rows that also train on the transcript's tokens.")


@dataclass(frozen=True)
class LocalJudge:
    """Scores transcripts with an adapter of an engine. It caches its latest verdicts: RULER judges a group in several
    orders, and a pointwise verdict is the same in each.
    """

    engine: Engine
    chat: ChatFormat
    adapter: str | None
    form: Form = "pointwise"
    max_tokens: int = 1024
    evidence: Evidence = Evidence()
    _known: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    def forget(self) -> None:
        """Clear the cached verdicts, so that later verdicts depend on later requests only, to the last digit."""
        self._known.clear()

    async def success(self, text: str) -> float:
        """Probability that a transcript's goal was reached."""
        if text not in self._known:
            prompt = verdict_prompt(self.chat, text, self.max_tokens)
            failed, succeeded = await self._weigh(prompt, VERDICTS)
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[text] = 1 / (1 + np.exp(failed - succeeded))
        return self._known[text]

    async def better(self, first: str, second: str) -> float:
        """Probability that the first transcript did better, averaged over both orders."""
        forward, backward = await asyncio.gather(self._first_wins(first, second), self._first_wins(second, first))
        return (forward + 1 - backward) / 2

    async def judge(self, group: Sequence[Sequence[Mapping[str, Any]]]) -> list[float]:
        """Scores in [0, 1] for the conversations of one group, corrected by the evidence."""
        scores = await self.scores([transcript(messages) for messages in group])
        return [self.evidence.weigh(score, messages) for score, messages in zip(scores, group, strict=True)]

    async def scores(self, texts: Sequence[str]) -> list[float]:
        """Scores in [0, 1] for the transcripts of one group, without the correction."""
        if self.form == "pointwise" or len(texts) < 2:
            return list(await asyncio.gather(*(self.success(t) for t in texts)))
        pairs = [(a, b) for a in range(len(texts)) for b in range(a)]
        wins = await asyncio.gather(*(self.better(texts[a], texts[b]) for a, b in pairs))
        totals = np.zeros(len(texts))
        for (a, b), win in zip(pairs, wins, strict=True):
            totals[a] += win
            totals[b] += 1 - win
        return (totals / (len(texts) - 1)).tolist()

    async def _first_wins(self, first: str, second: str) -> float:
        prompt = pair_prompt(self.chat, first, second, self.max_tokens)
        a, b = await self._weigh(prompt, SIDES)
        return 1 / (1 + np.exp(b - a))

    async def _weigh(self, prompt: Sequence[int], words: Sequence[str]) -> tuple[float, ...]:
        candidates = [self.chat.encode(w)[0] for w in words]
        return await self.engine.next_token_logprobs(prompt, candidates, adapter=self.adapter)


def verdict_prompt(chat: ChatFormat, text: str, max_tokens: int) -> list[int]:
    return chat.prompt(verdict_messages(_fitting(chat, text, max_tokens), chat.compact))


def pair_prompt(chat: ChatFormat, first: str, second: str, max_tokens: int) -> list[int]:
    half = max_tokens // 2
    return chat.prompt(pair_messages(_fitting(chat, first, half), _fitting(chat, second, half), chat.compact))


def _fitting(chat: ChatFormat, text: str, max_tokens: int) -> str:
    """The first line (the task, at most half) and the end of the transcript, cut to `max_tokens`. Long results of tools
    are shortened first."""
    if len(text) < max_tokens or len(chat.encode(text)) <= max_tokens:
        return text
    first, *rest = text.split("\n")
    task = chat.encode(first)
    if len(task) > max_tokens // 2:
        task = task[: max_tokens // 2]
        first = chat.decode(task)
    room, kept = max_tokens - len(task), []
    for line in reversed(rest):
        line = _shortened(chat, line, max_tokens // 8) if line.startswith("tool: ") else line
        room -= len(chat.encode(line)) + 1
        if room < 0:
            break
        kept.append(line)
    return "\n".join([first, *reversed(kept)])


def _shortened(chat: ChatFormat, line: str, most: int) -> str:
    ids = chat.encode(line)
    return line if len(ids) <= most else f"{chat.decode(ids[: most * 3 // 4])} ... {chat.decode(ids[-(most // 4) :])}"


# ----- the OpenAI chat API


def judge_app(judge: LocalJudge) -> Starlette:
    """An OpenAI-compatible `/v1/chat/completions` that answers RULER's requests."""

    async def complete(request: Request) -> JSONResponse:
        body = await request.json()
        prompt = "\n".join(str(m.get("content", "")) for m in body.get("messages", ()))
        labelled = read_prompt(prompt)
        if not labelled:
            error = {"message": "this judge answers RULER's requests only: no <trajectory id=...> found"}
            return JSONResponse({"error": error}, status_code=400)
        group = [messages for _, messages in labelled]
        scores = await judge.judge(group)
        answer = {
            "scores": [
                {"trajectory_id": label, "explanation": f"{judge.form} reading", "score": round(score, 6)}
                for (label, _), score in zip(labelled, scores, strict=True)
            ]
        }
        tokens = sum(len(judge.chat.encode(transcript(messages))) for messages in group)
        message = {"role": "assistant", "content": dumps(answer)}
        return JSONResponse(
            {
                "object": "chat.completion",
                "model": body.get("model", "judge"),
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
            }
        )

    return Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])


def in_process_client(judge: LocalJudge) -> httpx.AsyncClient:
    """An HTTP client that calls the judge in this process, without a socket."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=judge_app(judge)), base_url="http://judge/v1/")


# ----- fit


def labelled(conversations: Sequence[Conversation], settings: JudgeSettings) -> list[tuple[Conversation, bool]]:
    """The conversations with a known outcome, with whether they succeeded."""
    scored = [(conversation, score_of(conversation, settings.outcome)) for conversation in conversations]
    return [(conversation, score >= settings.success_from) for conversation, score in scored if score is not None]


def split_labelled(
    conversations: Sequence[Conversation], settings: JudgeSettings
) -> tuple[list[tuple[Conversation, bool]], list[tuple[Conversation, bool]]]:
    """The conversations with a known outcome (oldest first), as earlier and latest ones.

    The judge learns from the earlier ones and is measured on the latest. Raises UserError, with the counts, unless
    there are `MIN_LABELLED`, with successes and failures in both parts.
    """
    examples, held_out_share = labelled(conversations, settings), settings.held_out_share
    otherwise = "record gen_ai.evaluation.result for more conversations, or name a hosted judge (ruler.base_url)"
    if len(examples) < MIN_LABELLED:
        named = f" named {settings.outcome!r} (judge.outcome)" if settings.outcome else ""
        raise UserError(
            f"the judge needs at least {MIN_LABELLED} conversations with an outcome{named}, got {len(examples)} "
            f"({_counted(examples)}); {otherwise}"
        )
    earlier, latest = split_latest(examples, held_out_share)
    if any(len({s for _, s in part}) < 2 for part in (earlier, latest)):
        raise UserError(
            f"the judge needs successes and failures among the latest {held_out_share:.0%} of the conversations with "
            f"an outcome, on which it is measured, and among the earlier ones; got {_counted(latest)} among the latest "
            f"{len(latest)} and {_counted(earlier)} among the {len(earlier)} earlier; change judge.held_out_share, "
            f"{otherwise}"
        )
    return list(earlier), list(latest)


def _counted(examples: Sequence[tuple[Conversation, bool]]) -> str:
    good = sum(success for _, success in examples)
    return f"{good} successes, {len(examples) - good} failures"


def judge_rows(examples: Sequence[tuple[str, bool]], chat: ChatFormat, settings: JudgeSettings, seed: int) -> list[Row]:
    """A pointwise row per example, and pairs of a success and a failure in random order."""
    rng = random.Random(seed)
    rows = []
    for text, success in examples:
        prompt = verdict_prompt(chat, text, settings.max_tokens)
        rows.append(_answered(prompt, chat.encode(VERDICTS[success]), chat, rng.random() < settings.narrate))
    good, bad = [t for t, s in examples if s], [t for t, s in examples if not s]
    for _ in range(int(settings.pair_share * len(examples)) if good and bad else 0):
        pair, winner = (rng.choice(good), rng.choice(bad)), rng.randrange(2)
        prompt = pair_prompt(chat, pair[winner], pair[1 - winner], settings.max_tokens)
        rows.append(_answered(prompt, chat.encode(SIDES[winner]), chat))
    rng.shuffle(rows)
    return rows


def _answered(prompt: Sequence[int], answer: Sequence[int], chat: ChatFormat, narrate: bool = False) -> Row:
    told = [narrate and k > 8 for k in range(len(prompt))]
    return Row((*prompt, *answer, chat.stop_ids[0]), (*told, *[True] * len(answer), False))


def fit_judge(
    base: Base,
    conversations: Sequence[Conversation],
    out: Path,
    settings: JudgeSettings,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_progress: Callable[[float, dict[str, float]], None] = lambda done, metrics: None,
    stop: Stop = never,
    last: Path | None = None,
) -> dict[str, Any]:
    """Train the judge on conversations with outcomes (oldest first) and measure its agreement on the latest.

    Writes a peft directory and returns its manifest. `agreement` is the share of (success, failure) pairs that the
    chosen form orders correctly (the area under the ROC curve), with a 95 % bootstrap interval. The fit starts from the
    adapter `last` if it is given. Raises UserError if outcomes are missing or all equal.
    """
    earlier, latest = split_labelled(conversations, settings)
    train, held_out = ([(transcript(c.messages), s) for c, s in part] for part in (earlier, latest))
    rows = judge_rows(train, base.format, settings, seed)
    weights, config, history = fit_sft(
        base, rows, judge_rows(held_out, base.format, settings, seed)[:300], settings.fit, checkpoint, seed,
        warm_start(last, base, settings.fit.learner.lora), on_progress, stop,
    )  # fmt: skip
    engine = LocalEngine(base.model, base.format.pad_id)
    engine.publish_adapter("judge", weights, config)
    judge = LocalJudge(engine, base.format, "judge", max_tokens=settings.max_tokens)
    measured = asyncio.run(_agreements(judge, held_out, seed, pairs=200 if settings.pair_share else 0))
    good = sum(s for _, s in held_out)
    blank = Evidence(Grounding.of([c.messages for c in conversations], [c.messages for c, good in earlier if good]))
    evidence, corrected = asyncio.run(_corroborated(judge, blank, earlier, latest, seed))
    form = _better_form(measured, corrected)
    manifest = {
        "role": "judge",
        "base": base.name,
        "form": form,
        **measured[form],
        **(corrected if form == "pointwise" else {}),
        "forms": measured,
        "evidence": (evidence if form == "pointwise" else Evidence()).plain(),
        "labelled": len(earlier) + len(latest),
        "outcomes": names_of(conversations),
        "outcome": settings.outcome,
        "held_out": len(held_out),
        "pairs": good * (len(held_out) - good),
        "max_tokens": settings.max_tokens,
        "transcripts": len(train),
        "cut": sum(len(base.format.encode(text)) > settings.max_tokens for text, _ in train),
        "history": history,
        "partial": unfinished(history),
    }
    save_weights(weights, config, out, manifest)
    return manifest


def _better_form(measured: dict[str, dict[str, Any]], corrected: dict[str, Any]) -> Form:
    """Pairwise only if it is certainly better: its agreement is of a sample of pairs, and it has no evidence."""
    pairwise = measured.get("pairwise")
    return "pairwise" if pairwise is not None and pairwise["interval"][0] > corrected["agreement"] else "pointwise"


async def _agreements(
    judge: LocalJudge, examples: Sequence[tuple[str, bool]], seed: int, pairs: int
) -> dict[str, dict[str, Any]]:
    """Agreement of the forms: pointwise over all pairs, pairwise over a sample of `pairs` (0: not measured)."""
    good, bad = [t for t, s in examples if s], [t for t, s in examples if not s]
    up_scores = np.array(await asyncio.gather(*(judge.success(t) for t in good)))
    down_scores = np.array(await asyncio.gather(*(judge.success(t) for t in bad)))
    won = _won(up_scores, down_scores)
    accuracy = (np.sum(up_scores >= 0.5) + np.sum(down_scores < 0.5)) / len(examples)
    found: dict[str, dict[str, Any]] = {
        "pointwise": {"agreement": float(won.mean()), "interval": _interval(won, seed), "accuracy": float(accuracy)},
    }
    if pairs:
        rng = random.Random(seed)
        drawn = [(rng.choice(good), rng.choice(bad)) for _ in range(min(pairs, len(good) * len(bad)))]
        wins = np.array(await asyncio.gather(*(judge.better(a, b) for a, b in drawn)))
        found["pairwise"] = {
            "agreement": float((wins > 0.5).mean()), "interval": _interval((wins > 0.5)[:, None], seed)
        }  # fmt: skip
    return found


async def _corroborated(
    judge: LocalJudge,
    blank: Evidence,
    earlier: Sequence[tuple[Conversation, bool]],
    latest: Sequence[tuple[Conversation, bool]],
    seed: int,
) -> tuple[Evidence, dict[str, Any]]:
    """Fit the evidence on the latest conversations, and measure the agreement of judge and evidence with outcomes.

    Production's failures are extended by perturbed successes (counterfactual.py), because the evidence is for failures
    that production never showed. Two-fold: each half of the conversations is measured with weights from the other half.
    `exchanges_seen` is the share of successes that score higher than their perturbed version.
    """
    known = Counterfactuals([c.messages for c, _ in earlier], blank.grounding.claims)
    rng = random.Random(seed)
    others = [known.of(c.messages, rng) if success else None for c, success in latest]
    told = [c.messages for c, _ in latest]
    scores = await judge.scores([transcript(m) for m in told])
    doubts = iter(await judge.scores([transcript(other) for other in others if other is not None]))
    cases: list[list[tuple[float, Any, bool]]] = []
    for (_, success), messages, other, score in zip(latest, told, others, scores, strict=True):
        case = [(score, messages, success)]
        cases.append(case if other is None else [*case, (next(doubts), other, False)])
    final = blank.fitted([entry for case in cases for entry in case])
    halves = [blank.fitted([entry for case in cases[k::2] for entry in case]) for k in (1, 0)]
    weighed = [[halves[k % 2].weigh(score, m) for score, m, _ in case] for k, case in enumerate(cases)]
    up = np.array([scores[0] for scores, (_, success) in zip(weighed, latest, strict=True) if success])
    down = np.array([scores[0] for scores, (_, success) in zip(weighed, latest, strict=True) if not success])
    won = _won(up, down)
    seen = [scores[0] > scores[1] for scores in weighed if len(scores) > 1]
    found = {"agreement": float(won.mean()), "interval": _interval(won, seed)}
    return final, {**found, "exchanges_seen": float(np.mean(seen)) if seen else None}


def _won(up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """[successes, failures]: 1 if the success scores higher, 0.5 for equal scores."""
    return (up[:, None] > down) + 0.5 * (up[:, None] == down)


def _interval(won: np.ndarray, seed: int, draws: int = 1000) -> list[float]:
    """95 % bootstrap interval of a mean over rows and columns, each resampled independently."""
    rng = np.random.default_rng(seed)
    rows, columns = won.shape
    means = [won[rng.integers(rows, size=rows)][:, rng.integers(columns, size=columns)].mean() for _ in range(draws)]
    return [float(x) for x in np.percentile(means, (2.5, 97.5))]
