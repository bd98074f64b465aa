"""A prompt that rows share is run once, and nothing changes but the work."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from training_samples import stir, tiny_base

from training.learning.batch import Row
from training.learning.learner import Learner, LearnerSettings
from training.learning.losses import Sft
from training.learning.policy_losses import Cispo, Gspo
from training.learning.prefixes import MIN_SHARED, micro_batches, pack, prompt_of
from training.models.base import Base
from training.models.lora import LoraSettings
from training.tiny.passes import learning as passes


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


def member(prompt: tuple[int, ...], draw: random.Random) -> Row:
    """A turn of the agent, a reply that it did not write, and another turn."""
    own = tuple(draw.randrange(8, 300) for _ in range(draw.randrange(5, 20)))
    trained = (True, True, *(draw.random() < 0.6 for _ in own[3:]), True)
    logprobs = tuple(draw.uniform(-7.0, -5.0) for t in trained if t)
    return Row((*prompt, *own), (*[False] * len(prompt), *trained), draw.uniform(-1, 1), logprobs)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Two groups of one prompt each, one group of a short prompt, and one row that is alone."""
    draw = random.Random(2)
    prompts = [tuple(draw.randrange(8, 300) for _ in range(n)) for n in (100, 80, 20, 90)]
    found = [member(prompt, draw) for prompt, count in zip(prompts, (4, 3, 3, 1), strict=True) for _ in range(count)]
    draw.shuffle(found)
    return found


@pytest.fixture(scope="module")
def conversations() -> list[Row]:
    """Rows of one agent, whose tools they begin with, then differ; and two rows of another agent."""
    draw = random.Random(5)
    tools = [tuple(draw.randrange(8, 300) for _ in range(n)) for n in (90, 70)]
    asked = [(*tools[k % 5 == 4], *(draw.randrange(8, 300) for _ in range(draw.randrange(1, 9)))) for k in range(10)]
    return [member(prompt, draw) for prompt in asked]


def learner_of(base: Base, share: bool, micro_tokens: int = 8192, fused: bool = False) -> Learner:
    """A learner that never moves, on transformers' own pass or on the fused pass of wide bases."""
    shape = LearnerSettings(
        lora=LoraSettings(rank=4, alpha=8), learning_rate=1e-30, max_grad_norm=1e9, bf16=False, share_prompts=share,
        micro_tokens=micro_tokens,
    )  # fmt: skip
    learner = Learner(base, shape)
    if fused:
        assert learner._body is not None
        learner._body.wide = True
    else:
        learner._body = None
    learner.keep_reference()
    stir(learner)
    return learner


def gradient(learner: Learner, rows: list[Row], loss: Any) -> tuple[torch.Tensor, dict[str, float]]:
    metrics = learner.policy_step(rows, loss)
    return torch.cat([p.grad.flatten() for p in learner.parameters if p.grad is not None]), metrics


@pytest.mark.parametrize("loss", [Cispo(), Gspo(clip_low=0.5, clip_high=0.5)], ids=["cispo", "gspo"])
@pytest.mark.parametrize("micro_tokens", [8192, 150])
@pytest.mark.parametrize(
    ("fused", "flash_from"), [(False, 0), (True, 8), (True, 10_000)], ids=["transformers", "fused", "fused, plain"]
)
def test_gradients_and_figures_are_those_of_single_rows(
    base: Base, rows: list[Row], loss: Any, micro_tokens: int, fused: bool, flash_from: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(passes, "FLASH_FROM", flash_from)
    plain, told = gradient(learner_of(base, share=False), rows, loss)
    shared, also = gradient(learner_of(base, True, micro_tokens, fused), rows, loss)
    assert plain.norm() > 1e-4 and (plain - shared).norm() < 1e-5 * plain.norm()
    assert also == pytest.approx(told, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("fused", "micro_tokens"), [(False, 8192), (True, 8192), (True, 160)])
def test_conversations_that_begin_alike_have_the_gradients_of_single_rows(
    base: Base, conversations: list[Row], fused: bool, micro_tokens: int
) -> None:
    batches = [pack(batch) for batch in micro_batches(conversations, micro_tokens)]
    assert sum(batch is not None for batch in batches) >= 2 and (micro_tokens < 8192 or len(batches) == 2)
    plain, told = gradient(learner_of(base, share=False), conversations, Sft())
    learner = learner_of(base, True, micro_tokens, fused)
    shared, also = gradient(learner, conversations, Sft())
    assert plain.norm() > 1e-4 and (plain - shared).norm() < 1e-5 * plain.norm()
    assert also == pytest.approx(told, rel=1e-4, abs=1e-6)
    assert learner.evaluate(conversations) == pytest.approx(learner_of(base, False).evaluate(conversations), rel=1e-5)


def test_rows_that_share_only_a_small_part_are_run_one_by_one() -> None:
    draw = random.Random(6)
    start = tuple(draw.randrange(8, 300) for _ in range(70))
    long = [Row((*start, *(draw.randrange(8, 300) for _ in range(900)), 7), (*[False] * 970, True)) for _ in range(3)]
    assert pack(long) is None and micro_batches(long, 1000) == [[row] for row in long]


def test_every_row_is_run_once_and_shared_prompts_count_once(rows: list[Row]) -> None:
    batches = micro_batches(rows, 150)
    assert sorted(map(id, (row for batch in batches for row in batch))) == sorted(map(id, rows))
    packed = [(batch, found) for batch in batches if (found := pack(batch)) is not None]
    assert packed
    for batch, found in packed:
        shared = len(prompt_of(batch[0]))
        assert found.ids_BT.shape[1] == shared + sum(len(row.ids) - shared for row in batch) <= 150 + 20
        assert shared >= MIN_SHARED and found.advantages_N.shape[0] == sum(row.learned for row in batch)


def test_members_of_a_packed_row_do_not_attend_to_each_other(rows: list[Row]) -> None:
    family = [row for row in rows if len(prompt_of(row)) == 99]
    found = pack(family)
    assert len(family) == 4 and found is not None and found.layout is not None
    seen, at = found.layout.seen_B1TT[0, 0], 99
    for row in family:
        own = len(row.ids) - 99
        assert seen[at + own - 1].sum() == len(row.ids)  # the last token sees the prompt and all of its own
        assert not seen[at + own - 1, 99:at].any() and not seen[at, at + 1 :].any()
        at += own


def test_rows_that_share_too_little_are_not_packed(rows: list[Row]) -> None:
    assert pack(rows) is None and pack(rows[:1]) is None
    short = [row for row in rows if len(prompt_of(row)) < MIN_SHARED]
    assert len(short) == 3 and pack(short) is None


def test_the_tiny_base_keeps_its_own_pass(base: Base) -> None:
    assert not Learner(base, LearnerSettings())._shares
    assert learner_of(base, True)._shares and not learner_of(base, False)._shares
