"""Episodes: token ids in, token ids out, marks and log-probabilities where the policy wrote, nothing dropped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from training_samples import Wall, conversations, start, tiny_base

from training.engines import Sample, Sampling
from training.engines.local import LocalEngine
from training.environment import Observation, Start, ToolCall
from training.learning.learner import Learner, LearnerSettings
from training.learning.policy_losses import Cispo
from training.learning.trajectory import Trajectory, seed_of
from training.models.base import Base
from training.models.chat import CompactFormat
from training.models.lora import LoraSettings
from training.policy.clone import policy_rows
from training.policy.rollout import Limits, gather, rollout

SHAPE = LearnerSettings(lora=LoraSettings(rank=4, alpha=8), learning_rate=3e-3, warmup_steps=0, bf16=False)


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


@pytest.fixture(scope="module")
def painter(base: Base) -> Learner:
    """A policy that mostly calls the tool well and still errs at times."""
    learner = Learner(base, SHAPE)
    rows = policy_rows(conversations(16), base.format, show_system=False)
    while learner.evaluate(rows) > 0.2:
        learner.sft_step(rows)
    return learner


@pytest.fixture(scope="module")
def lived(base: Base, painter: Learner) -> list[Trajectory]:
    engine = LocalEngine(base.model, base.format.pad_id, dtype=torch.float32)
    engine.publish_adapter("policy@0", *painter.weights())

    chat, limits = base.format, Limits(turns=4)

    def one(k: int) -> Any:
        return lambda: rollout(engine, chat, Wall(), start(k), adapter="policy@0", seed=k, limits=limits)

    found = asyncio.run(gather([one(k) for k in range(24)]))
    whole = [t for t in found if isinstance(t, Trajectory)]
    assert len(whole) == 24
    return whole


class Scripted:
    """An engine that says what it is told to, id by id, and remembers what it was asked."""

    def __init__(self, base: Base, turns: Sequence[Sequence[int]]) -> None:
        self.stop, self.turns = base.format.stop_ids, [tuple(t) for t in turns]
        self.asked: list[tuple[tuple[int, ...], Sampling]] = []

    async def sample(self, prompt_ids: Sequence[int], *, adapter: str | None, sampling: Sampling) -> Sample:
        ids = self.turns[len(self.asked)][: sampling.max_tokens]
        self.asked.append((tuple(prompt_ids), sampling))
        return Sample(ids, tuple(-0.5 - k for k in range(len(ids))), ids[-1] in self.stop, adapter)


def said(base: Base, text: str = "", *calls: str) -> list[int]:
    call_id = base.format.tokenizer.convert_tokens_to_ids("<|call|>")  # type: ignore[attr-defined]
    called = [i for call in calls for i in (call_id, *base.format.encode(call))]
    return [*base.format.encode(text), *called, *base.format.stop_ids]


def act(base: Base, turns: Sequence[Sequence[int]], episode: Any = None, **more: Any) -> tuple[Trajectory, Scripted]:
    engine = Scripted(base, turns)
    run = rollout(engine, base.format, episode or Wall(), start(), adapter="policy@3", **more)  # type: ignore[arg-type]
    return asyncio.run(run), engine


RED = 'paint {"colour":"red"}'

# ----- the ids


def replayed(base: Base, trajectory: Trajectory) -> tuple[list[int], list[bool]]:
    """Prompt, then for each turn what was sampled and what came back, cut out of the trajectory by its marks."""
    ids = base.format.prompt(trajectory.messages[:1], trajectory.start.tools)
    marks = [False] * len(ids)
    messages = trajectory.messages[1:]
    while messages:
        sampled = []
        while len(ids) < len(trajectory.ids) and trajectory.trained[len(ids)]:
            sampled.append(trajectory.ids[len(ids)])
            ids, marks = [*ids, sampled[-1]], [*marks, True]
        assert sampled, "a turn of the agent without ids"
        back = messages[1:]
        until = next((k for k, m in enumerate(back) if m["role"] == "assistant"), len(back))
        if back[:until]:
            new = base.format.extend(back[:until], stopped=sampled[-1] in base.format.stop_ids) or []
            ids, marks = [*ids, *new], [*marks, *[False] * len(new)]
        messages = back[until:]
    return ids, marks


def test_ids_are_prompt_samples_and_answers(base: Base, lived: list[Trajectory]) -> None:
    assert sum(t.ended == "left" for t in lived) > 12 and any(len(t.messages) > 4 for t in lived)
    for trajectory in lived:
        ids, marks = replayed(base, trajectory)
        assert ids == trajectory.ids and marks == trajectory.trained
        assert len(trajectory.logprobs) == sum(trajectory.trained)


def test_sampled_ids_are_never_tokenised_again(base: Base) -> None:
    letters = [base.format.encode(c)[0] for c in "done blue"]
    assert letters != base.format.encode("done blue")
    turn = [*letters, *base.format.stop_ids]
    trajectory, engine = act(base, [turn, turn], Wall(patience=2))
    assert trajectory.messages[1]["content"] == "done blue"
    first, second = (asked for asked, _ in engine.asked)
    assert second[: len(first) + len(turn)] == (*first, *turn)
    assert [i for i, t in zip(trajectory.ids, trajectory.trained, strict=True) if t] == turn + turn


def test_the_learner_reproduces_the_samplers_logprobs(
    base: Base, painter: Learner, lived: list[Trajectory]
) -> None:
    frozen = Learner(base, SHAPE.model_copy(update={"learning_rate": 1e-30}))
    frozen.restore(painter.state())
    found = frozen.policy_step([t.row(1.0) for t in lived], Cispo(kl_penalty=0.0))
    assert found["engine_kl"] < 1e-8 and found["clipped"] == 0
    assert found["tokens"] == sum(sum(t.trained) for t in lived)
    wrong = [t.row(1.0) for t in lived[1:]]
    stale = Learner(base, SHAPE.model_copy(update={"learning_rate": 1e-30}))  # not the policy that sampled
    assert stale.policy_step(wrong, Cispo(kl_penalty=0.0))["engine_kl"] > 0.01


def test_equal_seeds_give_equal_episodes_in_any_batch(
    base: Base, painter: Learner, lived: list[Trajectory]
) -> None:
    engine = LocalEngine(base.model, base.format.pad_id)
    engine.publish_adapter("policy@0", *painter.weights())
    alone = asyncio.run(
        rollout(engine, base.format, Wall(), start(5), adapter="policy@0", seed=5, limits=Limits(turns=4))
    )
    assert alone.ids == lived[5].ids and alone.messages == lived[5].messages
    assert len({tuple(t.ids) for t in lived[::4]}) > 1  # one wish, several seeds


def test_the_opening_is_the_user_s_unless_the_system_prompt_is_shown(base: Base) -> None:
    begun = Start("s", "You paint.", (), "paint the wall")
    for shown in (True, False):
        engine = Scripted(base, [said(base, "hello")])
        episode = Wall(patience=1)
        run = rollout(engine, base.format, episode, begun, adapter=None, show_system=shown)  # type: ignore[arg-type]
        found = asyncio.run(run)
        assert [m["role"] for m in found.messages] == ["system", "user", "assistant"][not shown :]
        assert found.ended == "left"


# ----- what the agent may get wrong


def test_a_malformed_call_is_answered_and_kept(base: Base) -> None:
    turns = [said(base, "", "paint {colour: red"), said(base, "", RED), said(base, "done red")]
    wall = Wall()
    trajectory, _ = act(base, turns, wall)
    assert trajectory.malformed == 1 and trajectory.ended == "left" and wall.painted == ["red"]
    refused = trajectory.messages[2]
    assert refused["role"] == "tool" and refused["is_error"]
    assert json.loads(refused["content"])["error"] == "malformed_call"
    assert "paint {colour: red" in trajectory.messages[1]["content"]  # as it was written, for the judge to see
    ids, marks = replayed(base, trajectory)
    assert ids == trajectory.ids and sum(marks) == sum(map(len, turns))
    assert len(trajectory.observations) == 1  # the environment never saw the malformed one


def test_several_calls_in_a_turn_are_answered_in_order_under_their_own_ids(base: Base) -> None:
    turns = [said(base, "at once", RED, 'sing {"song":"red"}', 'paint {"colour":"blue"}'), said(base, "done")]
    wall = Wall()
    trajectory, _ = act(base, turns, wall)
    calls = trajectory.messages[1]["tool_calls"]
    assert [c["name"] for c in calls] == ["paint", "sing", "paint"] and len({c["id"] for c in calls}) == 3
    assert [m["tool_call_id"] for m in trajectory.messages[2:5]] == [c["id"] for c in calls]
    assert [m["is_error"] for m in trajectory.messages[2:5]] == [False, True, False]
    assert wall.painted == ["red", "blue"]


# ----- limits


def test_a_truncated_turn_is_not_a_call(base: Base) -> None:
    long = said(base, "", RED)
    limits = Limits(turns=2, turn_tokens=len(long) - 1)
    wall = Wall()
    trajectory, engine = act(base, [long, said(base, "hi")], wall, limits=limits)
    assert engine.asked[0][1].max_tokens == len(long) - 1
    assert not wall.painted and trajectory.malformed == 1 and trajectory.ended == "turns"
    assert "cut off" in trajectory.messages[2]["content"]
    assert sum(trajectory.trained) == len(long) - 1 + len(said(base, "hi"))
    cut = trajectory.trained.index(True) + len(long) - 1  # closed before anything else follows, and not learned
    assert trajectory.ids[cut] == base.format.stop_ids[0] and not trajectory.trained[cut]


class Forgetful(CompactFormat):
    """Writes every earlier turn anew, as templates do that drop earlier reasoning."""

    def extend(self, *_: Any, **__: Any) -> None:  # type: ignore[override]
        return None


def test_a_template_that_rewrites_earlier_turns_starts_a_new_row(base: Base) -> None:
    chat = Forgetful(base.format.tokenizer, show_tools=False)  # type: ignore[attr-defined]
    turns = [said(base, "", RED), said(base, "done red")]
    engine = Scripted(base, turns)
    run = rollout(engine, chat, Wall(), start(), adapter=None)  # type: ignore[arg-type]
    trajectory = asyncio.run(run)
    rows = trajectory.rows(0.5)
    assert [[i for i, t in zip(r.ids, r.trained, strict=True) if t] for r in rows] == turns
    assert [r.ids[: -len(turn)] for r, turn in zip(rows, turns, strict=True)] == [asked for asked, _ in engine.asked]
    assert {r.advantage for r in rows} == {0.5} and trajectory.sampled_tokens() == sum(map(len, turns))
    assert [len(r.logprobs) for r in rows] == list(map(len, turns))
    with pytest.raises(ValueError, match="2 rows"):
        trajectory.row(1.0)


def test_episodes_end_at_their_turns_and_their_tokens(base: Base) -> None:
    turns = [said(base, "hi")] * 9
    trajectory, _ = act(base, turns, Wall(patience=99), limits=Limits(turns=3))
    assert trajectory.ended == "turns" and sum(m["role"] == "assistant" for m in trajectory.messages) == 3
    trajectory, engine = act(base, turns, Wall(patience=99), limits=Limits(turns=99, total_tokens=40))
    assert trajectory.ended == "tokens" and len(engine.asked) > 1
    for asked, sampling in engine.asked:
        assert len(asked) + sampling.max_tokens <= 40


def test_the_user_leaves_an_agent_that_only_talks(base: Base) -> None:
    trajectory, _ = act(base, [said(base, "hm")] * 3, Wall(patience=2))
    assert trajectory.ended == "left" and [m["content"] for m in trajectory.messages[2::2]] == ["please"]


# ----- what breaks


class Collapses(Wall):
    async def observe(self, call: ToolCall) -> Observation:
        raise OSError("the wall fell down")


def test_a_failed_rollout_is_returned_as_its_exception(base: Base) -> None:
    done: list[int] = []

    def one(wall: Wall) -> Any:
        engine = Scripted(base, [said(base, "", RED), said(base, "done red")])
        return lambda: rollout(engine, base.format, wall, start(), adapter=None)  # type: ignore[arg-type]

    found = asyncio.run(gather([one(Wall()), one(Collapses()), one(Wall())], at_once=2, on_done=done.append))
    assert [type(f) for f in found] == [Trajectory, OSError, Trajectory] and done == [1, 2, 3]


def test_concurrent_rollouts_are_limited() -> None:
    running, most = 0, 0

    async def one() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    asyncio.run(gather([one] * 20, at_once=3))
    assert most == 3


def test_provenance_is_counted(base: Base) -> None:
    turns = [said(base, "", RED, RED), said(base, "done")]
    trajectory, _ = act(base, turns, Wall(provenance="generated"))
    trajectory.observations.append(Observation("{}", provenance="replayed"))
    assert trajectory.provenance() == {"generated": 2, "replayed": 1}
    assert trajectory.invented() == pytest.approx(2 / 3)


def test_seeds_come_from_their_parts_alone() -> None:
    assert seed_of(1, "a") == seed_of("1", "a") != seed_of(1, "b") and 0 <= seed_of("x") < 2**63
    assert seed_of("ab", "c") != seed_of("a", "bc")
