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
from training.tiny.pretraining.talk import Conversation, Talk

Row = tuple[list[int], list[bool]]
Call = tuple[str, dict[str, Any], str, str]
MIXTURE = {"policy": 0.28, "world": 0.5, "user": 0.1, "judge": 0.07, "pair": 0.05}


def draw_row(rng: random.Random, chat: ChatFormat) -> tuple[str, Row]:
    """One row of a role drawn from MIXTURE, from a new world."""
    role = rng.choices(list(MIXTURE), list(MIXTURE.values()))[0]
    talk = Talk(rng).run()
    if role == "world" and talk.outcomes:
        return role, _world_row(rng, talk, chat)
    if role == "user":
        return role, _answered(_user_chat(rng, talk), chat)
    if role == "judge":
        messages = verdict_messages(transcript(talk.messages))
        return role, _answered([*messages, _assistant(str(int(talk.success)))], chat)
    if role == "pair":
        return role, _answered(_pair_chat(rng, talk), chat)
    tools = talk.tools if rng.random() < 0.7 else []
    return "policy", chat.example(talk.messages, tools)


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _answered(messages: list[dict[str, Any]], chat: ChatFormat) -> Row:
    """Only the last turn is learned."""
    prompt = chat.prompt(messages[:-1])
    ids, _ = chat.example(messages)
    return ids, [False] * len(prompt) + [True] * (len(ids) - len(prompt))


def _world_row(rng: random.Random, talk: Conversation, chat: ChatFormat) -> Row:
    calls = _calls(talk)
    knowable = [k for k in range(len(calls)) if _related(calls, k)]
    at = rng.choice(knowable) if knowable and rng.random() < 0.9 else rng.randrange(len(calls))
    tool, arguments, content, outcome = calls[at]
    related = _related(calls, at)
    others = [c for c in calls[:at] if c not in related]
    chosen = related[::-1][:3] + (others[-1:] if rng.random() < 0.5 else [])
    rng.shuffle(chosen)
    seen = tuple(Seen(c[0], c[1], c[2], retrieved=False) for c in chosen)
    later = [c for c in calls[at + 1 :] if c[0] == tool]
    if later and rng.random() < 0.5:
        c = rng.choice(later)
        seen = (*seen, Seen(c[0], c[1], c[2], retrieved=True))
    classes = ["ok", *sorted({c[3] for c in calls} - {"ok"}, key=lambda _: rng.random())]
    for extra in rng.sample(("timeout", "not_found", "conflict", "invalid_argument", "rate_limited"), 2):
        if extra not in classes:
            classes.append(extra)
    trail = tuple((c[0], c[3]) for c in calls[max(0, at - 4) : at])
    prompt = WorldPrompt(seen, trail, tool, arguments, tuple(classes))
    edit = encode(content, [s.content for s in seen], cost=lambda text: len(chat.encode(text)))
    return _answered([*prompt.messages(), _assistant(world_answer(classes.index(outcome), edit))], chat)


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
