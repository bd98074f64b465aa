"""RULER: an LLM judge scores the trajectories of a group relative to each other (OpenPipe ART, ruler.py).

Differences from the original (docs/training.md). Labels are random and opaque, and scores are mapped by label: a judge
that answers in rank order would otherwise permute the rewards. Members are shown in random orders, because judges have
a position bias. An answer with scores that are out of range, missing or doubled is a failed call. A trajectory without
a score is unscored, never zero. Text inside a trajectory is escaped, so that it cannot close its tag.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from training.judging.group_text import GroupText
from training.judging.hosted import HostedSettings, read_rubric
from training.learning.trajectory import Trajectory, seed_of
from training.models.edits import dumps

RUBRIC = """- A trajectory that reaches the user's goal scores significantly higher than one that does not.
- A trajectory that reaches it more directly scores higher than one that wanders.
- When trajectories differ little, their scores differ little.
- Partial progress earns partial credit; claiming what the tools did not confirm earns none."""

INSTRUCTIONS = """{goal} Tool replies may be simulated; judge the agent, not the replies. Each trajectory begins \
with the context, if there is one. {{"see": "r1"}} stands for the result r1 of the results.

Grading standards:
{rubric}

Answer with JSON only: {{"scores": [{{"trajectory_id": "...", "explanation": "...", "score": 0.0}}]}}, every id once."""

SAME_GOAL = (
    "All trajectories below were given the same goal. Score each between 0 and 1 for how well the agent reached it."
)
SIMILAR_GOALS = (
    "The users of all trajectories below had similar goals. Score each between 0 and 1 for how well the agent reached "
    "its own user's goal."
)


class RulerSettings(BaseModel):
    """The judge's endpoint and prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    base_url: str | None = Field(None, description="An OpenAI-compatible endpoint; null: the local judge adapter.")
    model: str = Field("judge", description="The endpoint's name of the model.")
    api_key: SecretStr | None = Field(
        None, exclude=True, description="Bearer token of the endpoint. It is never written to disk."
    )
    rubric: str = Field(RUBRIC, description="The grading standards.")
    rubrics: Path | None = Field(None, description="YAML file with a rubric per agent; overrides `rubric`.")
    hosted: HostedSettings = Field(HostedSettings(), description="Requests to an endpoint: limits, retries, cache.")
    orders: int | None = Field(
        None,
        ge=1,
        le=4,
        description="Orders in which a group is judged; null: 1 for an endpoint, whose tokens cost money, and 2 for "
        "the local judge. If two orders disagree, a third decides.",
    )
    unfinished: Literal["fails", "judged"] = Field(
        "fails",
        description="The score of an episode that a limit of turns or tokens ended: 0 (fails), or the judge's.",
    )
    retries: int = Field(2, ge=0, description="Further attempts after an invalid answer.")
    max_characters: int = Field(12_000, ge=200, description="Per trajectory; the middle is cut, errors are kept.")
    timeout_seconds: float = Field(120.0, gt=0, description="Timeout of one judge call.")

    @field_validator("base_url")
    @classmethod
    def _without_credentials(cls, url: str | None) -> str | None:
        """Refuse a URL with credentials, because the URL is written to manifests and reports."""
        if url is not None and ((parts := urlsplit(url)).query or "@" in parts.netloc):
            raise ValueError("the URL holds a user or a query, which may be a secret; give it as api_key")
        return url

    @property
    def rounds(self) -> int:
        """The number of orders in which a group is judged."""
        return self.orders or (1 if self.base_url else 2)

    def of_agent(self, agent: str) -> RulerSettings:
        """The settings with the agent's rubric from `rubrics`. Raises UserError for an invalid file."""
        found = read_rubric(self.rubrics, agent) if self.rubrics else None
        return self.model_copy(update={"rubric": found or self.rubric, "rubrics": None})


@dataclass
class Judgement:
    """A group's scores (None: unscored), the judge's reasons, and the costs.

    `disagreement` is the mean difference of a score between the orders. `positions`: for every valid answer and member,
    its position in the prompt (0 first, 1 last) and its score less the answer's mean.
    """

    scores: list[float | None]
    disagreement: float = 0.0
    calls: int = 0
    failed_calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    explanations: list[str] = field(default_factory=list)
    positions: list[tuple[float, float]] = field(default_factory=list)


class Ruler:
    """Scores groups through an OpenAI-compatible endpoint. `client` can be bound to an app in this process.

    `same_goal`: whether the members of a group have one goal, or only similar ones.
    """

    def __init__(self, settings: RulerSettings, client: httpx.AsyncClient, same_goal: bool = True) -> None:
        self.settings, self.client = settings, client
        self._instructions = INSTRUCTIONS.format(
            goal=SAME_GOAL if same_goal else SIMILAR_GOALS, rubric=settings.rubric
        )

    def _told(self, trajectory: Trajectory) -> list[dict[str, Any]]:
        """The episode for the judge. A hosted one always reads the system prompt."""
        messages, system = trajectory.messages, trajectory.start.system
        if not self.settings.base_url or not system or any(m["role"] == "system" for m in messages):
            return messages
        return [{"role": "system", "content": system}, *messages]

    async def judge(self, group: Sequence[Trajectory], seed: int = 0, planted: bool = False) -> Judgement:
        """Scores in the order of `group`. Verbatim duplicates are shown once and share their score, except if they are
        `planted` to measure the judge's noise.
        """
        began = time.monotonic()
        shown = [_shown(self._told(t), self.settings.max_characters) for t in group]
        texts = [dumps(messages) for messages in shown]
        first = {text: at for at, text in reversed(list(enumerate(texts)))}
        kept = list(range(len(texts))) if planted else sorted(first.values())
        which = list(range(len(texts))) if planted else [kept.index(first[text]) for text in texts]
        text = GroupText.of([shown[at] for at in kept])
        found = Judgement([])
        order = list(range(len(kept)))
        random.Random(seed).shuffle(order)
        rounds: list[list[float | None]] = []
        reasons = [""] * len(kept)
        for number in range(self.settings.rounds):
            turned = order if number % 2 == 0 else order[::-1]
            rounds.append(await self._round(group, text, turned, seed + number, found, reasons))
        if self.settings.rounds == 2 and _disagree(*rounds):
            random.Random(seed + 99).shuffle(order)
            rounds.append(await self._round(group, text, order, seed + 2, found, reasons))
        merged = [_mean(given) for given in zip(*rounds, strict=True)]
        found.scores = [merged[k] for k in which]
        found.explanations = [reasons[k] for k in which]
        if self.settings.unfinished == "fails" and not planted:
            self._fail_unfinished(group, found)
        spreads = [max(s) - min(s) for s in (_known(r) for r in zip(*rounds, strict=True)) if len(s) > 1]
        found.disagreement = statistics.fmean(spreads) if spreads else 0.0
        found.seconds = time.monotonic() - began
        return found

    @staticmethod
    def _fail_unfinished(group: Sequence[Trajectory], found: Judgement) -> None:
        """A judge that has only seen episodes that ended can like one that repeats a call until it is cut off."""
        for k, trajectory in enumerate(group):
            if trajectory.cut_off and found.scores[k] is not None:
                why = f"cut off at the limit of {trajectory.ended}"
                found.scores[k], found.explanations[k] = 0.0, f"{why}; {found.explanations[k]}".rstrip("; ")

    async def _round(
        self,
        group: Sequence[Trajectory],
        text: GroupText,
        order: list[int],
        seed: int,
        found: Judgement,
        reasons: list[str],
    ) -> list[float | None]:
        """One order's scores, by member of `text`; all None after `retries` invalid answers. The judge's
        explanations are written to `reasons`.
        """
        for attempt in range(self.settings.retries + 1):
            rng = random.Random(seed_of(seed, attempt))
            labels = [f"{rng.randrange(16**6):06x}" for _ in text.members]
            found.calls += 1
            try:
                answer = await self._ask(text.prompt(labels, order, group[0].start.tools), found)
                by_label = read_answer(answer, labels)
            except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError):
                # one judge call is a tolerated boundary: any invalid answer is counted and retried
                found.failed_calls += 1
                await asyncio.sleep(0)
                continue
            for k, label in enumerate(labels):
                reasons[k] = by_label[label][1] or reasons[k]
            mean = statistics.fmean(score for score, _ in by_label.values())
            found.positions += [
                (place / max(1, len(order) - 1), by_label[labels[k]][0] - mean) for place, k in enumerate(order)
            ]
            return [by_label[label][0] for label in labels]
        return [None] * len(text.members)

    async def _ask(self, shown: str, found: Judgement) -> str:
        request = {
            "model": self.settings.model,
            "messages": [
                {"role": "system", "content": self._instructions},
                {"role": "user", "content": shown},
            ],
            "response_format": {"type": "json_object"},
        }
        key = self.settings.api_key
        headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        reply = await self.client.post(
            "chat/completions", json=request, headers=headers, timeout=self.settings.timeout_seconds
        )
        reply.raise_for_status()
        value = reply.json()
        found.tokens += int((value.get("usage") or {}).get("total_tokens", 0))
        content = value["choices"][0]["message"]["content"]
        if not isinstance(content, str):
            raise ValueError(f"the judge's message has no text: {content!r}")
        return content


def read_answer(answer: str, labels: Sequence[str]) -> dict[str, tuple[float, str]]:
    """A judge's JSON as (score, explanation) by label.

    Raises ValueError unless every label occurs once with a score in [0, 1].
    """
    start, end = answer.find("{"), answer.rfind("}")
    value = json.loads(answer[start : end + 1])
    scores: dict[str, tuple[float, str]] = {}
    for entry in value["scores"]:
        label, score = str(entry["trajectory_id"]), entry["score"]
        if label in scores or label not in labels:
            raise ValueError(f"the judge named {label!r}, which is unknown or repeated")
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise ValueError(f"expected a score from 0 to 1, got {score!r}")
        reason = entry.get("explanation")
        scores[label] = (float(score), reason if isinstance(reason, str) else "")
    if len(scores) != len(labels):
        raise ValueError(f"the judge scored {len(scores)} of {len(labels)} trajectories")
    return scores


def _shown(messages: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The messages that fit: head and tail, then failed tool replies of the middle; then shortened messages."""
    kept = [{k: v for k, v in m.items() if k not in ("tool_call_id",)} for m in messages]
    for message in kept:
        if message.get("provenance") not in (None, "real"):
            message["simulated"] = True
        message.pop("provenance", None)
    while len(dumps(kept)) > most and len(kept) > 4:
        middle = sorted(range(2, len(kept) - 2), key=lambda k: abs(k - len(kept) // 2))
        kept.pop(next((k for k in middle if not kept[k].get("is_error")), middle[0]))
    while len(dumps(kept)) > most:
        longest = max(kept, key=lambda m: len(m.get("content") or ""))
        text = longest.get("content") or ""
        if len(text) <= 80:
            break  # only structure is left
        longest["content"] = f"{text[: len(text) // 4]} ... {text[-len(text) // 4 :]}"
    return kept


def _known(scores: Sequence[float | None]) -> list[float]:
    return [s for s in scores if s is not None]


def _mean(scores: Sequence[float | None]) -> float | None:
    known = _known(scores)
    return statistics.fmean(known) if known else None


def _disagree(first: Sequence[float | None], second: Sequence[float | None]) -> bool:
    """Kendall's tau below 0.6, or another winner. Ties count for neither side."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if len(pairs) < 2:
        return False
    agree = sum(
        ((a > c) - (a < c)) * ((b > d) - (b < d)) for k, (a, b) in enumerate(pairs) for c, d in pairs[k + 1 :]
    )
    compared = sum(a != c and b != d for k, (a, b) in enumerate(pairs) for c, d in pairs[k + 1 :])
    if not compared:
        return False
    best = [{k for k, pair in enumerate(pairs) if pair[side] == max(p[side] for p in pairs)} for side in (0, 1)]
    return agree / compared < 0.6 or best[0].isdisjoint(best[1])
