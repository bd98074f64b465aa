"""RULER over recorded conversations without outcomes: groups of similar ones, and rewards relative to their group."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_judge_hosted import Endpoint
from training_samples import conversation

from dagster_project.loop import fits
from dagster_project.loop.settings import Settings
from ingest.errors import UserError
from ingest.records import Conversation
from training.judging.ruler import Ruler, RulerSettings
from training.judging.similar import SimilarSettings, judge_similar, similar_groups

TOPICS = ("please cancel order {}", "what is the weather in town {}")


def told(k: int, topic: int, agent: str = "a") -> Conversation:
    """A conversation whose last answer ends in its score, as the scripted judge reads it."""
    messages: list[Any] = [
        {"role": "user", "content": TOPICS[topic].format(1000 + k)},
        {"role": "assistant", "content": f"done, {10 * k}"},
    ]
    return replace(conversation(k, "red"), conversation_id=f"c{k}", agent=agent, messages=messages, outcomes=[])


def test_groups_hold_one_topic_and_one_agent() -> None:
    found = [told(k, k % 2, "a" if k < 8 else "b") for k in range(16)]
    groups, alone = similar_groups(found, SimilarSettings(group_size=4))
    assert len(groups) == 4 and alone == 0
    assert all(len({(c.agent, int(c.conversation_id[1:]) % 2) for c in group}) == 1 for group in groups)
    assert len({c.conversation_id for group in groups for c in group}) == 16


def test_conversations_without_neighbours_are_counted_and_latest_come_first() -> None:
    found = [*(told(k, 0) for k in range(5)), told(5, 1)]
    groups, alone = similar_groups(found, SimilarSettings(group_size=3, max_groups=1))
    assert alone == 1 and [c.conversation_id for c in groups[0]][0] == "c4"


def judged(endpoint: Endpoint, found: list[Conversation]) -> Any:
    client = httpx.AsyncClient(transport=endpoint, base_url="https://judge.test/v1/")
    ruler = Ruler(RulerSettings(retries=0), client, same_goal=False)
    return asyncio.run(judge_similar(ruler, found, SimilarSettings(group_size=3)))


def test_rewards_are_relative_to_the_group() -> None:
    endpoint = Endpoint()
    found = judged(endpoint, [told(k, 0) for k in range(3)])
    assert [c.conversation_id for c, _ in found.rewards] == ["c0", "c1", "c2"]
    assert [reward for _, reward in found.rewards] == pytest.approx([0.4, 0.5, 0.6])
    assert "had similar goals" in endpoint.prompts[0] and "the same goal" not in endpoint.prompts[0]


def test_a_group_without_a_valid_answer_is_counted_and_has_no_reward() -> None:
    broken = Endpoint(lambda request, number: httpx.Response(200, json={"choices": []}))
    found = judged(broken, [told(k, 0) for k in range(3)])
    assert found.counts() == {"scored": 0, "groups": 1, "without_neighbours": 0, "unscored": 3}


def test_the_loop_needs_an_endpoint_and_caches_its_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [told(k, 0) for k in range(6)]
    chosen: dict[str, Any] = {"offline": {"rewards": "ruler", "similar": {"group_size": 3}}}
    with pytest.raises(UserError, match="set ruler.base_url"):
        fits.judged_conversations(Settings(home=tmp_path, **chosen), found)
    endpoint = Endpoint()

    def client(base_url: str, settings: Any) -> httpx.AsyncClient:
        assert json.loads(settings.model_dump_json())["cache_dir"] == str(tmp_path / "judge-cache")
        return httpx.AsyncClient(transport=endpoint, base_url=base_url)

    monkeypatch.setattr(fits, "open_client", client)
    settings = Settings(home=tmp_path, ruler={"base_url": "https://judge.test/v1/"}, **chosen)
    assert fits.judged_conversations(settings, found).counts()["scored"] == 6
