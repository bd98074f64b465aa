"""Tokens that RULER's judge is sent, beside OpenPipe ART's prompt for the same groups.

    python -m benchmarks.ruler_tokens --lake LAKE [--tokenizer DIR]

A group is the conversations of a lake whose ids are equal up to the last `-` (several trials of one task). ART's
prompt is built as its `ruler.py` builds it: the common opening once, then each trajectory as `json.dumps` of its
messages in the OpenAI form, asked once. Ours is asked in `RulerSettings.rounds` orders, so both are printed: a call,
and a group.
Answers are not counted: both ask for one explanation and one score a trajectory and call.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from ingest.lake import Lake
from training.judging.group_text import GroupText
from training.judging.ruler import RulerSettings
from training.models.base import base_path

Messages = Sequence[Mapping[str, Any]]


def art_prompt(group: Sequence[Messages]) -> str:
    """The user message of ART's `ruler_score_group`."""
    lists = [[_openai(m) for m in messages] for messages in group]
    shared = 0
    for same in zip(*lists, strict=False):
        if any(m != same[0] for m in same):
            break
        shared += 1
    context = f"<context>\n{json.dumps(lists[0][:shared])}\n</context>\n\n" if shared else ""
    told = [f'<trajectory id="{k}">\n{json.dumps(m[shared:])}\n</trajectory>' for k, m in enumerate(lists, 1)]
    return f"{context}Trajectories:\n\n" + "\n\n".join(told)


def our_prompt(group: Sequence[Messages]) -> str:
    """The user message of `Ruler`, without tool definitions (ART sends none) and with nothing cut."""
    return GroupText.of(group).prompt([f"{k:06x}" for k in range(len(group))], range(len(group)))


def _openai(message: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message["role"], "content": message.get("content")}
    if message.get("tool_calls"):
        found["tool_calls"] = [
            {
                "id": call.get("id"),
                "type": "function",
                "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
            }
            for call in message["tool_calls"]
        ]
    return found | ({"tool_call_id": message.get("tool_call_id")} if message["role"] == "tool" else {})


def groups(lake: Path) -> list[list[Messages]]:
    """Conversations that share an id up to its last `-`, at least two each."""
    found: dict[str, list[Messages]] = defaultdict(list)
    for conversation in Lake.open(lake).conversations():
        found[conversation.conversation_id.rsplit("-", 1)[0]].append(conversation.messages)
    return [group for group in found.values() if len(group) > 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, required=True)
    parser.add_argument("--tokenizer", default="artifacts/smollm2", help="base model whose tokens are counted")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(base_path(options.tokenizer))
    found = groups(options.lake)
    art, ours = (sum(len(tokenizer.encode(of(g))) for g in found) for of in (art_prompt, our_prompt))
    print(f"{len(found)} groups of {sum(map(len, found)) / max(1, len(found)):.1f} trajectories")
    print(f"ART: {art:,} prompt tokens; ours: {ours:,} a call ({ours / art:.2f})")
    for judge, url in (("an endpoint", "https://judge.test"), ("the local judge", None)):
        orders = RulerSettings(base_url=url).rounds
        print(f"a group, {judge}, {orders} orders: {orders * ours:,} ({orders * ours / art:.2f})")


if __name__ == "__main__":
    main()
