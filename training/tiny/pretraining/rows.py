"""Training rows of all four roles from procedural conversations: token ids and a mask of the learned ones."""

from __future__ import annotations

import random
from typing import Any

from training.models.chat import ChatFormat
from training.models.edits import encode
from training.models.roles import (
    LEAVES,
    Seen,
    WorldPrompt,
    pair_messages,
    transcript,
    user_messages,
    verdict_messages,
    world_answer,
)
from training.tiny.pretraining.worlds.talk import Conversation, Talk

Row = tuple[list[int], list[bool]]
Call = tuple[str, dict[str, Any], str, str]
MIXTURE = {"policy": 0.44, "world": 0.28, "user": 0.12, "judge": 0.08, "pair": 0.08}
MAX_SEEN, RETRIEVED = 3, 3
"""Observations of this conversation and of others in one prompt, as in worldmodel.generate.context."""
RETRIEVED_TEXT = 900



def draw_row(rng: random.Random, chat: ChatFormat) -> tuple[str, Row]:
    """One row of a role drawn from MIXTURE, from a new world."""
    role = rng.choices(list(MIXTURE), list(MIXTURE.values()))[0]
    talking = Talk(rng)
    talk = talking.run()
    if role == "world" and talk.outcomes:
        others = [c for _ in range(rng.choice((0, 1, 1, 2))) for c in _calls(Talk(rng, talking.api).run())]
        return role, _world_row(rng, talk, others, chat)
    if role == "user":
        return role, _answered(_user_chat(rng, talk), chat)
    if role == "judge":
        messages = verdict_messages(transcript(talk.messages))
        return role, _answered([*messages, _assistant(str(int(talk.success)))], chat)
    if role == "pair":
        return role, _answered(_pair_chat(rng, talk), chat)
    shown = rng.random()  # the policy's prompts may lack the tools, and the system prompt
    messages = talk.messages if shown < 0.7 else talk.messages[1:]
    return "policy", chat.example(messages, talk.tools if shown < 0.6 else [])


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _answered(messages: list[dict[str, Any]], chat: ChatFormat) -> Row:
    """Only the last turn is learned."""
    prompt = chat.prompt(messages[:-1])
    ids, _ = chat.example(messages)
    return ids, [False] * len(prompt) + [True] * (len(ids) - len(prompt))


def _world_row(rng: random.Random, talk: Conversation, others: list[Call], chat: ChatFormat) -> Row:
    """One call as the world meets it. `others` are calls of other conversations with the same API."""
    calls = _calls(talk)
    knowable = [k for k in range(len(calls)) if _related(calls, k)]
    at = rng.choice(knowable) if knowable and rng.random() < 0.85 else rng.randrange(len(calls))
    tool, arguments, content, outcome = calls[at]
    related = [c for c in _related(calls, at) if c[3] == "ok"]
    seen = [Seen(c[0], c[1], c[2]) for c in related[::-1][:MAX_SEEN]]
    seen += [Seen(c[0], c[1], c[2], retrieved=True) for c in _alike(calls[at], others)]
    errors = sorted({c[3] for c in (*calls, *others)} - {"ok"})  # sorted first: the order of a set is not reproducible
    classes = ["ok", *rng.sample(errors, min(len(errors), 8))]
    if outcome not in classes:
        classes.append(outcome)
    own = [c for c in calls[:at] if c[:2] == calls[at][:2]]
    recent = calls[max(0, at - 4) : at] if rng.random() < 0.5 else own[-4:]
    trail = tuple((_brief(c), c[3]) for c in recent)
    prompt = WorldPrompt(tuple(seen), trail, tool, arguments, tuple(classes))
    edit = encode(content, [s.content for s in seen], cost=lambda text: len(chat.encode(text)))
    return _answered([*prompt.messages(), _assistant(world_answer(classes.index(outcome), edit))], chat)


def _alike(call: Call, others: list[Call]) -> list[Call]:
    """The calls of the same tool that fit into the prompt, those with the same arguments' names first."""
    found = sorted((c for c in others if c[0] == call[0]), key=lambda c: c[1].keys() != call[1].keys())
    kept = found[:1]
    for other in found[1:RETRIEVED]:
        if sum(len(c[2]) for c in (*kept, other)) > RETRIEVED_TEXT:
            break
        kept.append(other)
    return kept


def _brief(call: Call) -> str:
    """A call in the trail: its tool, and a lone number that it took."""
    values = list(call[1].values())
    lone = len(values) == 1 and isinstance(values[0], int | float) and not isinstance(values[0], bool)
    return f"{call[0]} {values[0]}" if lone else call[0]


def _related(calls: list[Call], at: int) -> list[Call]:
    """The earlier calls that share a value with this call's arguments: possible sources of the answer."""
    values = {str(v) for v in calls[at][1].values()}
    return [c for c in calls[:at] if values & {str(v) for v in c[1].values()} or any(v in c[2] for v in values)]


def _calls(talk: Conversation) -> list[Call]:
    """(tool, arguments, observation, outcome class) of every call, in order."""
    asked = [m["tool_calls"][0] for m in talk.messages if m.get("tool_calls")]
    answered = [m["content"] for m in talk.messages if m["role"] == "tool"]
    return [
        (call["name"], call["arguments"], content, outcome)
        for call, content, outcome in zip(asked, answered, talk.outcomes, strict=True)
    ]


def _user_chat(rng: random.Random, talk: Conversation) -> list[dict[str, Any]]:
    said = [
        ("user" if m["role"] == "user" else "agent", m["content"])
        for m in talk.messages
        if m["role"] in ("user", "assistant") and m["content"]
    ]
    goal = [text for speaker, text in said if speaker == "user"]
    turns = [k for k, (speaker, _) in enumerate(said) if speaker == "user" and k > 0]
    if turns and rng.random() < 0.75:
        at = rng.choice(turns)
        return [*user_messages(goal, said[:at]), _assistant(said[at][1])]
    return [*user_messages(goal, said), _assistant(LEAVES)]


def _pair_chat(rng: random.Random, talk: Conversation) -> list[dict[str, Any]]:
    other = Talk(rng).run()
    for _ in range(20):
        if other.success != talk.success:
            break
        other = Talk(rng).run()
    better = "A" if talk.success >= other.success else "B"
    messages = pair_messages(transcript(talk.messages), transcript(other.messages))
    return [*messages, _assistant(better)]
